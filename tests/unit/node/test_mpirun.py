"""mpirun under a keeper that gives its ranks their time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from hpc_dl.node import mpirun
from hpc_dl.node.attempts import begin
from hpc_dl.runfolder.folder import RunFolder, to_toml
from hpc_dl.spec.job import JobSpec
from tests.unit.fakes.processes import Marker, eventually

# It would end at once on SIGTERM, were that not blocked; a rank of it unblocks all signals, as Open MPI does.
_MPIRUN = """
import os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
agents = [os.environ[name] for name in ("PRTE_MCA_prte_launch_agent", "OMPI_MCA_orte_launch_agent")]
(here / "agents").write_text("\\n".join(agents))

def told(number, frame):
    time.sleep(1)
    (here / "saved").touch()
    sys.exit(0)

signal.signal(signal.SIGUSR1, told)
(here / "ready").touch()
while sys.argv[2] == "wait" and not (here / "end").exists():
    time.sleep(0.05)
sys.exit(0 if sys.argv[2] == "wait" else int(sys.argv[2]))
"""


def start(folder: Path, *words: str, options: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    (folder / "mpirun.py").write_text(_MPIRUN)
    keeper = [sys.executable, "-m", "hpc_dl", "mpirun", *options, "--grace", "20", "--"]
    return subprocess.Popen(
        [*keeper, sys.executable, str(folder / "mpirun.py"), str(folder), *words], start_new_session=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_tells_the_ranks_and_waits_for_them(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "wait")
    try:
        eventually((tmp_path / "ready").exists)
        os.killpg(process.pid, number)  # mpirun gets it too
        assert process.wait(30) == 128 + number
        assert (tmp_path / "saved").exists()
    finally:
        process.kill()
    agents = (tmp_path / "agents").read_text().split("\n")
    assert [agent.split()[-1] for agent in agents] == ["prted", "orted"]


def test_without_a_signal_it_waits_for_ranks_that_look_into_the_run_folder(tmp_path: Path) -> None:
    process = start(tmp_path, "wait", options=("--no-signal",))
    try:
        eventually((tmp_path / "ready").exists)
        os.killpg(process.pid, signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        assert not (tmp_path / "saved").exists()
        (tmp_path / "end").touch()  # as ranks that have read the run folder would make it end
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()


def test_its_own_end_is_passed_on(tmp_path: Path) -> None:
    assert start(tmp_path, "7").wait(30) == 7


def test_a_later_attempt_ends_it(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "job-L1")
    assert begin(run) == 0
    process = start(tmp_path, "wait", options=("--run", str(run.path), "--attempt", "0"))
    try:
        eventually((tmp_path / "ready").exists)
        assert process.poll() is None
        assert begin(run) == 1
        assert process.wait(30) == 137
    finally:
        process.kill()


def test_a_keeper_that_hangs_is_killed_and_mpirun_with_it(tmp_path: Path) -> None:
    run, marker = RunFolder.create(tmp_path / "job-L1"), Marker()
    run.job_file.write_text(to_toml(JobSpec(hang_timeout=3)))
    process = start(tmp_path, "wait", marker.word, options=("--run", str(run.path)))
    eventually((tmp_path / "ready").exists)
    process.send_signal(signal.SIGSTOP)
    assert process.wait(30) == -signal.SIGKILL
    eventually(marker.gone)


def test_it_dies_with_its_keeper(tmp_path: Path) -> None:
    marker = Marker()
    process = start(tmp_path, "wait", marker.word)
    eventually((tmp_path / "ready").exists)
    assert not marker.gone()
    process.kill()
    process.wait(10)
    eventually(marker.gone, 10)


def test_a_daemon_on_another_node_runs_with_the_signals_blocked(tmp_path: Path) -> None:
    for name in ("select", "contextlib", "subprocess"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user')")
    code = "print(next(l for l in open('/proc/self/status') if l.startswith('SigBlk')))"
    command = [sys.executable, mpirun.__file__, sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    blocked = int(done.stdout.split()[1], 16)
    assert [number for number in range(1, 32) if blocked >> (number - 1) & 1] == [signal.SIGINT, signal.SIGTERM]
