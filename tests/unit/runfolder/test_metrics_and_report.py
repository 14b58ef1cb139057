"""What a run shows of its inside: traffic, step times, per process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.runfolder.metrics import figures, per_step
from hpc_dl.runfolder.report import report_lines
from hpc_dl.train.checkpoints.best import Best
from hpc_dl.train.reporting.step_times import summarise
from hpc_dl.train.reporting.traffic import sent_received


def test_traffic_counts_what_a_connection_moves_and_keeps_it_when_it_closes() -> None:
    before = sent_received()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        for _ in range(100):
            client.sendall(bytes(1000))
            left = 1000
            while left:
                left -= len(accepted.recv(left))
        accepted.sendall(bytes(77))
        assert len(client.recv(77, socket.MSG_WAITALL)) == 77
        deadline = time.monotonic() + 5
        while sent_received()[0] - before[0] < 100_077 and time.monotonic() < deadline:
            time.sleep(0.01)  # an acknowledgement is still under way
        opened = len(list(Path("/proc/self/fd").iterdir()))
        during = sent_received()
        assert len(list(Path("/proc/self/fd").iterdir())) == opened  # nothing stays open
    # The kernel counts the opening of each connection as a byte.
    assert 100_077 <= during[0] - before[0] <= 100_079
    assert during[1] - before[1] == 100_077
    assert sent_received()[1] == during[1]


def test_a_kept_connection_is_counted_to_its_end_however_late_the_next_look_is() -> None:
    opened = len(list(Path("/proc/self/fd").iterdir()))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        client.sendall(bytes(10))
        assert len(accepted.recv(10, socket.MSG_WAITALL)) == 10
        before = sent_received(keep=True)
        client.sendall(bytes(1000))
        assert len(accepted.recv(1000, socket.MSG_WAITALL)) == 1000
    after = sent_received(keep=True)
    # The kernel counts the end of each connection as a byte.
    assert 1000 <= after[1] - before[1] <= 1002
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    assert sent_received(keep=True) == after


def test_step_times_are_summarised() -> None:
    found = summarise([n / 1000 for n in range(1, 1001)])
    assert found is not None
    assert [found[key] for key in ("min", "median", "p90", "p99", "max")] == [0.001, 0.5, 0.9, 0.99, 1.0]
    assert summarise([]) is None
    assert summarise([0.0]) is not None


@given(st.lists(st.floats(1e-6, 1e3), min_size=1))
def test_each_step_is_in_one_bin_of_the_histogram(seconds: list[float]) -> None:
    found = summarise(seconds)
    assert found is not None
    assert sum(count for _, count in found["histogram"]) == len(seconds)
    lowest = [edge for edge, _ in found["histogram"]]
    assert lowest == sorted(set(lowest))
    assert lowest[0] <= found["min"] * (1 + 1e-9)
    assert found["max"] <= lowest[-1] * 10**0.1 * (1 + 1e-9)
    assert found["min"] <= found["median"] <= found["p90"] <= found["p99"] <= found["max"]


def write_metrics(folder: Path) -> None:
    moved = {"bytes_sent": 600, "bytes_received": 1200}
    workers: list[Any] = [
        {"event": "imported", "devices": ["A100"]},
        {"step": 3},
        {"event": "trained", "local_steps": 4, "step_seconds": None, **moved},
    ]
    files: dict[str, list[Any]] = {
        "worker-0": workers,
        "worker-1": [*workers, {"event": "done"}],
        "worker-2": [*workers, {"event": "imported"}],  # started again, and not done yet
        "ps-0": [{"event": "traffic", **moved}, {"event": "traffic", "bytes_sent": 800, "bytes_received": 80}],
    }
    for name, records in files.items():
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text + '{"event": "trai')


def test_figures_of_processes_are_those_of_their_last_run(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    found = figures(tmp_path)
    assert list(found) == ["ps-0", "worker-0", "worker-1"]
    assert found["ps-0"] == {"devices": [], "bytes_sent": 800, "bytes_received": 80, "all_steps": 12}
    assert found["worker-1"]["devices"] == ["A100"]
    assert per_step(found) == {
        "ps-0": {"bytes_sent": 800 / 12, "bytes_received": 80 / 12},
        "worker-0": {"bytes_sent": 150, "bytes_received": 300},
        "worker-1": {"bytes_sent": 150, "bytes_received": 300},
    }
    assert figures(tmp_path / "absent") == {}


REPORT = """
step times in ms   steps       min    median       p90       p99       max
worker-0               4         1         2         2         2         2
worker-1               4         1         2         2         2         2

steps of all processes by their time, each bin from what it says to the next 1.26 times as much
            1 ms       2 ####################
        1.995 ms       4 ########################################

bytes per step          sent    received
ps-0                   100 B       25 MB
worker-0             15.5 kB       250 B
worker-1             15.5 kB       250 B

test images by true class (rows) and found class (columns)
           0   1
       0  10   .
       1   2   9
"""


def test_the_report_of_a_job(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert list(report_lines(run)) == []
    run.metrics.mkdir()
    times = summarise([0.001, 0.002, 0.002])
    worker = {"local_steps": 4, "step_seconds": times, "bytes_sent": 62_000, "bytes_received": 1000}
    records = {
        "worker-0": {"event": "trained", **worker},
        "worker-1": {"event": "trained", **worker},
        "ps-0": {"event": "traffic", "bytes_sent": 800, "bytes_received": 200_000_000},
    }
    for name, record in records.items():
        (run.metrics / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    run.result.write_text(json.dumps({"confusion": [[10, 0], [2, 9]]}))
    assert "\n".join(report_lines(run)) + "\n" == REPORT


def test_tensorboard_needs_something_to_show(tmp_path: Path) -> None:
    (tmp_path / "job-1").mkdir()
    (tmp_path / "job-1" / "job.toml").touch()
    command = [sys.executable, "-m", "hpc_dl", "tensorboard", str(tmp_path / "job-1")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "job-1/tensorboard: no such folder; a job has it from its first step on" in done.stderr


def test_the_best_checkpoint_outlives_the_newest_and_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()

    def save(step: int) -> str:
        for end in ("index", "data-00000-of-00001"):
            (folder / f"step-{step}.{end}").write_text(f"{step}")
        return str(folder / f"step-{step}")

    best = Best(tmp_path)
    for step, test_accuracy in ((1, 0.0), (2, 0.9), (3, 0.8), (4, 0.9)):
        best.offer(save(step), step, test_accuracy)
    for old in folder.glob("step-*"):
        old.unlink()
    again = Best(tmp_path)
    assert (again.step, again.test_accuracy) == (2, 0.9)
    again.offer(save(5), 5, 0.7)
    kept = {path.name for path in folder.glob("best*")}
    assert kept == {"best.json", "best-2.index", "best-2.data-00000-of-00001"}
    assert (folder / "best-2.index").read_text() == "2"
    (folder / "best.json").write_text("{")
    assert Best(tmp_path).step == -1
