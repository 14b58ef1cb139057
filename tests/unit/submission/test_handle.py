"""The job handle, for local runs of a script of the user's own."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hpc_dl
from hpc_dl.submission.handle import Job, find_job, runs_in
from tests.unit.fakes.processes import Marker, eventually, names

_RESULT = """
import json, os, pathlib
config = json.loads(os.environ["TF_CONFIG"])
if config["task"] == {"type": "worker", "index": 0}:
    result = {"test_accuracy": 0.5, "config": config}
    pathlib.Path(os.environ["HPC_DL_RUN"], "result.json").write_text(json.dumps(result))
print("trained")
"""
_FAIL = "echo about to fail >&2\nexit 7\n"
_WAIT = "echo ready\nsleep 300\n"


class Bench:
    """A working folder where jobs with own scripts run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marker = Marker()
        self.jobs: list[Job] = []

    def submit(self, script: str, name: str = "own.sh", **settings: Any) -> Job:
        (self.folder / name).write_text(script)
        if name.endswith(".sh"):
            (self.folder / name).write_text(f"#!/bin/sh\n{script}")
            (self.folder / name).chmod(0o755)
        settings = {"name": "own", "args": [self.marker.word], "ps": 1, "script": name, **settings}
        self.jobs.append(hpc_dl.submit(**{"site": "local", **settings}))
        return self.jobs[-1]

    def ready(self, job: Job, *names: str) -> None:
        eventually(lambda: all(name in job.logs() and "ready" in job.logs()[name].read_text() for name in names))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    folder = tmp_path / "it's 50% of $(x)"
    folder.mkdir()
    monkeypatch.chdir(folder)
    one = Bench(folder)
    yield one
    for job in one.jobs:
        job.cancel()
    for job in one.jobs:
        job.wait(timeout=60)
    one.marker.kill()


def test_a_job_that_ends_well(bench: Bench) -> None:
    job = bench.submit(_RESULT, "own.py", nodes=2)
    result = job.result(timeout=60)
    assert result["test_accuracy"] == 0.5
    assert {role: len(hosts) for role, hosts in result["config"]["cluster"].items()} == {"ps": 1, "worker": 2}
    assert (job.state, job.done(), job.exception()) == ("COMPLETED", True, None)
    summary = job.summary()
    assert summary is not None
    assert (summary.state, summary.exit_code, summary.failure) == ("COMPLETED", 0, None)
    assert "hpc-dl: job COMPLETED with exit code 0" in job.stdout()
    assert list(job.logs()) == ["ps:0", "worker:0", "worker:1"]
    assert job.logs()["worker:1"].read_text() == "trained\n"
    eventually(bench.marker.gone)

    # All of it is in the run folder, and that is private.
    assert names(bench.folder) == ["own.py", "runs"]
    assert names(bench.folder / "runs") == ["own-L1"]
    assert stat.S_IMODE(job.run.path.stat().st_mode) == 0o700
    assert job.run.path == bench.folder / "runs" / "own-L1"


def test_a_job_that_fails_says_what_failed_first(bench: Bench) -> None:
    job = bench.submit(_FAIL)
    with pytest.raises(hpc_dl.JobError) as caught:
        job.result(timeout=60)
    text = str(caught.value)
    assert text.startswith("job L1 ended FAILED: ")
    assert "on node node1 ended with exit code 7; its last lines:\n    about to fail" in text
    assert str(job.exception()) == text
    assert job.state == "FAILED"
    summary = job.summary()
    assert summary is not None
    assert summary.exit_code == 7


def _site(bench: Bench, module_init: str) -> str:
    """Return a local site with modules; its own file says what `module` is."""
    (bench.folder / "init.sh").write_text(module_init)
    lines = ["scheduler = 'local'", "address = '127.0.0.1'", "cores = 1"]
    lines += ["module_init = 'init.sh'", "modules = ['cuda']"]
    (bench.folder / "modules.toml").write_text("\n".join(lines))
    return str(bench.folder / "modules.toml")


def test_the_scripts_of_modules_need_not_know_nounset_and_come_before_python(bench: Bench) -> None:
    init = "module() { if [ -e runs/own-L1/attempt ]; then export WHEN=late; else export WHEN=early$UNSET; fi; }\n"
    job = bench.submit("echo $WHEN\n", site=_site(bench, init))
    job.wait(timeout=60)
    assert job.logs()["worker:0"].read_text() == "early\n", job.stdout()


def test_a_job_that_is_told_to_end_while_modules_load_says_how_it_ended(bench: Bench) -> None:
    job = bench.submit("echo trained\n", site=_site(bench, "module() { touch loading; sleep 1; }\n"))
    eventually((bench.folder / "loading").exists)
    job.cancel()
    job.wait(timeout=60)
    assert job.state == "CANCELLED"
    summary = job.summary()
    assert summary is not None
    assert (summary.state, summary.exit_code) == ("CANCELLED", 143)
    assert not job.logs()


def test_a_module_that_is_not_there_ends_the_job(bench: Bench) -> None:
    job = bench.submit("echo trained\n", site=_site(bench, "module() { return 1; }\n"))
    job.wait(timeout=60)
    assert job.state == "FAILED"
    assert "module load failed; see modules in the site file: cuda" in job.stdout()
    summary = job.summary()
    assert summary is not None
    assert summary.exit_code == 1


def test_a_job_that_goes_on_has_no_exception_and_a_timeout(bench: Bench) -> None:
    job = bench.submit(_WAIT)
    bench.ready(job, "worker:0")
    assert (job.state, job.done(), job.exception(), job.summary()) == ("RUNNING", False, None, None)
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"job L1 has not ended after 0\.3 s"):
        job.wait(timeout=0.3)
    assert time.monotonic() - begin < 30
    with pytest.raises(TimeoutError):
        job.result(timeout=0)


def test_a_cancelled_job_is_cancelled_and_leaves_no_process(bench: Bench) -> None:
    job = bench.submit(_WAIT, nodes=2)
    bench.ready(job, "ps:0", "worker:0", "worker:1")
    job.cancel()
    job.wait(timeout=60)
    assert job.state == "CANCELLED"
    assert str(job.exception()).startswith("job L1 ended CANCELLED: see ")
    assert bench.marker.gone()
    job.cancel()  # once more does no harm
    assert job.state == "CANCELLED"


def test_a_job_that_is_cancelled_at_once_never_trains(bench: Bench) -> None:
    job = bench.submit("echo trained\n")
    job.cancel()
    job.wait(timeout=60)
    assert job.state == "CANCELLED"
    assert bench.marker.gone()


@pytest.mark.parametrize("moment", ["facts", "place", "tasks"])
def test_a_job_is_cancelled_whatever_its_script_does_just_then(bench: Bench, moment: str) -> None:
    job = bench.submit(_WAIT)

    def does() -> bool:
        return f"\0{moment}\0".encode() in b"".join(map(command_line, children(job_pid(job))))

    eventually(does)
    job.cancel()
    job.wait(timeout=60)
    assert job.state == "CANCELLED"
    eventually(bench.marker.gone)


# The ps dies when `go` is there; the workers take a while to end.
_RECOVERS = """
echo ready
case $TF_CONFIG in
*'"type":"ps"'*) while [ ! -e go ]; do sleep 0.1; done; kill -9 $$ ;;
esac
trap 'sleep 3; exit 143' TERM
while :; do sleep 0.1; done
"""


def test_a_job_that_is_cancelled_while_it_recovers_does_not_start_again(bench: Bench) -> None:
    job = bench.submit(_RECOVERS, nodes=2, restarts=3)
    bench.ready(job, "ps:0", "worker:0", "worker:1")
    (bench.folder / "go").touch()
    eventually(job.run.failure.exists)
    job.cancel()
    job.wait(timeout=60)
    assert (job.state, job.run.latest_attempt()) == ("CANCELLED", 0)
    assert bench.marker.gone()


def job_pid(job: Job) -> int:
    pid = json.loads(job.run.local.read_bytes())["pid"]
    assert isinstance(pid, int)
    return pid


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_job_whose_script_is_killed_has_failed_and_leaves_no_process(bench: Bench) -> None:
    job = bench.submit(_WAIT, nodes=2)
    bench.ready(job, "ps:0", "worker:0", "worker:1")
    os.kill(job_pid(job), signal.SIGKILL)
    job.wait(timeout=60)
    assert job.state == "FAILED"
    assert str(job.run.log) in str(job.exception())
    eventually(bench.marker.gone)


def test_a_killed_launcher_takes_its_job_with_it(bench: Bench) -> None:
    job = bench.submit(_WAIT, nodes=2)
    bench.ready(job, "ps:0", "worker:0", "worker:1")
    (runner,) = children(job_pid(job))
    for pid in children(runner)[:1]:
        os.kill(pid, signal.SIGKILL)
    job.wait(timeout=60)
    assert job.state == "FAILED"
    summary = job.summary()
    assert summary is not None
    assert summary.exit_code == 137
    eventually(bench.marker.gone)


def test_two_jobs_at_once_have_their_own_numbers_and_ports(bench: Bench) -> None:
    jobs = [bench.submit(_WAIT, name="own.sh", nodes=2) for _ in range(2)]
    for job in jobs:
        bench.ready(job, "ps:0", "worker:0", "worker:1")
    assert [job.job_id for job in jobs] == ["L1", "L2"]
    ports = [address for job in jobs for hosts in job.run.read_cluster().values() for address in hosts]
    assert len(set(ports)) == len(ports) == 6


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of jobs that have been; the newest is L2, and what is no run folder stands beside."""
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(["own-L2", "my-own-4711", "own-L1"]):
        (tmp_path / "runs" / name).mkdir(parents=True)
        job = tmp_path / "runs" / name / "job.toml"
        job.touch()
        os.utime(job, (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / ".new-1-2").mkdir()
    (tmp_path / "runs" / ".new-1-2" / "job.toml").touch()
    (tmp_path / "runs" / "not-L7").mkdir()
    return Path("runs")


@pytest.mark.parametrize("name", ["L1", "own-L1", "runs/own-L1", "runs/own-L1/", "./runs/own-L1"])
def test_a_job_is_found_by_number_name_and_folder(runs: Path, name: str) -> None:
    assert find_job(name, runs).run.path == runs / "own-L1"
    assert hpc_dl.load(name).job_id == "L1"


def test_a_link_is_the_job_that_it_leads_to(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs / "best-7").symlink_to("own-L1")
    (runs / "own-L2").rename("own-L2")  # to another disk, and a link in its place
    (runs / "own-L2").symlink_to(Path("own-L2").absolute())
    assert [run.job_id for run in runs_in(runs)] == ["L1", "4711", "L2"]
    assert find_job("runs/best-7", runs).job_id == "L1"
    monkeypatch.chdir(runs / "own-L1")
    assert find_job("./", Path("..")).job_id == "L1"


def test_the_newest_job_is_found_without_a_name(runs: Path) -> None:
    assert find_job("", runs).job_id == "L2"
    assert hpc_dl.load(4711).run.path.name == "my-own-4711"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("L9", "no job 'L9' in runs; newest jobs there: L1, 4711, L2"),
        ("L7", "no job 'L7'"),
        ("../x", r"\.\./x: no run folder"),
        ("*", r"no job '\*'"),
        ("runs/", "no run folder"),
    ],
)
def test_a_job_that_is_not_there_is_an_error_with_those_that_are(runs: Path, name: str, message: str) -> None:
    with pytest.raises(hpc_dl.UserError, match=message):
        find_job(name, runs)


def test_without_any_job_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(hpc_dl.UserError, match="newest jobs there: none"):
        find_job("", tmp_path / "runs")


def test_an_unknown_setting_is_an_error_with_the_near_match(bench: Bench) -> None:
    with pytest.raises(hpc_dl.UserError, match=r"keyword scirpt: unknown job key 'scirpt' \(did you mean 'script'\?\)"):
        hpc_dl.submit(site="local", scirpt="own.sh")
    assert names(bench.folder) == []
