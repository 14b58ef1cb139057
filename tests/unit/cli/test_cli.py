"""The command line: one message and exit code 2 for bad input; submit, watch, logs, cancel of local runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_dl.cli.main import main
from hpc_dl.submission.handle import find_job
from tests.unit.fakes.processes import Marker, eventually, names
from tests.unit.fakes.slurm import FakeSlurm

_LOCAL = ["--site", "local"]
_MINOTAURO = ["--site", "minotauro"]


def go_to_folder(top: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to an empty working folder, without settings from outside."""
    for name in list(os.environ):
        if name.startswith(("HPC_DL_", "SLURM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(top / "config"))
    monkeypatch.setenv("COLUMNS", "200")
    (top / "work").mkdir()
    monkeypatch.chdir(top / "work")
    return top / "work"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return go_to_folder(tmp_path, monkeypatch)


def fails(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must end with exit code 2 and one message; return the message."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    out, err = capfd.readouterr()
    assert ended.value.code == 2
    assert err.startswith("hpc-dl: error: ")
    assert err.count("error:") == 1
    assert "Traceback" not in err
    assert "Submitted" not in out
    assert "Started" not in out
    return err.removeprefix("hpc-dl: error: ").rstrip("\n")


BAD = {
    "unknown command": (["submti"], "no such command 'submti' (did you mean 'submit'?)"),
    "unknown option": (["submit", "--node", "3"], "no such option '--node'.*'--nodes'"),
    "unknown mode": (["submit", *_LOCAL, "--mode", "asnyc"], "'asnyc'.*did you mean 'async'"),
    "unknown site": (["submit", "--site", "minotaur"], "'minotaur' (did you mean 'minotauro'?)"),
    "unknown job": (["submit", *_LOCAL, "trian"], "'trian' (did you mean 'train'?)"),
    "unknown model": (["submit", *_LOCAL, "--model", "resnet57"], "'resnet57' (did you mean 'resnet56'?)"),
    "unknown data set": (["submit", *_LOCAL, "--data", "digit"], "'digit' (did you mean 'digits'?)"),
    "job file not there": (["submit", *_LOCAL, "x/y.toml"], "'x/y.toml': no such file"),
    "malformed node list": (["render", *_MINOTAURO, "--nodelist", "nvb[1-"], "node list"),
    "nodes and node list": (["render", *_MINOTAURO, "--nodelist", "nvb1", "--nodes", "2"], "1 nodes, the job wants 2"),
    "no nodes": (["submit", *_LOCAL, "--nodes", "0"], "nodes = '0'"),
    "negative nodes": (["submit", *_LOCAL, "--nodes=-3"], "nodes = '-3'"),
    "too many nodes": (["submit", *_LOCAL, "--nodes", "65"], "nodes = 65: site 'local' has 64"),
    "no number": (["submit", *_LOCAL, "--steps", "many"], "steps = 'many'"),
    "too many GPUs": (["render", *_MINOTAURO, "--gpus", "5"], "gpus = 5: a node of site 'minotauro' has 4"),
    "wrong time": (["render", *_MINOTAURO, "--time", "1h"], "time = '1h'"),
    "script not there": (["submit", *_LOCAL, "--script", "none.py"], "script = 'none.py': no such file"),
    "option that is ours": (["render", *_MINOTAURO, "--slurm", "nodes=3"], "nodes.*in its place"),
    "no Slurm option": (["render", *_MINOTAURO, "--slurm", "--qos=x"], "slurm.*qos"),
    "value without key": (["render", *_MINOTAURO, "--slurm", "=x"], "expected KEY=VALUE"),
    "open quote": (["submit", *_LOCAL, "--args", "it's"], "no closing quotation"),
    "line break": (["submit", *_LOCAL, "--env", "A=1\n2"], "env.A.*line"),
    "chief without a script": (["submit", *_LOCAL, "--chief"], "chief = true"),
    "name that is a path": (["submit", *_LOCAL, "--name", "../x"], "name = '../x'"),
    "too many words": (["submit", *_LOCAL, "train", "x"], "unexpected extra argument"),
    "unknown process": (["render", *_MINOTAURO, "--process", "worker:9"], "'worker:9': not in this job"),
    "unknown job id": (["status", "L9"], "no job 'L9' in runs; newest jobs there: none"),
    "no job at all": (["watch"], "no job in runs; newest jobs there: none"),
    "no run folder": (["logs", "some/where"], "some/where: no run folder"),
    "cancel nothing": (["cancel", "17"], "no job '17'"),
    "task file not there": (["tasks", "check", "none.txt"], "none.txt: can't be read"),
    "task file that is a folder": (["tasks", "run", "."], "can't be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message(folder: Path, capfd: pytest.CaptureFixture[str], case: str) -> None:
    words, expected = BAD[case]
    message = fails(capfd, *words)
    pattern = ".*".join(re.escape(part) for part in expected.split(".*"))
    assert re.search(pattern, message, re.DOTALL), message
    assert list(folder.iterdir()) == []  # nothing is left behind


@pytest.mark.parametrize("text", ["$(touch x)'; touch x; '", "\x1b[31m", "\udcff", "é" * 5000, "nan, inf"])
@pytest.mark.parametrize("key", ["nodes", "mode", "gpus", "time", "script", "name", "model", "data", "learning_rate"])
def test_hostile_values_are_one_message_from_options_and_environment(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str, text: str
) -> None:
    option = f"--{key.replace('_', '-')}"
    assert fails(capfd, "submit", *_LOCAL, option, text).startswith(option)
    monkeypatch.setenv(f"HPC_DL_{key.upper()}", text)
    assert f"HPC_DL_{key.upper()}" in fails(capfd, "submit", *_LOCAL)
    assert list(folder.iterdir()) == []


def test_a_make_variable_is_called_so(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPC_DL_MAKE", "1")
    monkeypatch.setenv("HPC_DL_NODES", "x")
    assert fails(capfd, "submit", *_LOCAL).startswith("make variable NODES: ")


@pytest.mark.parametrize("value", ["TOKENX='hunter2", "=hunter2", "A=hunter2\udcff"])
def test_a_slip_in_env_does_not_print_its_values(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HPC_DL_ENV", value)
    said = fails(capfd, "submit", *_LOCAL)
    assert "HPC_DL_ENV" in said
    assert "hunter2" not in said


def test_a_runs_folder_that_can_t_be_written_is_one_message(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "own.sh").touch()
    (folder / "runs").write_text("a file")
    assert "runs" in fails(capfd, "submit", *_LOCAL, "--script", "own.sh")
    assert (folder / "runs").read_text() == "a file"


def test_a_refusal_of_slurm_is_one_message(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = FakeSlurm(tmp_path / "fake", monkeypatch)
    slurm.answer("sbatch", err="sbatch: error: invalid partition\n", code=1)
    (folder / "own.sh").touch()
    assert fails(capfd, "submit", *_MINOTAURO, "--script", "own.sh") == "sbatch refused the job: invalid partition"
    assert list((folder / "runs").iterdir()) == []


def test_without_slurm_a_slurm_site_is_one_message(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    (folder / "own.sh").touch()
    for dry in ([], ["--dry-run"]):
        assert re.search("srun|sbatch", fails(capfd, "submit", *_MINOTAURO, "--script", "own.sh", *dry))
    assert list((folder / "runs").iterdir()) == []


class Bench:
    """A folder with a script, and the real command: in this process, or as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marker = Marker()
        self.started: list[subprocess.Popen[str]] = []

    def script(self, text: str) -> list[str]:
        """Write the job's script; return the words that submit it."""
        (self.folder / "own.sh").write_text(f"#!/bin/sh\n{text}")
        (self.folder / "own.sh").chmod(0o755)
        return ["submit", *_LOCAL, "--script", "own.sh", "--name", "own", "--args", self.marker.word]

    def start(self, *words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hpc_dl", *words]
        self.started.append(
            subprocess.Popen(command, stdout=stdout, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        )
        return self.started[-1]

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command to its end, in this process; return its output."""
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        into = contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream)
        with into[0], into[1], pytest.raises(SystemExit) as ended:
            main(list(words))
        output = stream.buffer.getvalue().decode()
        assert ended.value.code == code, output
        return output

    def ended(self, one: Path, log: str = "") -> Path:
        """Put a copy of an ended job here, with another log of its worker; return its run folder."""
        run = self.folder / "runs" / one.name
        shutil.copytree(one, run)
        (run / "logs" / "worker-0.log").write_text(log)
        return run

    def ready(self) -> None:
        """Wait until the newest job's worker has said so."""
        log = self.folder / "runs" / "own-L1" / "logs" / "worker-0.log"
        eventually(lambda: log.exists() and "ready" in log.read_text())


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a job L1 that has completed."""
    with pytest.MonkeyPatch.context() as patch:
        one = Bench(go_to_folder(tmp_path_factory.mktemp("completed"), patch))
        one.run(*one.script("true\n"))
        return one.folder / "runs" / "own-L1"


@pytest.fixture
def bench(folder: Path) -> Iterator[Bench]:
    one = Bench(folder)
    yield one
    for process in one.started:
        process.kill()
        process.communicate()
    if (folder / "runs").exists():
        for run in (folder / "runs").iterdir():
            find_job(str(run), folder / "runs").cancel()
    one.marker.kill()


_WAIT = "echo ready\nuntil [ -e go ]; do sleep 0.05; done\necho trained\n"


def test_submit_shows_table_number_and_end_in_plain_lines(bench: Bench) -> None:
    lines = bench.run(*bench.script("echo hello\n")).splitlines()
    assert lines[0] == "Job own, mode async, site local"
    assert re.fullmatch(r"node1 +ps 0 +none +not bound +127\.0\.0\.1:\d+", lines[2].rstrip())
    assert "Started local job L1" in lines
    assert any(re.fullmatch(r"Job L1 COMPLETED after \d+ s", line) for line in lines)
    assert lines[-1] == f"Run folder: {bench.folder}/runs/own-L1"
    assert "\x1b" not in "".join(lines)


def test_submit_ends_with_the_jobs_exit_code_and_its_cause(bench: Bench) -> None:
    output = bench.run(*bench.script("echo no luck; exit 19\n"), code=19)
    assert "Job L1 FAILED" in output
    assert re.search(r"(ps|worker):0 on node node1 ended with exit code 19; its last lines:\n    no luck", output)
    assert "Traceback" not in output


def test_a_scripts_result_is_no_trouble_whatever_it_holds(bench: Bench) -> None:
    result = '{"test_accuracy": "high", "test_loss": null, "steps": [1], "steps_per_s": "\\udcff", "images_per_s": 1}'
    text = f"cat > $HPC_DL_RUN/result.json <<'END'\n{result}\nEND\n"
    output = bench.run(*bench.script(text), "--mode", "single")
    line = "Result: test_accuracy = high, test_loss = None, steps = [1], steps_per_s = ?, images_per_s = 1\n"
    for shown in (output, *(bench.run(command, "L1") for command in ("watch", "status", "report"))):
        assert "Job L1 COMPLETED" in shown
        assert line in shown


def test_a_make_in_a_job_has_nothing_of_the_make_that_submitted_it(bench: Bench) -> None:
    words = bench.script("make -f inner.mk\n")
    (bench.folder / "inner.mk").write_text("NODES := own\nall:\n\t@echo level=$(MAKELEVEL) nodes=$(NODES)\n")
    command = shlex.join([sys.executable, "-m", "hpc_dl", *words])
    (bench.folder / "outer.mk").write_text(f"unexport NODES\nall:\n\t@{command}\n")
    subprocess.run(["make", "-f", "outer.mk", "NODES=7"], check=True, timeout=60)
    log = bench.folder / "runs" / "own-L1" / "logs" / "worker-0.log"
    assert log.read_text() == "level=0 nodes=own\n"


def test_dry_run_submits_nothing(bench: Bench) -> None:
    output = bench.run(*bench.script("echo hello\n"), "--dry-run")
    assert output.endswith("local run: nothing for Slurm to check\n")
    assert names(bench.folder) == ["own.sh"]


def test_detach_returns_at_once_and_watch_comes_back(bench: Bench) -> None:
    output = bench.run(*bench.script(_WAIT), "--detach")
    assert output.splitlines()[-2:] == ["Started local job L1", f"Run folder: {bench.folder}/runs/own-L1"]
    bench.ready()
    assert re.search(r"^Job L1 RUNNING  \d+ s\n    worker:0  ready\n", bench.run("status"))
    assert re.search(r"L1 +RUNNING +own +async +1 nodes", bench.run("list"))
    watching = bench.start("watch", "L1")
    (bench.folder / "go").touch()
    assert "Job L1 COMPLETED" in watching.communicate(timeout=60)[0]
    assert watching.returncode == 0
    assert "Job L1 COMPLETED" in bench.run("status", "L1")
    assert re.search(r"L1 +COMPLETED", bench.run("list"))


def test_ctrl_c_detaches_and_the_job_goes_on(bench: Bench) -> None:
    process = bench.start(*bench.script(_WAIT))
    bench.ready()
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "Detached; job L1 goes on." in output
    assert "come back:  hpc-dl watch L1 " in output
    assert "end it:     hpc-dl cancel L1 " in output
    assert not bench.marker.gone()
    (bench.folder / "go").touch()
    assert "Job L1 COMPLETED" in bench.run("watch")


def test_ctrl_c_at_a_terminal_detaches(bench: Bench) -> None:
    """The key, as a terminal sends it to all processes in the foreground."""
    words = bench.script(_WAIT)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "hpc_dl", *words])  # noqa: S606
    try:
        bench.ready()
        os.write(terminal, b"\x03")
        seen = b""
        while b"cancel L1" not in seen:
            seen += os.read(terminal, 65536)
        assert b"Detached; job L1 goes on." in seen
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    assert not bench.marker.gone()
    (bench.folder / "go").touch()
    assert "Job L1 COMPLETED" in bench.run("watch")


def test_a_job_elsewhere_is_named_by_its_folder(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = bench.script(_WAIT)
    (tmp_path / "else where").mkdir()
    monkeypatch.chdir(tmp_path / "else where")
    process = bench.start(*words, "--workdir", str(bench.folder))
    bench.ready()
    process.send_signal(signal.SIGINT)
    assert f"hpc-dl watch {bench.folder}/runs/own-L1 " in process.communicate(timeout=60)[0]
    (bench.folder / "go").touch()
    assert "COMPLETED" in bench.run("watch", f"{bench.folder}/runs/own-L1")


def test_logs_have_a_label_and_an_unknown_one_is_one_message(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench.run(*bench.script("echo one; echo two >&2\n"))
    output = bench.run("logs")
    assert "\nworker:0  one\nworker:0  two\n" in output
    assert "job       hpc-dl: job COMPLETED with exit code 0" in output
    assert bench.run("logs", "L1", "--process", "ps:0") == "ps:0      one\nps:0      two\n"
    message = fails(capfd, "logs", "--process", "worker:1")
    assert "job L1 has no log of 'worker:1' (did you mean 'worker:0'?); it has 'job', 'ps:0', 'worker:0'" in message


def test_logs_begin_with_their_last_lines(bench: Bench, completed: Path) -> None:
    bench.ended(completed, "".join(f"{number}\n" for number in range(1, 101)))
    assert bench.run("logs", "-n", "2", "--process", "worker:0") == "worker:0  99\nworker:0  100\n"
    assert bench.run("logs", "--lines", "0") == ""


def test_the_status_of_several_jobs_and_as_json(
    bench: Bench, completed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.ended(completed)
    bench.run(*bench.script("exit 7\n"), code=7)
    output = bench.run("status", "L2", "runs/own-L1")
    assert output.index("Job L2 FAILED") < output.index("Job L1 COMPLETED")
    first, second = json.loads(bench.run("list", "--json"))
    assert (first["job_id"], first["state"], first["exit_code"], first["steps"]) == ("L1", "COMPLETED", 0, None)
    assert (second["state"], second["exit_code"], second["failure"]["exit_code"]) == ("FAILED", 7, 7)
    assert second["started"] < second["ended"]
    assert [job["job_id"] for job in json.loads(bench.run("status", "--json"))] == ["L2"]
    assert re.fullmatch(r" +L1  COMPLETED .*\n", bench.run("list", "--state", "completed"))
    assert bench.run("list", "--state", "running") == ""
    message = fails(capfd, "list", "--state", "runing")
    assert "--state: 'runing' (did you mean 'running'?); known are 'boot_fail', " in message


def test_logs_follow_until_the_end(bench: Bench) -> None:
    bench.run(*bench.script(_WAIT), "--detach")
    following = bench.start("logs", "--follow", "--process", "worker:0")
    assert following.stdout is not None
    assert following.stdout.readline() == "worker:0  ready\n"
    (bench.folder / "go").touch()
    assert following.communicate(timeout=60)[0] == "worker:0  trained\n"
    assert following.returncode == 0


def test_cancel_ends_a_job_and_its_watcher_says_so(bench: Bench) -> None:
    watching = bench.start(*bench.script(_WAIT))
    bench.ready()
    assert bench.run("cancel") == "Job L1 is told to end\n"
    output = watching.communicate(timeout=60)[0]
    assert watching.returncode == 143
    assert "Job L1 CANCELLED" in output
    assert bench.marker.gone()


def test_a_variable_may_name_several_jobs_or_a_folder_with_blanks(
    bench: Bench, completed: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = bench.folder / "it's $(x)-L1"
    bench.ended(completed).rename(hostile)
    bench.ended(completed).rename(bench.folder / "runs" / "own-L2")
    for text, found in (
        (str(hostile), ["L1"]),
        (f"L2 {shlex.quote(str(hostile))}", ["L2", "L1"]),
    ):
        monkeypatch.setenv("HPC_DL_JOB", text)
        assert [job["job_id"] for job in json.loads(bench.run("status", "--json"))] == found
    monkeypatch.setenv("HPC_DL_JOB", "'L2")
    assert '"\'L2": no closing quotation' in fails(capfd, "status")


def test_folders_that_are_not_ours_hide_no_job(bench: Bench, completed: Path) -> None:
    ours = bench.ended(completed)
    for name, file, text in (
        ("my-exp", "job.toml", "epochs = 3"),
        ("broken-L2", "job.toml", "nodes = "),
        ("bytes-L3", "site.toml", b"name = 'minicluster' \xff"),
        ("empty-L4", "local.json", ""),
        ("empty-L5", "summary.json", ""),
    ):
        shutil.copytree(ours, ours.with_name(name))
        (ours.with_name(name) / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    lines = [line.split() for line in bench.run("list").splitlines()]
    listed = {words[0]: words[1] for words in lines if words[0] != "hpc-dl:"}
    assert listed == {"L1": "COMPLETED", "L3": "COMPLETED", "L4": "COMPLETED", "L5": "FAILED"}
    left_out = [words[1] for words in lines if words[0] == "hpc-dl:"]
    assert sorted(left_out) == ["runs/broken-L2", "runs/my-exp"]


def test_a_reader_that_goes_is_no_traceback(bench: Bench, completed: Path) -> None:
    bench.ended(completed, "".join(f"line {number}\n" for number in range(20000)))
    command = f"{sys.executable} -m hpc_dl logs | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def imported(code: str) -> set[str]:
    """Return the modules that a program imports."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    found = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "hpc_dl" in found, done.stderr
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import hpc_dl; hpc_dl.submit, hpc_dl.plan, hpc_dl.load, hpc_dl.Job",
        "from hpc_dl.cli.main import main; main(['render', '--site', 'minotauro'])",
        "from hpc_dl.cli.main import main; main(['submit', '--site', 'local', '--dry-run'])",
    ],
)
def test_the_login_node_imports_no_tensorflow(folder: Path, code: str) -> None:
    heavy = {"tensorflow", "tf_keras", "keras", "numpy", "sklearn", "scipy", "h5py", "submitit", "cloudpickle"}
    assert not imported(code) & heavy


def test_what_starts_fast_imports_little(folder: Path) -> None:
    assert not imported("import hpc_dl; dir(hpc_dl)") & {"click", "msgspec", "submitit", "hpc_dl.api"}
    of_help = imported("from hpc_dl.cli.main import main; main(['--help'])")
    assert not of_help & {"msgspec", "submitit", "hpc_dl.cli.submit", "hpc_dl.cli.job_script"}
    assert "submitit" not in imported("import hpc_dl.executor.run")
