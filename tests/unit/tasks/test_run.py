"""Whole runs of task files on this machine, by the command, with real processes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from hpc_dl.errors import UserError
from hpc_dl.gpus import VARIABLES, counted_after
from hpc_dl.spec.site_files import load_site, site_file
from hpc_dl.tasks.allocation import bound, nodes
from hpc_dl.tasks.executor import Agents, Lost, agent_command
from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.messages import Hello, Order
from hpc_dl.tasks.node_agent.environment import Environment
from hpc_dl.tasks.pool import Share
from hpc_dl.tasks.scheduler import TaskState
from hpc_dl.tasks.status import Status, follow
from hpc_dl.tasks.submit import Request, directives, script
from hpc_dl.templates import Renderer
from tests.unit.fakes.processes import Marker, children
from tests.unit.fakes.tasks import background, eventually, output, run, states, tasks


@pytest.fixture
def marker() -> Iterator[Marker]:
    one = Marker()
    yield one
    one.kill()


def test_the_whole_line_runs_in_a_shell(tmp_path: Path) -> None:
    text = """\
A=1 sh -c 'echo $A' && echo b | tr b c
[@ / @] pwd  # not in the folder of the runner
#@ name=third env.X='a b' cores=2
echo "$X $HPC_DL_TASK $HPC_DL_TASK_CORES [$CUDA_VISIBLE_DEVICES]"; echo err >&2
"""
    report = run(tmp_path, text, "--workers=2")
    assert states(report) == {1: "OK", 2: "OK", 4: "OK"}
    assert [output(tmp_path, n) for n in (1, 2, 4)] == ["1\nc\n", "/\n", "a b 4 0,1 []\nerr\n"]
    assert report["tasks"][2]["name"] == "third"
    assert not list(tmp_path.glob("*.rst"))


def test_closing_lines_are_those_of_greasy(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("true\nfalse\n[# 2 #] true\n[# 3 #] true\n[# 9 #] true\n")
    done = tasks(tmp_path, "run", "t.txt", "--no-strict")
    first, second, third = done.stdout.splitlines()[:3]
    assert first == "Summary of 5 tasks: 1 OK, 1 FAILED, 2 CANCELLED, 1 INVALID."
    assert re.fullmatch(r"Total time: \d\d:\d\d:\d\d", second)
    assert re.fullmatch(r"Resource Utilization: [\d.e-]+%", third)
    assert done.returncode == 1
    assert "Task 2 failed with exit code 1 on node" in done.stderr
    assert "Cancelling task 4 because of task 2 failure" in done.stderr


# What Greasy 2.2.3 itself makes of this file: "28 tasks: 14 OK, 2 FAILED, 3 CANCELLED, 9 INVALID".
EVERY_RULE = """\
# a comment keeps its number

true
  echo indented
[# 3 #] true
[#3-5#] true
[# 5 - 3 #] true
[# -1, 3 #] true
[##] true
[#  #] true
[@ / @] test "$(pwd)" = /
[# 3 #] [@ / @] test "$(pwd)" = /
[@ / @] [# 3 #] test "$(pwd)" = /
A=1 sh -c 'test $A = 1' && true | cat
true # not a command: [# 99 #]
[ 1 ] true
false
[# 17 #] true
[# 18 #] true
[# 3, 17 #] true
[# 2 #] true
[# 21 #] true
[# 22 #] true
[# 99 #] true
[# +1 #] true
[# 3->5 #] true
[# x #] true
[# 3 true
[# 3 #]
[@ $HOME @] test "$(pwd)" = "$HOME"
"""


def test_every_rule_of_the_format(tmp_path: Path) -> None:
    report = run(tmp_path, EVERY_RULE, "--no-strict")
    found: dict[str, list[int]] = {}
    for number, state in states(report).items():
        found.setdefault(state, []).append(number)
    assert found == {
        "OK": [*range(3, 16), 30],
        "FAILED": [16, 17],
        "CANCELLED": [18, 19, 20],
        "INVALID": [*range(21, 30)],
    }


def test_a_strict_run_of_an_invalid_file_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("touch ran\n[# 9 #] true\n#@ gpu=1\ntrue\n")
    done = tasks(tmp_path, "run", "t.txt")
    assert done.returncode == 2
    assert "t.txt, line 2: there is no task 9 before this one\n  [# 9 #] true\n     ^" in done.stderr
    assert "line 3: expected KEY=VALUE, found 'gpu=1' (did you mean 'gpus'?)" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_task_that_no_node_has_room_for_is_invalid(tmp_path: Path) -> None:
    text = "#@ gpus=99\ntouch ran\n[# 2 #] touch ran\ntrue\n#@ nodes=2\ntouch ran\n"
    assert states(run(tmp_path, text, "--no-strict")) == {2: "INVALID", 3: "INVALID", 4: "OK", 6: "INVALID"}
    done = tasks(tmp_path, "run", "t.txt")
    assert done.returncode == 2
    assert "line 2: wants 99 GPUs" in done.stderr
    assert "line 6: wants 2 nodes at once; this run has 1\n" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_greasys_settings_have_their_meaning(tmp_path: Path) -> None:
    (tmp_path / "greasy.conf").write_text("# comment\nStrictCheck=no\nMaxRetries=5 # x\nLogFile=log.txt\nNWorkers=3\n")
    text = "echo x >> tries; false\n[# 9 #] true\n"
    report = run(tmp_path, text, "--log-level=3", GREASY_MAXRETRIES="2")
    assert states(report) == {1: "FAILED", 2: "INVALID"}
    assert (report["cores"], (tmp_path / "tries").read_text().count("x")) == (3, 3)
    assert "Retry 2 of task 1" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("MaxRetry=1", "line 1: unknown key 'MaxRetry' (did you mean 'MaxRetries'?)"),
        ("MaxRetries=x", "line 1: MaxRetries=x: expected a number from 0 to"),
        ("StrictCheck=yess", "not known (did you mean 'yes'?); allowed: 'yes', 'no'"),
        ("BasicRemoteMethod=ssh", "ssh starts nothing here"),
        ("BasicRemoteMethod=srun", "this is no Slurm job"),
        ("NodeList=elsewhere", "NodeList: 'elsewhere' is no node of this run"),
        ("NodeList=localhost\nNWorkers=2", "NodeList has 1 entries for 2 workers"),
        ("nonsense", "line 1: expected KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "greasy.conf").write_text(line + "\n")
    (tmp_path / "t.txt").write_text("true\n")
    done = tasks(tmp_path, "run", "t.txt")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_node_list_gives_a_worker_for_each_entry(tmp_path: Path) -> None:
    assert run(tmp_path, "true\n", GREASY_NODELIST="localhost,localhost,localhost")["cores"] == 3


def test_a_time_limit_ends_the_task_and_all_that_it_started(tmp_path: Path, marker: Marker) -> None:
    text = f"#@ time=1s\n{marker.sleep} & trap '' TERM; wait; {marker.sleep}\ntrue & {marker.sleep} & true\n"
    report = run(tmp_path, text, "--grace=0.5")
    assert states(report) == {2: "FAILED", 3: "OK"}
    assert report["tasks"][0]["reason"] == "was ended after its time limit of 1 s"
    assert marker.gone()


_SAVES = (
    """sh -c 'trap "sleep 0.7; echo saved >> log; exit 0" TERM; touch up; while :; do sleep 0.05; done' && echo on"""
)


def test_what_a_task_has_started_has_the_grace_too_and_keeps_its_slots(tmp_path: Path) -> None:
    text = f"#@ time=1s\n{_SAVES}\n#@ time=1s\n{_SAVES} | cat\necho next >> log\n"
    report = run(tmp_path, text, "--workers=1")
    assert states(report) == {2: "FAILED", 4: "FAILED", 5: "OK"}
    assert (tmp_path / "log").read_text() == "saved\nsaved\nnext\n"
    (tmp_path / "up").unlink()
    (tmp_path / "t.txt").write_text(f"{_SAVES}\n")
    runner = background(tmp_path, "run", "t.txt")
    eventually((tmp_path / "up").exists)
    runner.terminate()
    runner.communicate(timeout=60)
    assert runner.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "log").read_text() == "saved\nsaved\nnext\nsaved\n"


def test_the_grace_of_what_a_task_has_started_is_no_longer_than_that_of_its_shell(tmp_path: Path) -> None:
    shell = "trap '' TERM; while :; do sleep 0.05; done"
    text = f'#@ time=1s\n{shell}\n#@ time=1s\nsh -c "{shell}" && true\n'
    alone, started = (row["seconds"] for row in run(tmp_path, text, "--grace=2", "--workers=2")["tasks"])
    assert alone >= 3
    assert abs(alone - started) < 2


# Each of them makes process groups of its own.
_OWN_GROUPS = [
    "timeout 1h sh -c 'touch up; sleep 300; :' {0} || echo bad",
    "set -m; sh -c 'touch up; sleep 300; :' {0}",
]


@pytest.mark.parametrize("command", _OWN_GROUPS)
@pytest.mark.parametrize("end", ["limit", "end", "signal", "kill runner", "kill agent"])
def test_no_process_group_outlives_its_task(tmp_path: Path, marker: Marker, command: str, end: str) -> None:
    text = command.format(marker.word)
    if end in ("limit", "end"):
        ends = f"({text}) & while ! test -e up; do sleep 0.05; done"
        report = run(tmp_path, f"#@ time=1s\n{text}\n" if end == "limit" else f"{ends}\n")
        assert set(states(report).values()) == {"FAILED" if end == "limit" else "OK"}
        assert marker.gone()
        return
    (tmp_path / "t.txt").write_text(f"{text}\n")
    runner = background(tmp_path, "run", "t.txt")
    eventually((tmp_path / "up").exists)
    if end == "signal":
        runner.send_signal(signal.SIGINT)
    else:
        (agent,) = children(runner.pid)
        os.kill(runner.pid if end == "kill runner" else agent, signal.SIGKILL)
    runner.communicate(timeout=60)
    eventually(marker.gone)


def test_an_agent_waits_for_the_orphans_that_it_adopts(tmp_path: Path) -> None:
    # The first leaves its session, so that it stays; the second looks at it.
    text = "setsid sh -c 'echo $$ > pid; sleep 1' & while ! test -s pid; do sleep 0.02; done\n"
    text += "[# 1 #] while test -e /proc/$(cat pid); do sleep 0.1; done\n"
    assert states(run(tmp_path, text)) == {1: "OK", 2: "OK"}


def test_a_time_limit_of_centuries_is_none(tmp_path: Path) -> None:
    assert states(run(tmp_path, "#@ time=999999999d\nsleep 0.2\n")) == {2: "OK"}


def test_a_signal_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    report = run(tmp_path, "kill -SEGV $$\n[@ /none @] true\n#@ retries=3\ntest -e f || { touch f; exit 3; }\n")
    first, second, third = report["tasks"]
    assert output(tmp_path, 2) == f"hpc-dl: {second['reason']}\n"
    assert (first["signal"], first["code"], first["reason"]) == (11, 139, "was killed by signal 11")
    assert second["reason"] == "could not start: /none: No such file or directory"
    assert (third["state"], third["attempts"]) == ("OK", 2)


def test_the_memory_of_a_task_is_told_if_it_is_more_than_that_of_its_agent(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(f"{sys.executable} -c 'bytearray(200 << 20)'\ntrue\n")
    # By a process of its own: the kernel counts what a process had before exec, and this one may be larger.
    out, error = background(tmp_path, "run", "t.txt", "--json", "--log-level=0").communicate(timeout=60)
    assert out, error
    big, small = json.loads(out)["tasks"]
    assert 200 <= big["memory"] < 300
    assert "memory" not in small


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_ends_the_tasks_and_writes_the_restart_file(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "t.txt").write_text(
        "true\n[# 1 #] trap 'touch told; exit 0' TERM; touch up; sleep 60 & wait\n[# 2 #] true\n"
    )
    runner = background(tmp_path, "run", "t.txt", "--json")
    eventually((tmp_path / "up").exists)
    runner.send_signal(number)
    report = json.loads(runner.communicate(timeout=60)[0])
    assert runner.returncode == 128 + number
    assert states(report) == {1: "OK", 2: "STOPPED", 3: "WAITING"}
    assert (tmp_path / "told").exists()
    text = (tmp_path / "t.txt-local.rst").read_text()
    assert "# Task 2: was running when the run was ended\ntrap" in text
    assert "# Task 3: did not start before the run was ended\n[# 5 #] true\n" in text


def test_two_runs_of_one_file_are_not_mixed_up(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("touch up; while ! test -e go; do sleep 0.05; done\n")
    first = background(tmp_path, "run", "t.txt")
    eventually((tmp_path / "up").exists)
    assert '"running": true' in tasks(tmp_path, "status", "t.txt", "--json").stdout
    second = tasks(tmp_path, "run", "t.txt")
    assert (second.returncode, "another run uses it now" in second.stderr) == (2, True)
    (tmp_path / "go").touch()
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert "Not running: 1 OK" in tasks(tmp_path, "status", "t.txt").stdout


def test_the_batch_script(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "it's.txt").write_text("true\n")
    words = ["submit", "it's.txt", "--site=minotauro", "--nodes=2", "--task-gpus=1", "--dry-run"]
    done = tasks(tmp_path, *words)
    text = done.stdout.replace(str(tmp_path), "/FOLDER").replace(sys.executable, "PYTHON")
    text = re.sub(r"(hpc_dl )[\d.]+|(# from template ).*", r"\1\2…", text)
    golden = Path(__file__).parents[2] / "golden" / "tasks" / "job.sh"
    if request.config.getoption("--renew-golden"):
        golden.write_text(text)
    assert text == golden.read_text(), "if this is wanted: pytest tests/unit --renew-golden"
    script = tmp_path / "job.sh"
    script.write_text(done.stdout)
    subprocess.run(["shellcheck", str(script)], check=True, env=os.environ | {"PATH": f"{Path(sys.executable).parent}"})


@pytest.mark.parametrize("name", ["a\nb", "a\udcff"])
def test_a_batch_script_of_odd_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    site = load_site(site_file("minotauro"))
    for request in (Request(1, name=name), Request(1, partition=name)):
        with pytest.raises(UserError, match=r"= 'a.*can't stand in a line of a script"):
            script(tmp_path / "t.txt", request, site, [])
    with pytest.raises(UserError, match="task file = "):
        script(tmp_path / name / "t.txt", Request(1), site, [])
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(UserError, match="current folder = "):
        script(tmp_path / "t.txt", Request(1), site, [])


NVIDIA = "export CUDA_VISIBLE_DEVICES={}\n"
AMD = (
    "export ROCR_VISIBLE_DEVICES={}\nunset HIP_VISIBLE_DEVICES\nunset CUDA_VISIBLE_DEVICES\nunset GPU_DEVICE_ORDINAL\n"
)


@pytest.mark.parametrize(("vendor", "lines"), [("nvidia", NVIDIA), ("amd", AMD), ("other", "")])
@pytest.mark.parametrize(("node", "said"), [("n1", ["1,2", "2,3"]), ("n2", ["4,5", ""]), ("n3", ["", ""])])
def test_a_rank_that_a_task_starts_by_srun_gets_what_the_task_has_on_its_node(
    tmp_path: Path, node: str, said: list[str], vendor: str, lines: str
) -> None:
    (tmp_path / "hosts").mkdir()
    shares = (Share("n1", (1, 2), ("2", "3")), Share("n2", (4, 5)))
    environment = Environment(tmp_path, {"SLURM_CPUS_ON_NODE": "3", "SLURM_NTASKS_PER_NODE": "1"}, step=True)
    environ = environment.of(Order(Task(7, "true"), 1, shares))
    assert (tmp_path / "hosts" / "task-7").read_text() == "n1\nn2\n" * 3
    assert environ[b"SLURM_HOSTFILE"] == bytes(tmp_path / "hosts" / "task-7")
    assert b"SLURM_NTASKS_PER_NODE" not in environ
    prolog = tmp_path / "prolog"
    values = {"gpu_variable": VARIABLES[vendor], "hiding": counted_after(vendor)}
    prolog.write_text(Renderer([]).render("prolog.sh.j2", values))
    subprocess.run(["shellcheck", str(prolog)], check=True, env=os.environ | {"PATH": f"{Path(sys.executable).parent}"})
    step = {"SLURMD_NODENAME": node, "SLURM_PROCID": "0", "SLURM_JOB_ID": "5", "SLURM_STEP_ID": "6"}
    rank = {name.decode(): value.decode() for name, value in environ.items()} | step
    done = subprocess.run(["/bin/sh", str(prolog)], env=rank, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (
        f"{lines.format(said[1])}export HPC_DL_TASK_CORES={said[0]}\nexport HPC_DL_TASK_GPUS={said[1]}\n",
        "",
    )
    assert (tmp_path / "hosts" / "steps-7").read_text() == "5.6\n"
    (tmp_path / "hosts" / "task-7").unlink()  # as at the end of the task
    assert subprocess.run(["/bin/sh", str(prolog)], env=rank, check=False, capture_output=True).returncode == 1
    # Our srun has put the file there for a step with a number of nodes.
    rank["HPC_DL_TASK_HOSTS"] = rank.pop("SLURM_HOSTFILE")
    assert subprocess.run(["/bin/sh", str(prolog)], env=rank, check=False, capture_output=True).returncode == 1


def test_a_job_without_room_for_a_task_is_not_submitted(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(
        "#@ gpus=5\ntrue\n#@ nodes=3 node=nvb1\ntrue\n#@ cores=17 memory=900T\ntrue\n#@ gpus=4\ntrue\n"
    )
    done = tasks(tmp_path, "submit", "t.txt", "--site=minotauro", "--nodes=2", "--dry-run")
    assert done.returncode == 2
    assert re.findall(r"line (\d): (wants .*)", done.stderr) == [
        ("2", "wants 5 GPUs; the most that a node has is 4"),
        ("4", "wants 3 nodes at once; this run has 2"),
        ("6", "wants 17 cores; the most that a node has is 16"),
    ]
    assert tasks(tmp_path, "submit", "t.txt", "--site=minotauro", "--no-strict", "--dry-run").returncode == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--cores=1000000000", "invalid value for '--cores': 1000000000 is not in the range 1<=x<=100000"),
        ("--nodes=100000000", "invalid value for '--nodes': 100000000 is not in the range 1<=x<=100000"),
        ("--gpus=1000000000", "invalid value for '--gpus': 1000000000 is not in the range 0<=x<=1000"),
    ],
)
def test_what_no_job_can_have_is_one_clear_error(tmp_path: Path, option: str, message: str) -> None:
    (tmp_path / "t.txt").write_text("true\n")
    done = tasks(tmp_path, "submit", "t.txt", f"--site={_plain_site(tmp_path)}", option, "--dry-run")
    assert (done.returncode, done.stderr) == (2, f"hpc-dl: error: {message}\n")


def test_the_largest_job_is_checked_at_once(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("#@ nodes=100000 cores=100000\ntrue\n")
    words = ["--nodes=100000", "--cores=100000", "--dry-run"]
    done = tasks(tmp_path, "submit", "t.txt", f"--site={_plain_site(tmp_path)}", *words)
    assert done.returncode == 0, done.stderr


class Screen(io.StringIO):
    """A terminal that lets the task that waits end once it has shown that it runs."""

    def __init__(self, go: Path) -> None:
        super().__init__()
        self._go = go

    def write(self, text: str) -> int:
        if "waits" in text:
            self._go.touch()
        return super().write(text)


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("true\n#@ name=waits\nwhile ! test -e go; do sleep 0.05; done\n[# 3 #] false\n")
    records = tmp_path / "t.txt-7.records"
    follower = background(tmp_path, "status", "t.txt", "--follow")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "Waiting for the run to begin\n"
    runner = background(tmp_path, "run", "t.txt", f"--records={records}")
    while (line := follower.stdout.readline()) != "Running: 1 WAITING, 1 RUNNING, 1 OK\n":
        assert line.startswith("Running: ")
    # The records that were written to last, on a terminal.
    status = Status(tmp_path / "t.txt")
    table, going_on = status.look()
    assert (going_on, table[1].state, table[1].name, table[1].node) == (True, TaskState.RUNNING, "waits", table[0].node)
    assert 0 <= table[1].seconds < 60
    screen = Screen(tmp_path / "go")
    follow(status, Console(file=screen, force_terminal=True, width=200))
    assert re.search(r"3 waits +" + table[0].node + r" +00:00:\d\d", screen.getvalue())
    assert "Not running: 2 OK, 1 FAILED" in screen.getvalue()
    said = follower.communicate(timeout=60)[0]
    assert said.splitlines()[-1] == "Not running: 2 OK, 1 FAILED"
    assert (follower.returncode, runner.wait(30)) == (0, 1)
    runner.communicate()


def test_tasks_do_not_outlive_their_agent(tmp_path: Path, marker: Marker) -> None:
    (tmp_path / "t.txt").write_text(f"touch up; {marker.sleep} & {marker.sleep}\n")
    runner = background(tmp_path, "run", "t.txt", "--json", "--log-level=1")
    eventually((tmp_path / "up").exists)
    (agent,) = children(runner.pid)
    os.kill(agent, signal.SIGKILL)
    said, log = runner.communicate(timeout=60)
    assert (runner.returncode, states(json.loads(said))) == (1, {1: "WAITING"})
    assert "is gone; tasks 1 start again elsewhere" in log
    eventually(marker.gone)


_HANGS_SOON = """
import hpc_dl.tasks.node_agent.agent as agent
agent._HANG_TIMEOUT = 3.0
agent.main()
"""


def test_an_agent_that_hangs_is_lost_with_its_tasks(tmp_path: Path, marker: Marker) -> None:
    (tmp_path / "output").mkdir()
    agents = Agents({"n": [sys.executable, "-c", _HANGS_SOON, str(tmp_path), "1.0", "n", "{}"]})
    agents.greet(60)
    agents.begin(60)
    agents.order("n", [Order(Task(1, f"sh -c 'sleep 300; :' {marker.word}"), 1, (Share("n", (0,)),))])
    eventually(marker.pids)
    assert agents.wait(4) == []  # nothing to do is no hang
    pid = agents._agents["n"].process.pid
    os.kill(pid, signal.SIGSTOP)
    assert agents.wait(30) == [Lost("n")]
    eventually(marker.gone)
    agents.close()
    assert not Path(f"/proc/{pid}").exists()


def test_what_tasks_have_left_in_sessions_of_their_own_ends_with_the_run(tmp_path: Path, marker: Marker) -> None:
    leaves = f"setsid sh -c 'setsid sleep 300 & touch up; wait' {marker.word} & while ! test -e up; do sleep 0.02; done"
    assert states(run(tmp_path, f"{leaves}\n")) == {1: "OK"}
    assert marker.gone()


def test_an_agent_binds_a_task_to_its_cores(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    core = min(os.sched_getaffinity(0))
    agents = Agents({"n": agent_command(tmp_path, 1.0, "n")})
    (hello,) = agents.greet(60)
    assert hello.cores == tuple(sorted(os.sched_getaffinity(0)))
    assert agents.begin(60) == {"n"}
    command = "grep Cpus_allowed_list /proc/self/status; echo [$CUDA_VISIBLE_DEVICES]"
    orders = [
        Order(Task(1, command), 1, (Share("n", (core,), ("2", "3")),), bind=True),
        Order(Task(2, command), 1, (Share("n", (7, 8)),)),
    ]
    agents.order("n", orders)
    ended = 0
    while ended < 2:
        ended += len(agents.wait(None))
    agents.close()
    bound, free = ((tmp_path / "output" / f"{number}.out").read_text().split() for number in (1, 2))
    assert bound[1:] == [str(core), "[2,3]"]
    assert (free[1] == bound[1], free[2]) == (len(hello.cores) == 1, "[]")


def test_per_node_files_start_all_lines_at_once(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(
        "touch a; while ! test -e b; do sleep 0.05; done\ntouch b; test -e a || sleep 1\n" * 4
    )
    runner = background(tmp_path, "all", "t.txt")
    runner.communicate(timeout=60)
    assert runner.returncode == 0


def test_more_orders_and_answers_than_a_pipe_holds(tmp_path: Path) -> None:
    report = run(tmp_path, "[@ /none @] true\n" * 2000, "--workers=1000")
    assert set(states(report).values()) == {"FAILED"}


def test_an_agent_that_is_gone_while_another_starts_is_dropped(tmp_path: Path) -> None:
    hello = 'echo \'{"type":"hello","node":"%s","cores":[0],"gpus":[],"memory":1}\''
    first = f"{hello % 'n1'}; echo $$ > {tmp_path}/first.new; mv {tmp_path}/first.new {tmp_path}/first"
    gone = f"test -e {tmp_path}/first && ! grep -q '^State:.[^Z]' /proc/$(cat {tmp_path}/first)/status"
    second = f"until {gone}; do sleep 0.05; done 2> {os.devnull}; {hello % 'n2'}; cat"
    agents = Agents({"n1": ["sh", "-c", first], "n2": ["sh", "-c", second]})
    try:
        assert [one.node for one in agents.greet(20)] == ["n2"]
    finally:
        agents.close()


def test_an_agent_that_was_dropped_has_ended_when_the_run_ends(tmp_path: Path) -> None:
    silent = f"echo $$ > {tmp_path}/pid; exec >&-; exec sleep 60"
    hello = 'echo \'{"type":"hello","node":"n2","cores":[0],"gpus":[],"memory":1}\'; exec cat'
    agents = Agents({"n1": ["sh", "-c", silent], "n2": ["sh", "-c", hello]})
    assert [one.node for one in agents.greet(20)] == ["n2"]
    agents.close()
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


@pytest.mark.parametrize(
    ("workers", "cores", "all_bound"), [(None, (3, 5, 7), True), (2, (3, 5), False), (4, (0, 1, 2, 3), False)]
)
def test_slots_are_cores_of_the_node_where_it_has_enough(
    workers: int | None, cores: tuple[int, ...], all_bound: bool
) -> None:
    hello = Hello("n", (3, 5, 7), (), 100)
    (node,) = nodes([hello], {"n": workers}, {})
    assert (node.cores, bound([hello], [node], {"SLURM_JOB_ID": "1"})) == (cores, frozenset({"n"} if all_bound else ()))


def test_a_node_is_bound_by_its_own_cores_and_not_by_those_of_another() -> None:
    hellos = [Hello("a", (0, 1), (), 100), Hello("b", (0, 1, 2), (), 100)]
    pool = nodes(hellos, {"a": 2, "b": 2}, {})
    assert bound(hellos, pool, {"SLURM_JOB_ID": "1"}) == {"a"}


def test_a_job_runs_whatever_the_modules_in_its_folder_are_called(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text('test $HPC_DL_TASK = 1 && test -z "${PYTHONSAFEPATH-}"\n')
    done = tasks(tmp_path, "submit", "t.txt", f"--site={_plain_site(tmp_path)}", "--dry-run")
    for name in ("random", "queue", "hpc_dl", "click"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(77)\n")
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    job = environ | {"SLURM_JOB_ID": "7"}
    ran = subprocess.run(["bash", "-c", done.stdout], cwd="/", env=job, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "1 OK" in ran.stdout


def _plain_site(folder: Path) -> Path:
    """Return a site without modules."""
    path = folder / "plain.toml"
    path.write_text('nodes = "n1"\ncores = 2\ngpus = 0\n')
    return path


@pytest.mark.parametrize(
    ("limit", "notice"), [("1", 12), ("0:30", 12), ("5", 60), ("1:00:00", 60), ("1-0", 60), ("0", 60)]
)
def test_a_short_job_is_not_told_to_end_before_it_starts(tmp_path: Path, limit: str, notice: int) -> None:
    site = load_site(_plain_site(tmp_path))
    assert directives(tmp_path / "t.txt", Request(1, time=limit), site)["signal"] == f"B:USR2@{notice}"


def test_a_time_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("true\n")
    done = tasks(tmp_path, "submit", "t.txt", "--site=minotauro", "--time=1h", "--dry-run")
    assert done.returncode == 2
    assert done.stderr == "hpc-dl: error: --time: time = '1h': expected minutes, HH:MM:SS or D-HH:MM:SS\n"
