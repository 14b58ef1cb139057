"""The launcher with real small processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.node.attempts import begin
from hpc_dl.node.monitoring import measured_by
from hpc_dl.node.outcome import report_failure
from hpc_dl.node.process import ProcessLine, parse_processes
from hpc_dl.runfolder.folder import Failure, RunFolder, to_toml
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import Placement, Process
from hpc_dl.spec.site import Site
from tests.unit.fakes.processes import Marker, children, eventually, names

# The real command, which looks at the run folder more often than it does on a shared disk.
_LAUNCH = """
import hpc_dl.node.launcher as launcher
launcher._POLL = 0.05
from hpc_dl.cli.main import main
main()
"""
_IGNORE = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
_FOREVER = "echo ready; exec sleep 300"


class Node:
    """A launcher on one "node", started in the background."""

    def __init__(self, run: RunFolder, name: str, words: Sequence[str], env: Mapping[str, str]) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, "launch", "--run", str(run.path), "--node", name, *words],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, seconds: float = 60) -> int:
        """Return the exit code, once it has ended."""
        self.output = self.popen.communicate(timeout=seconds)[0]
        return self.popen.returncode


class Job:
    """A run folder with a cluster spec, and launchers that share it."""

    def __init__(self, run: RunFolder, marker: Marker) -> None:
        self.run = run
        self.marker = marker
        self.nodes: list[Node] = []

    def spec(self, **addresses: int) -> Job:
        """Write the cluster spec: so many processes per role."""
        cluster = {role: [f"127.0.0.1:{20000 + i}" for i in range(count)] for role, count in addresses.items()}
        self.run.cluster.write_text(json.dumps(cluster))
        return self

    def start(self, *words: str, node: str = "n1", grace: float = 10, env: Mapping[str, str] | None = None) -> Node:
        """Start a launcher with these words on its command line."""
        self.nodes.append(Node(self.run, node, ["--grace", str(grace), *words], env or {}))
        return self.nodes[-1]

    def sh(self, **commands: str) -> list[str]:
        """Return the words of processes such as ``worker_0``, each a shell script that the marker can find."""
        words: list[str] = []
        for name, script in commands.items():
            words += [":::", name.replace("_", ":"), "sh", "-c", script, self.marker.word]
        return words

    def log(self, name: str) -> str:
        path = self.run.log_of(name)
        return path.read_text() if path.exists() else ""

    def ready(self, *names: str) -> None:
        """Wait until processes have said so in their logs."""
        eventually(lambda: all("ready" in self.log(name) for name in names))

    def failure(self) -> Failure:
        found = self.run.read_failure()
        assert found is not None
        return found


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    one = Job(RunFolder.create(tmp_path / "runs" / "job-L1"), Marker())
    yield one
    for node in one.nodes:
        node.popen.kill()
        node.popen.communicate()
    one.marker.kill()


def test_all_well_is_exit_code_0(job: Job) -> None:
    node = job.spec(worker=2).start(*job.sh(worker_0="echo one", worker_1="echo two >&2"))
    assert node.end() == 0
    assert (job.log("worker:0"), job.log("worker:1")) == ("one\n", "two\n")  # stdout and stderr
    assert job.run.read_failure() is None
    assert node.output == ""


def test_a_failure_is_named_and_ends_the_others_with_sigterm(job: Job) -> None:
    other = "trap 'echo got TERM; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    wait = f"until grep -qs ready {job.run.log_of('worker:1')}; do sleep 0.05; done; echo boom >&2; exit 3"
    node = job.spec(worker=2).start(*job.sh(worker_0=wait, worker_1=other), node="nvb7")
    assert node.end() == 3
    failure = job.failure()
    assert (failure.process, failure.node, failure.exit_code, failure.signal) == ("worker:0", "nvb7", 3, 0)
    assert failure.last_lines == ("boom",)
    assert abs(failure.time - time.time()) < 60
    assert "got TERM" in job.log("worker:1")
    assert "worker:0 on node nvb7 ended with exit code 3; its last lines:\n    boom" in node.output
    assert job.marker.gone()


def test_a_killed_worker_is_137_and_signal_9(job: Job) -> None:
    node = job.spec(worker=1).start(*job.sh(worker_0="kill -KILL $$"))
    assert node.end() == 137
    assert (job.failure().exit_code, job.failure().signal) == (137, 9)
    assert "was killed by signal 9; it said nothing" in node.output


def test_a_worker_that_ends_by_sigterm_alone_has_failed(job: Job) -> None:
    assert job.spec(worker=1).start(*job.sh(worker_0="kill -TERM $$")).end() == 143
    assert job.failure().signal == 15


def test_a_sigterm_that_reached_the_worker_first_is_no_failure(job: Job) -> None:
    node = job.spec(worker=1).start(*job.sh(worker_0=f"{_FOREVER}"))
    job.ready("worker:0")
    for pid in (child_of(node.popen.pid, job.marker), node.popen.pid):
        os.kill(pid, signal.SIGTERM)
    assert node.end() == 143
    assert job.run.read_failure() is None


def test_the_job_goes_on_without_the_guard(job: Job) -> None:
    node = job.spec(worker=2).start(
        *job.sh(worker_0=f"echo ready; until [ -e {job.run.path}/go ]; do sleep 0.02; done")
    )
    job.ready("worker:0")
    text = Path(f"/proc/{node.popen.pid}/task/{node.popen.pid}/children").read_text().split()
    (guard,) = {int(pid) for pid in text} - {child_of(node.popen.pid, job.marker)}
    os.kill(guard, signal.SIGKILL)
    (job.run.path / "go").touch()
    assert node.end() == 0


def child_of(parent: int, marker: Marker) -> int:
    """Return the only process that `parent` has started for a script."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (found,) = [int(pid) for pid in text if b"launch" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found


def test_who_ignores_sigterm_is_killed_after_the_grace(job: Job) -> None:
    wait = f"until grep -qs ready {job.run.log_of('worker:1')}; do sleep 0.05; done; exit 4"
    begin = time.monotonic()
    assert job.spec(worker=2).start(*job.sh(worker_0=wait, worker_1=_IGNORE), grace=1).end() == 4
    assert time.monotonic() - begin > 1
    assert job.marker.gone()
    assert job.failure().process == "worker:0"


def test_what_a_process_has_started_has_the_grace_too(job: Job) -> None:
    """A wrapper that SIGTERM ends at once does not take its program's last checkpoint with it."""
    program = "trap 'sleep 0.5; echo saved; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    node = job.spec(worker=1).start(*job.sh(worker_0=f'sh -c "{program}" "$0"; true'))
    job.ready("worker:0")
    node.popen.terminate()
    assert node.end() == 143
    assert "saved" in job.log("worker:0")


def test_a_ps_that_never_ends_is_ended_when_the_workers_of_all_nodes_are_done(job: Job) -> None:
    job.spec(ps=1, worker=2)
    first = job.start(*job.sh(ps_0=_FOREVER, worker_0="exit 0"), node="n1")
    eventually((job.run.done / "worker-0").exists)
    job.ready("ps:0")
    assert first.popen.poll() is None
    second = job.start(*job.sh(worker_1="exit 0"), node="n2")
    assert (second.end(), first.end()) == (0, 0)
    assert job.run.read_failure() is None
    assert job.marker.gone()


def test_a_ps_that_fails_once_the_workers_are_done_does_not_matter(job: Job) -> None:
    ps = f"until [ -e {job.run.done}/worker-0 ]; do sleep 0.02; done; exit 1"
    assert job.spec(ps=1, worker=1).start(*job.sh(ps_0=ps, worker_0="exit 0")).end() == 0
    assert job.run.read_failure() is None


def test_a_ps_that_fails_while_workers_train_is_the_cause(job: Job) -> None:
    node = job.spec(ps=1, worker=1).start(*job.sh(ps_0="echo no port; exit 5", worker_0=_FOREVER))
    assert node.end() == 5
    assert job.failure().process == "ps:0"


def test_workers_that_wait_for_a_chiefs_orders_end_after_the_chief(job: Job) -> None:
    job.spec(ps=1, chief=1, worker=2)
    serves = "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    there = job.start(*job.sh(worker_1=serves), node="n2")
    job.ready("worker:1")
    here = job.start(*job.sh(ps_0=_FOREVER, worker_0=_FOREVER, chief_0="exit 0"), node="n1")
    assert (here.end(), there.end()) == (0, 0)
    assert job.run.read_failure() is None
    assert "told" in job.log("worker:1")


def test_a_worker_that_loses_its_chief_at_the_end_is_no_failure(job: Job) -> None:
    job.spec(chief=1, worker=1)
    loses = f"until [ -e {job.run.done / 'chief-0'} ]; do sleep 0.02; done; exit 7"
    assert job.start(*job.sh(worker_0=loses, chief_0="exit 0")).end() == 0
    assert job.run.read_failure() is None


def test_the_chief_counts_among_the_workers(job: Job) -> None:
    job.spec(ps=1, chief=1, worker=1)
    go = job.run.path / "go"
    node = job.start(
        *job.sh(ps_0=_FOREVER, worker_0="exit 0", chief_0=f"until [ -e {go} ]; do sleep 0.02; done; echo done")
    )
    eventually((job.run.done / "worker-0").exists)
    go.touch()
    assert node.end() == 0
    assert job.log("chief:0") == "done\n"


def test_a_failure_on_another_node_ends_this_node(job: Job) -> None:
    job.spec(worker=2)
    here = job.start(*job.sh(worker_0=_FOREVER), node="n1")
    job.ready("worker:0")
    there = job.start(*job.sh(worker_1="echo why; exit 9"), node="n2")
    assert (there.end(), here.end()) == (9, 9)
    assert (job.failure().process, job.failure().node) == ("worker:1", "n2")


def test_only_the_first_failure_counts(job: Job) -> None:
    job.spec(worker=3)
    second = "trap 'exit 8' TERM; echo ready; while :; do sleep 0.05; done"
    here = job.start(*job.sh(worker_0=second, worker_1=second), node="n1")
    job.ready("worker:0", "worker:1")
    there = job.start(*job.sh(worker_2="exit 7"), node="n2")
    assert (there.end(), here.end()) == (7, 7)
    assert job.failure().process == "worker:2"


def test_sigterm_ends_all_with_143(job: Job) -> None:
    node = job.spec(ps=1, worker=2).start(*job.sh(ps_0=_FOREVER, worker_0=_FOREVER, worker_1=_FOREVER))
    job.ready("ps:0", "worker:0", "worker:1")
    node.popen.terminate()
    assert node.end() == 143
    assert job.run.read_failure() is None
    assert job.marker.gone()


def test_a_launcher_that_was_suspended_goes_on(job: Job) -> None:
    """As by ``scontrol suspend``, gang scheduling, or a laptop that sleeps."""
    node = job.spec(worker=1).start(
        *job.sh(worker_0=f"echo ready; until [ -e {job.run.path}/go ]; do sleep 0.02; done")
    )
    job.ready("worker:0")
    node.popen.send_signal(signal.SIGSTOP)
    time.sleep(0.5)  # longer than its wait for a signal
    node.popen.send_signal(signal.SIGCONT)
    time.sleep(0.2)
    (job.run.path / "go").touch()
    assert node.end() == 0


def test_a_launcher_that_is_killed_leaves_no_process(job: Job) -> None:
    job.spec(worker=2)
    node = job.start(
        *job.sh(
            worker_0=_IGNORE,
            worker_1=f"trap '' TERM; sh -c 'echo ready; sleep 300; :' {job.marker.word} & wait",
        )
    )
    job.ready("worker:0", "worker:1")
    assert len(job.marker.pids()) >= 4
    node.popen.kill()
    eventually(job.marker.gone)


@pytest.mark.parametrize("code", [0, 6])
def test_grandchildren_are_gone_when_their_parent_has_ended(job: Job, code: int) -> None:
    script = f"sh -c 'sleep 300; :' {job.marker.word} & exit {code}"
    assert job.spec(worker=1).start(*job.sh(worker_0=script), grace=5).end() == code
    eventually(job.marker.gone)


def test_what_has_a_session_of_its_own_ends_with_the_launcher(job: Job) -> None:
    script = f"setsid sh -c 'sleep 300; :' {job.marker.word} & setsid setsid sleep 1 & echo ready"
    assert job.spec(worker=1).start(*job.sh(worker_0=script)).end() == 0
    assert job.marker.gone()


@pytest.mark.parametrize("told", [True, False])
def test_a_process_group_of_its_own_ends_with_its_process(job: Job, told: bool) -> None:
    """timeout makes one, and so does a shell with job control."""
    script = f"timeout 1h sh -c 'echo ready; sleep 300; :' {job.marker.word} & "
    ends = f"until grep -qs ready {job.run.log_of('worker:0')}; do sleep 0.05; done"
    node = job.spec(worker=1).start(*job.sh(worker_0=script + ("wait" if told else ends)))
    job.ready("worker:0")
    if told:
        node.popen.terminate()
    assert node.end() == (143 if told else 0)
    assert job.marker.gone()


def test_a_command_that_is_not_there_is_127(job: Job) -> None:
    job.spec(worker=2)
    node = job.start(*job.sh(worker_0=_FOREVER), ":::", "worker:1", "no-such-program", "x")
    assert node.end() == 127
    assert job.failure().last_lines == ("no-such-program: No such file or directory",)
    assert "no-such-program: No such file or directory" in node.output
    assert job.marker.gone()


def test_a_command_that_may_not_run_is_126(job: Job, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")
    assert job.spec(worker=1).start(":::", "worker:0", str(tmp_path / "data")).end() == 126
    assert "Permission denied" in job.failure().last_lines[0]


_SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(), sys.stdin.read()]))"


def shown(job: Job, name: str = "worker:0") -> tuple[list[str], dict[str, str]]:
    """Return arguments and environment that a process has printed."""
    words, env, _, stdin = json.loads(job.log(name))
    assert stdin == ""
    return words, env


def test_tf_config_run_folder_and_classic_flags_arrive(job: Job) -> None:
    job.spec(ps=1, worker=2)
    program = [sys.executable, "-c", _SHOW]
    words = [":::", "ps:0", *program, ":::", "worker:0", *program, ":::", "worker:1", "A=1", *program, "--own"]
    assert job.start("--classic-flags", *words).end() == 0
    args, env = shown(job, "worker:1")
    cluster = {"ps": ["127.0.0.1:20000"], "worker": ["127.0.0.1:20000", "127.0.0.1:20001"]}
    assert json.loads(env["TF_CONFIG"]) == {"cluster": cluster, "task": {"type": "worker", "index": 1}}
    assert env["HPC_DL_RUN"] == str(job.run.path)
    assert env["A"] == "1"
    assert args == [
        "--own",
        "--ps_hosts=127.0.0.1:20000",
        "--worker_hosts=127.0.0.1:20000,127.0.0.1:20001",
        "--job_name=worker",
        "--task_index=1",
    ]
    assert "A" not in shown(job, "ps:0")[1]


HOSTILE = ["", " ", "a b", "'", '"', "$(touch x)", "`x`", "\\", "%j", "é✓", "--help", "-", "--", "a=b", ";", "\n", "~"]


def test_hostile_arguments_and_variables_arrive_as_they_are(job: Job) -> None:
    env = [f"V{i}={text}" for i, text in enumerate(HOSTILE)]
    words = [":::", "worker:0", *env, sys.executable, "-c", _SHOW, *HOSTILE]
    assert job.spec(worker=1).start(*words, env={"OUTER": "kept $HOME"}).end() == 0
    args, seen = shown(job)
    assert args == HOSTILE
    assert [seen[f"V{i}"] for i in range(len(HOSTILE))] == HOSTILE
    assert seen["OUTER"] == "kept $HOME"


@pytest.mark.parametrize("name", ["a b", "it's", 'q"q', "50%j", "$(x)", "é", "back\\slash", "-x"])
def test_hostile_run_folders_work(tmp_path: Path, name: str) -> None:
    one = Job(RunFolder.create(tmp_path / name / "job-L1"), Marker()).spec(worker=1)
    assert one.start(*one.sh(worker_0='echo "$HPC_DL_RUN"')).end() == 0
    assert one.log("worker:0") == f"{one.run.path}\n"


def test_fifty_processes(job: Job) -> None:
    scripts = {f"worker_{i}": f"echo {i}" for i in range(50)}
    assert job.spec(worker=50).start(*job.sh(**scripts)).end() == 0
    assert [job.log(f"worker:{i}") for i in range(50)] == [f"{i}\n" for i in range(50)]
    assert list(job.run.processes())[:3] == ["worker:0", "worker:1", "worker:2"]


def test_one_of_fifty_fails(job: Job) -> None:
    scripts = {f"worker_{i}": _FOREVER for i in range(50)} | {"worker_31": "sleep 0.2; exit 11"}
    assert job.spec(worker=50).start(*job.sh(**scripts)).end() == 11
    assert job.failure().process == "worker:31"
    assert job.marker.gone()


def test_the_log_of_a_second_run_is_appended(job: Job) -> None:
    job.spec(worker=1)
    for text in ("first", "second"):
        assert job.start(*job.sh(worker_0=f"echo {text}")).end() == 0
    assert job.log("worker:0") == "first\nsecond\n"


def test_a_failure_repeats_the_last_lines_alone_whatever_bytes_they_have(job: Job) -> None:
    script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; printf '\\377\\n\\n'; exit 2"
    assert job.spec(worker=1).start(*job.sh(worker_0=script)).end() == 2
    assert job.failure().last_lines == (*(f"line {i}" for i in range(4993, 5000)), "\ufffd")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["worker:0", "x"], "expected ':::' before each process"),
        ([":::"], "expected a process name such as 'worker:0'"),
        ([":::", "Worker:0", "x"], "found 'Worker:0'; expected a process name"),
        ([":::", "worker:0"], "process 'worker:0' has no command"),
        ([":::", "worker:0", "A=1"], "process 'worker:0' has no command"),
        ([":::", "worker:0", "x", ":::", ":::", "ps:0", "x"], "expected a process name"),
    ],
)
def test_a_malformed_line_is_one_error(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        parse_processes(words)


def test_the_last_lines_are_those_of_this_life(job: Job) -> None:
    job.spec(worker=1)
    job.run.logs.mkdir()
    job.run.log_of("worker:0").write_text("error: ps 0 does not answer\n")
    assert job.start(*job.sh(worker_0="kill -9 $$")).end() == 137
    assert job.failure().last_lines == ()


def test_a_launcher_that_can_not_go_on_says_so_and_all_may_start_again(job: Job) -> None:
    # Where its marker should go is a file now: that is no disk that comes back.
    script = 'touch "$HPC_DL_RUN/state/0/done"; sleep 0.2'
    job.run.state.mkdir(parents=True)
    assert job.spec(worker=1).start(*job.sh(worker_0=script)).end() != 0
    found = job.failure()
    assert (found.process, found.node, found.exit_code) == ("launcher", "n1", 75)
    assert found.last_lines[0].startswith("FileExistsError: ")


def test_another_separator_leaves_three_colons_to_the_arguments() -> None:
    (one,) = parse_processes(["::::", "worker:0", "x", ":::"], "::::")
    assert one.command == ("x", ":::")


_WORDS = st.text("ab1é✓ =:'\"$`\\\n-~*%").filter(lambda text: text != ":::")
_LINES = st.builds(
    lambda role, index, env, program, args: ProcessLine(role, index, env, (program, *args)),
    st.sampled_from(["ps", "chief", "worker"]),
    st.integers(0, 10**6),
    st.dictionaries(st.text("aB_", min_size=1), _WORDS, max_size=4),
    _WORDS.filter(lambda text: "=" not in text),  # as a shell, it takes NAME=VALUE for a setting
    st.lists(_WORDS, max_size=4),
)


@given(st.lists(_LINES, max_size=4))
def test_every_process_that_is_written_is_read_again(lines: list[ProcessLine]) -> None:
    words: list[str] = []
    for line in lines:
        words += [":::", line.name, *(f"{key}={value}" for key, value in line.env.items()), *line.command]
    assert parse_processes(words) == lines


def again(job: Job, mode: str = "async", restarts: int = 2) -> Job:
    """Let processes be started again, as in a job of the built-in program."""
    job.run.job_file.write_text(to_toml(JobSpec(mode=mode, restarts=restarts)))
    return job


_DIES_ONCE = "if [ -e {flag} ]; then echo second life; else touch {flag}; kill -9 $$; fi"


def test_a_killed_worker_starts_again_while_the_others_go_on(job: Job, tmp_path: Path) -> None:
    dies = _DIES_ONCE.format(flag=tmp_path / "flag")
    waits = f"until grep -qs second {job.run.log_of('worker:1')}; do sleep 0.05; done; echo undisturbed"
    node = again(job).spec(worker=2).start(*job.sh(worker_0=waits, worker_1=dies))
    assert node.end() == 0
    assert job.log("worker:0") == "undisturbed\n"
    assert job.log("worker:1") == "second life\n"
    assert "worker:1 on node n1 was killed by signal 9" in node.output
    assert "hpc-dl: worker:1 started again, 1 of 2 times" in node.output
    assert job.run.read_failure() is None


def test_a_worker_that_dies_again_and_again_is_given_up(job: Job) -> None:
    waits = f"until [ -e {job.run.lost}/worker-1 ]; do sleep 0.05; done"
    node = again(job, restarts=1).spec(worker=2).start(*job.sh(worker_0=waits, worker_1="echo life; kill -9 $$"))
    assert node.end() == 0
    assert job.log("worker:1") == "life\nlife\n"
    assert "hpc-dl: worker:1 given up, the training goes on without it" in node.output


def test_a_chief_that_dies_again_and_again_is_the_failure(job: Job) -> None:
    node = again(job, restarts=1).spec(worker=2).start(*job.sh(worker_0="exit 75", worker_1=_FOREVER))
    assert node.end() == 75
    assert (job.failure().process, job.failure().exit_code) == ("worker:0", 75)


@pytest.mark.parametrize("code", [1, 2])
def test_an_error_that_would_come_again_is_no_reason_to_start_again(job: Job, code: int) -> None:
    node = again(job).spec(worker=2).start(*job.sh(worker_0=_FOREVER, worker_1=f"exit {code}"))
    assert node.end() == code
    assert "started again" not in node.output


def test_who_dies_of_a_failure_elsewhere_is_not_started_again(job: Job) -> None:
    report = f"touch {job.run.path}/dies; until [ -e {job.run.failure} ]; do sleep 0.02; done; kill -9 $$"
    node = again(job).spec(worker=2).start(*job.sh(worker_1=report))
    eventually(lambda: (job.run.path / "dies").exists())
    report_failure(job.run, Failure("ps:0", "n2", 137, 9))
    assert node.end() == 137
    assert "started again" not in node.output


def test_a_later_attempt_ends_the_processes_of_an_earlier_one_at_once(job: Job) -> None:
    begin(job.run)
    words = ["--attempt", "0", *job.spec(worker=1).sh(worker_0=_IGNORE)]
    node = job.start(*words, grace=300)
    job.ready("worker:0")
    begin(job.run)
    assert node.end() == 75
    assert node.output == "hpc-dl: attempt 0 of this job is over: a later one has begun\n"
    assert job.marker.gone()
    assert names(job.run.state) == ["stop"]  # nothing of it is in the later one's
    assert not job.run.told_to_end()


def test_the_job_script_can_tell_all_launchers_to_end(job: Job) -> None:
    begin(job.run)
    nodes = [
        job.spec(worker=2).start(*job.sh(**{f"worker_{i}": "trap 'echo saved; exit 143' TERM; echo ready; "
                                            "while :; do sleep 0.05; done"}), node=f"n{i}")
        for i in range(2)
    ]  # fmt: skip
    job.ready("worker:0", "worker:1")
    job.run.stop.write_bytes(b"")
    assert [node.end() for node in nodes] == [143, 143]
    assert all("saved" in job.log(f"worker:{i}") for i in range(2))
    assert job.run.read_failure() is None


def test_a_launcher_that_is_told_to_end_tells_the_others(job: Job) -> None:
    """All-reduce processes end together, also where only one node's launcher had the signal."""
    begin(job.run)
    saves = "trap 'exit 143' TERM; echo ready; while [ -s {stop} ]; do sleep 0.05; done; exit 143"
    script = saves.format(stop=job.run.stop)
    job.spec(worker=2)
    nodes = [job.start(*job.sh(**{f"worker_{i}": script}), node=f"n{i}") for i in range(2)]
    job.ready("worker:0", "worker:1")
    nodes[1].popen.terminate()
    assert [node.end() for node in nodes] == [143, 143]
    assert job.run.read_failure() is None


def test_processes_know_their_attempt(job: Job) -> None:
    begin(job.run)
    begin(job.run)
    node = job.spec(worker=1).start(*job.sh(worker_0="echo $HPC_DL_ATTEMPT"))
    assert node.end() == 0
    assert job.log("worker:0") == "1\n"


_HANG = 3.0  # seconds after which a process of these tests counts as hung
_BEAT = "printf . >/proc/self/fd/${HPC_DL_HEARTBEAT%%:*}"
_LIVES = f"echo ready; until [ -e $HPC_DL_RUN/go ]; do {_BEAT}; sleep 0.1; done"


def hanging(job: Job, **settings: Any) -> Job:
    """Let processes that give no sign of life be killed."""
    spec = JobSpec(**{"mode": "async", "restarts": 2, "hang_timeout": _HANG, **settings})
    job.run.job_file.write_text(to_toml(spec))
    return job


def test_a_worker_that_hangs_is_killed_and_starts_again_while_the_others_go_on(job: Job, tmp_path: Path) -> None:
    hangs = f"if mkdir {tmp_path}/first; then {_BEAT}; kill -STOP $$; fi; {_LIVES}"
    node = hanging(job).spec(worker=2).start(*job.sh(worker_0=_LIVES, worker_1=hangs))
    job.ready("worker:0", "worker:1")
    (job.run.path / "go").touch()
    assert node.end() == 0
    assert f"worker:1 on node n1 hung, and was killed: no sign of life for {_HANG:g} s; it said nothing" in node.output
    assert "hpc-dl: worker:1 started again, 1 of 2 times" in node.output
    assert job.log("worker:0") == "ready\n"
    assert job.run.read_failure() is None


def test_a_ps_that_hangs_is_the_failure(job: Job) -> None:
    node = hanging(job).spec(ps=1, worker=1).start(*job.sh(ps_0=f"{_BEAT}; kill -STOP $$", worker_0=_FOREVER))
    assert node.end() == 137
    assert (job.failure().process, job.failure().hung) == ("ps:0", f"no sign of life for {_HANG:g} s")
    assert job.marker.gone()


def test_a_process_whose_signs_of_life_can_not_come_is_left_alone(job: Job) -> None:
    """As in a container that does not pass the pipe on."""
    node = hanging(job, hang_timeout=1).spec(worker=1).start(*job.sh(worker_0="sleep 4"))
    assert node.end() == 0


def test_an_own_script_that_writes_nothing_into_its_log_hangs_if_the_user_says_so(job: Job) -> None:
    talks = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 1; done; sleep 300"
    node = hanging(job, script="x.sh", restarts=0).spec(ps=1, worker=1).start(*job.sh(ps_0=_FOREVER, worker_0=talks))
    assert node.end() == 137
    assert (job.failure().process, job.failure().last_lines[-1]) == ("worker:0", "8")


def test_a_launcher_that_hangs_is_killed_with_its_processes(job: Job) -> None:
    job.spec(worker=2)
    hangs, other = (hanging(job).start(*job.sh(**{f"worker_{i}": _LIVES}), node=f"n{i}") for i in range(2))
    job.ready("worker:0", "worker:1")
    hangs.popen.send_signal(signal.SIGSTOP)
    assert (hangs.end(), other.end()) == (-9, 75)
    assert job.failure() == Failure("launcher", "n0", 75, 0, job.failure().time, (), f"no sign of life for {_HANG:g} s")
    eventually(job.marker.gone)


def test_a_job_that_is_suspended_as_a_whole_does_not_hang(job: Job) -> None:
    node = hanging(job).spec(worker=1).start(*job.sh(worker_0=_LIVES))
    job.ready("worker:0")
    children = Path(f"/proc/{node.popen.pid}/task/{node.popen.pid}/children").read_text()
    all_of_it = [node.popen.pid, *map(int, children.split())]
    for pid in all_of_it:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(_HANG + 2)
    for pid in all_of_it:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
    (job.run.path / "go").touch()
    assert node.end() == 0
    assert node.output == ""


# A disk in a mount namespace of its own, on which the worker leaves no file to be made before it ends.
_FULL_DISK = """
mount -t tmpfs -o size=1m,nr_inodes=20 tmpfs "$1" || exit
mkdir -p "$1/job-L1/logs"
echo '{"worker": ["h:1"]}' > "$1/job-L1/cluster.json"
"$2" -c "$3" launch --run "$1/job-L1" --node n1 ::: worker:0 sh -c 'while touch "$0/f$i"; do i=$((i + 1)); done' "$1" &
until [ "$(df --output=iavail "$1" | tail -n 1)" -eq 0 ]; do sleep 0.05; done
sleep 1
kill -0 $! || exit  # it has not given up
rm "$1"/f*
wait $! && ls "$1/job-L1/state/0/done"
"""


def test_a_full_disk_delays_the_marker_of_a_worker_that_is_done(tmp_path: Path) -> None:
    unshare = ["unshare", *(() if os.getuid() == 0 else ("--user", "--map-root-user")), "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("this machine lets nobody make a mount namespace")
    command = [*unshare, "bash", "-c", _FULL_DISK, "bash", str(tmp_path), sys.executable, _LAUNCH]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "worker-0\n"), done.stderr


def test_an_address_that_does_not_resolve_is_the_jobs_failure(job: Job) -> None:
    job.run.cluster.write_text('{"ps": ["127.0.0.1:2220"], "worker": ["n1-ib.invalid:2221"]}')
    node = job.start(*job.sh(ps_0=_FOREVER, worker_0=_FOREVER))
    assert node.end() == 2
    failure = job.run.read_failure()
    assert failure is not None
    assert (failure.process, failure.node, failure.exit_code) == ("launcher", "n1", 2)
    assert "the address 'n1-ib.invalid' of this node does not resolve" in failure.last_lines[0]
    assert "interconnect_suffix" in node.output


def test_a_process_that_is_alone_needs_no_address(job: Job) -> None:
    job.run.cluster.write_text('{"worker": ["n1-ib.invalid:2221"]}')
    assert job.start(*job.sh(worker_0="exit 0")).end() == 0


@pytest.mark.parametrize("fake", [False, True])
def test_processes_know_whether_the_gpus_of_their_site_are_fake(job: Job, fake: bool) -> None:
    job.run.site_file.write_text(to_toml(Site(name="x", cores=1, gpus=1, fake_gpus=fake)))
    node = job.spec(worker=1).start(*job.sh(worker_0="echo ${HPC_DL_FAKE_GPUS:-real}"))
    assert node.end() == 0
    assert job.log("worker:0") == ("1\n" if fake else "real\n")


def test_the_monitor_of_a_node_ends_with_its_launcher(job: Job) -> None:
    job.run.job_file.write_text(to_toml(JobSpec(monitor=0.05)))
    node = job.spec(worker=1).start(*job.sh(worker_0=_FOREVER), node="n1")
    lines = job.run.monitor / "n1.jsonl"
    eventually(lambda: lines.exists() and b'"worker:0":{"cpu":' in lines.read_bytes())
    monitors = [pid for pid in children(node.popen.pid) if b"hpc_dl.monitor" in command_line(pid)]
    assert len(monitors) == 1
    node.popen.kill()
    eventually(lambda: not command_line(monitors[0]))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_job_without_monitor_starts_none(job: Job) -> None:
    job.run.job_file.write_text(to_toml(JobSpec(monitor=0)))
    assert job.spec(worker=1).start(*job.sh(worker_0="exit 0")).end() == 0
    assert not job.run.monitor.exists()


def test_the_first_rank_of_a_node_measures_all_of_its_processes() -> None:
    processes = [Process("worker", index, f"n{1 + index // 2}", "", 0) for index in range(4)]
    placement = Placement(("n1", "n2"), tuple(processes))
    measured = [measured_by(process, placement) for process in processes]
    assert measured == [["worker:0", "worker:1"], [], ["worker:2", "worker:3"], []]


# Like srun and like some runtimes: what runs in the container is no child of its command, and ends the command with it.
_CONTAINER = ("sh", "-c", 'setsid --wait "$@"', "runtime")


def contained(job: Job, command: str) -> list[str]:
    """Return the words of a process in a container that takes over no variable but PATH."""
    clean = ("env", "--ignore-environment", f"PATH={os.environ['PATH']}")
    inside = ("/usr/bin/env", "sh", "-c", command, job.marker.word)
    return ["--env-inside", ":::", "worker:0", "OWN=a b", *_CONTAINER, *clean, *inside]


def test_a_process_in_a_container_has_its_variables_and_its_exit_code(job: Job) -> None:
    node = job.spec(worker=1).start(*contained(job, 'echo "$OWN, $HPC_DL_ATTEMPT, $TF_CONFIG"; exit 5'))
    assert node.end() == 5
    assert job.log("worker:0").startswith('a b, 0, {"cluster":{"worker"')


def test_a_process_in_a_container_is_told_once_to_end(job: Job) -> None:
    told = "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    node = job.spec(worker=1).start(*contained(job, told))
    job.ready("worker:0")
    node.popen.terminate()
    assert node.end() == 143
    assert job.log("worker:0").count("told") == 1
    assert job.marker.gone()


def test_a_container_that_has_not_started_is_told_to_end(job: Job) -> None:
    words = contained(job, "echo started")
    at = words.index("sh")
    node = job.spec(worker=1).start(*words[:at], "sh", "-c", f"echo ready; {job.marker.sleep}", *words[at + 2 :])
    job.ready("worker:0")
    node.popen.terminate()
    assert node.end() == 143
    assert job.marker.gone()


def test_who_ignores_sigterm_in_a_container_is_killed_after_the_grace(job: Job) -> None:
    node = job.spec(worker=1).start(*contained(job, _IGNORE), grace=0.3)
    job.ready("worker:0")
    node.popen.terminate()
    assert node.end() == 143
    assert job.marker.gone()


def test_a_command_without_a_place_for_variables_is_told(job: Job) -> None:
    node = job.spec(worker=1).start("--env-inside", *job.sh(worker_0="echo ready"))
    assert node.end() == 2
    assert "process 'worker:0' has no /usr/bin/env in its command, which --env-inside wants" in node.output
    assert job.failure().exit_code == 2


def test_a_launcher_that_was_killed_leaves_nothing_in_a_container(job: Job) -> None:
    node = job.spec(worker=1).start(*contained(job, _IGNORE))
    job.ready("worker:0")
    node.popen.kill()
    eventually(job.marker.gone)
