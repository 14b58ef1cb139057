"""The training program's pure parts for faults: attempts, peers, checkpoints, disks."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import multiprocessing
import os
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from hpc_dl.errors import DISK, LOST, DiskError, JobError, PeerLostError, UserError
from hpc_dl.train import disk, loop, peers
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.checkpoints.store import Checkpoints, has_saved, newest
from hpc_dl.train.disk import Log, patiently, trouble
from hpc_dl.train.modes import multiworker
from hpc_dl.train.modes.rendezvous import Rendezvous
from hpc_dl.train.options import Options
from hpc_dl.train.peers import Peers
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.stop import Stop
from hpc_dl.train.tf_config import Cluster

tf1 = tf.compat.v1


@pytest.fixture(autouse=True)
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HPC_DL_RUN", "HPC_DL_ATTEMPT"):
        monkeypatch.delenv(variable, raising=False)


def test_the_exit_codes_of_errors() -> None:
    assert (JobError.exit_code, PeerLostError.exit_code, DiskError.exit_code) == (1, LOST, DISK) == (1, 75, 74)


def test_an_attempt_ends_when_a_later_one_has_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPC_DL_RUN", str(tmp_path))
    monkeypatch.setenv("HPC_DL_ATTEMPT", "3")
    attempt = Attempt(tmp_path)
    assert (attempt.number, attempt.owns_folder) == (3, True)
    assert not Attempt(tmp_path / "elsewhere").owns_folder
    attempt.check()  # nothing says otherwise
    for latest in ("2\n", "3\n", ""):
        (tmp_path / "attempt").write_text(latest)
        attempt.check()
    (tmp_path / "attempt").write_text("4\n")
    with pytest.raises(PeerLostError, match="attempt 4 has taken over from this one, attempt 3"):
        attempt.check()

    (tmp_path / "state" / "3" / "lost").mkdir(parents=True)
    (tmp_path / "state" / "3" / "lost" / "worker-3").touch()
    assert (attempt.given_up("worker-3"), attempt.done("worker-3"), attempt.given_up("worker-2")) == (
        True,
        False,
        False,
    )

    monkeypatch.delenv("HPC_DL_ATTEMPT")
    assert Attempt(tmp_path).number == 4
    monkeypatch.setenv("HPC_DL_ATTEMPT", "-1")
    with pytest.raises(UserError, match="HPC_DL_ATTEMPT: '-1' is not allowed"):
        Attempt(tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PERIOD", 0.0)
    monkeypatch.setattr(peers, "REFUSED", 0.2)


def wait_until_gone(watched: Peers, tasks: set[str]) -> None:
    deadline = time.monotonic() + 10
    while watched.gone() != tasks:
        assert time.monotonic() < deadline
        watched.look()
        time.sleep(0.01)


@pytest.mark.usefixtures("quick")
def test_who_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPC_DL_RUN", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        addresses = {f"worker-{i}": f"127.0.0.1:{server.getsockname()[1]}" for i, server in enumerate((one, two))}
        known = Peers(addresses, Attempt(tmp_path), 100, away=None)
        restarted = Peers(addresses, Attempt(tmp_path), 100, away=100)
        assert known.silent
        for watched in (known, restarted):
            watched.look()
            assert (watched.gone(), watched.silent) == (set(), False)
    late = Peers(addresses, Attempt(tmp_path), 100, away=None)
    # Nobody listens any more: who is not started again is gone, others may come back.
    wait_until_gone(known, set(addresses))
    restarted.look()
    late.look()
    assert restarted.gone() == late.gone() == set()
    (tmp_path / "state" / "0" / "lost").mkdir(parents=True)
    (tmp_path / "state" / "0" / "lost" / "worker-1").touch()
    for watched in (restarted, late):
        watched.look()
        assert watched.gone() == {"worker-1"}


@pytest.mark.usefixtures("quick")
def test_who_waits_says_for_whom_where_since_when_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "_SAY", 0.0)
    monkeypatch.setattr(peers, "UNKNOWN", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        refused = f"127.0.0.1:{server.getsockname()[1]}"
    addresses = {"ps-0": "ps.invalid:2220", "worker-1": refused}
    waiting = Peers(addresses, Attempt(tmp_path), 100, away=None)
    waiting.look()
    told = "waiting: ps 0 (ps.invalid:2220) has not answered for 0 s: Name or service not known; 1 more missing\n"
    assert capsys.readouterr().err == told
    assert waiting.describe("worker-1") == f"worker 1 ({refused}) has not answered for 0 s: Connection refused"
    # A name that does not exist will not come up, other than a process that has not started yet.
    wait_until_gone(waiting, {"ps-0"})


@pytest.mark.parametrize("workers", [2, 3, 9])
def test_each_worker_is_watched_and_nobody_watches_all_but_the_chief(workers: int) -> None:
    everybody = [Cluster((), ("h:1",) * workers, "worker", index) for index in range(workers)]
    watched = [multiworker.watched(cluster) for cluster in everybody]
    assert set(watched[0]) == {f"worker-{index}" for index in range(1, workers)}
    for index in range(1, workers):
        assert set(watched[index]) == {"worker-0", f"worker-{(index + 1) % workers}"}


class Saver:
    """Checkpoints of a graph of one variable and the step."""

    def __init__(self, run_dir: Path) -> None:
        self._graph = tf.Graph()
        with self._graph.as_default():
            self.step = tf1.train.get_or_create_global_step()
            self._set = self.step.assign(tf1.placeholder_with_default(tf.constant(0, tf.int64), ()))
            tf1.get_variable("kernel", (100,))
            self.checkpoints = Checkpoints(run_dir, Attempt(run_dir))
            self.session = tf1.Session()
            self.session.run(tf1.global_variables_initializer())

    def save(self, *steps: int) -> None:
        for step in steps:
            with self._graph.as_default():
                self.session.run(self._set.op, {self._graph.get_tensor_by_name("PlaceholderWithDefault:0"): step})
                assert self.checkpoints.save(self.session, step).rpartition("/")[2].startswith(f"step-{step}")

    def restored(self) -> int | None:
        with self._graph.as_default():
            return int(self.session.run(self.step)) if self.checkpoints.restore(self.session) else None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def files(*prefixes: str) -> set[str]:
    return {f"{prefix}.{end}" for prefix in prefixes for end in ("index", "data-00000-of-00001")}


def tear(folder: Path, prefix: str) -> None:
    data = folder / f"{prefix}.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])


def test_the_newest_checkpoint_is_of_the_latest_attempt(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert newest(tmp_path) is None
    Saver(tmp_path).save(5, 10, 15, 20)
    assert names(folder) == files("step-10", "step-15", "step-20")
    assert not has_saved(tmp_path, 2)
    tear(folder, "step-20")

    monkeypatch.setenv("HPC_DL_ATTEMPT", "2")
    second = Saver(tmp_path)
    assert second.restored() == 15
    assert "step-20 skipped" in capsys.readouterr().err
    second.save(18)
    assert names(folder) == files("step-15", "step-20", "step-18-2")
    assert newest(tmp_path) == str(folder / "step-18-2")
    assert has_saved(tmp_path, 2)
    second.save(21, 24)
    assert names(folder) == files("step-18-2", "step-21-2", "step-24-2")

    # By hand, without a number: nothing that it writes may be older than what it began with.
    monkeypatch.delenv("HPC_DL_ATTEMPT")
    third = Saver(tmp_path)
    assert third.restored() == 24
    third.save(27)
    assert newest(tmp_path) == str(folder / "step-27-2")


def test_the_last_whole_checkpoint_is_never_removed(tmp_path: Path, folder: Path) -> None:
    Saver(tmp_path).save(10, 20, 30, 40)
    for step in (20, 30, 40):
        tear(folder, f"step-{step}")
    saver = Saver(tmp_path)
    assert saver.restored() is None
    saver.save(1)
    assert newest(tmp_path) == str(folder / "step-1")
    saver.save(2, 3)
    assert names(folder) == files("step-1", "step-2", "step-3")
    saver.save(3)  # it is there
    assert names(folder) == files("step-1", "step-2", "step-3")


def test_remains_are_removed_and_torn_ones_replaced(tmp_path: Path, folder: Path) -> None:
    saver = Saver(tmp_path)
    saver.save(1, 2)
    tear(folder, "step-2")
    for name in (".step-9.data-00000-of-00001.tempstate77", ".step-9.index", "step-8.data-00000-of-00001"):
        (folder / name).write_text("half")
    (folder / ".step-9-4.index").write_text("another's, and of a later attempt")
    again = Saver(tmp_path)
    assert again.restored() == 1
    again.save(2)
    assert newest(tmp_path) == str(folder / "step-2")
    assert names(folder) == files("step-1", "step-2") | {".step-9-4.index"}


def test_what_another_attempt_has_taken_over_is_left_alone(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPC_DL_ATTEMPT", "0")
    zombie = Saver(tmp_path)
    zombie.save(1)
    before = names(folder)
    fsync = os.fsync

    def begin_another(descriptor: int) -> None:
        fsync(descriptor)
        (tmp_path / "attempt").write_text("1")

    monkeypatch.setattr(os, "fsync", begin_another)  # while the zombie writes
    with pytest.raises(PeerLostError):
        zombie.save(2)
    assert names(folder) == before


def test_which_errors_are_the_disks() -> None:
    full = os.strerror(errno.ENOSPC)
    assert trouble(OSError(errno.ENOSPC, full)) == full
    assert trouble(tf.errors.ResourceExhaustedError(None, None, f"/run/step; {full}")) == full
    assert trouble(tf.errors.PermissionDeniedError(None, None, "/run/step; Read-only file system")) is not None
    assert trouble(RuntimeError("/run/events; Input/output error")) is not None
    assert trouble(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")) is None
    assert trouble(tf.errors.UnavailableError(None, None, "Connection refused")) is None
    assert trouble(ValueError("shapes")) is None


def test_patience_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("hpc_dl.disk._PAUSE", 0.01)
    tries: list[int] = []

    def write(fails: int = 3) -> str:
        tries.append(1)
        if len(tries) <= fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return "written"

    assert patiently("the result can't be written", write, 100) == "written"
    assert len(tries) == 4
    message = "the result can't be written yet: No space left on device\n"
    assert capsys.readouterr().err == f"hpc-dl: {message}"  # once
    with pytest.raises(DiskError, match="the result can't be written: No space"):
        patiently("the result can't be written", lambda: write(10**9), 0.1)
    with pytest.raises(ZeroDivisionError):
        patiently("", lambda: str(1 / 0), 100)
    stop = Stop()
    stop.requested, stop._since, stop.grace = True, time.monotonic(), disk._NEEDS + 0.2
    with pytest.raises(DiskError):
        patiently("", lambda: write(10**9), 100, stop)


def test_a_log_on_a_full_disk_raises_nothing() -> None:
    with Path("/dev/full").open("wb") as full, pytest.raises(OSError, match="No space"):
        print("to an ordinary stream", file=io.TextIOWrapper(full), flush=True)
    for text in ("a line", "x" * 100_000):
        log = Log(Path("/dev/full").open("wb"), line_buffering=True)  # noqa: SIM115 - closing it fails
        print(text, file=log, flush=True)
        with pytest.raises(OSError, match="No space"):
            log.close()


def test_a_half_written_line_of_metrics_is_cut_off(tmp_path: Path) -> None:
    Metrics(tmp_path, "worker-0", 10, 1).event("imported")
    path = tmp_path / "metrics" / "worker-0.jsonl"
    with path.open("a") as file:
        file.write('{"event": "ses')
    Metrics(tmp_path, "worker-0", 10, 1).event("again")
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["imported", "again"]


def test_a_checkpoint_that_could_not_be_written_is_tried_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Metrics, "scalars", lambda *_: None)
    monkeypatch.setattr(loop, "_SAVE_AGAIN", 0.0)
    made, tried = 0, []

    def step() -> tuple[int, float, float]:
        nonlocal made
        made += 1
        return made, 1.0, 0.5

    def save(at: int) -> str | None:
        tried.append(at)
        return None if len(tried) < 3 else "saved"

    metrics = Metrics(tmp_path, "worker-0", 10, 1)
    loop.train(step, 0, Options(run_dir=tmp_path, steps=10, checkpoint_every=4), metrics, Stop(), save)
    assert tried == [4, 5, 6, 8]


def _chiefs_after_one_another(folder: Path) -> tuple[list[Any], list[str]]:
    """Let three chiefs restore; return what each found and what they did."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in (one, two)]
    cluster = Cluster((addresses[0],), (addresses[1],))
    jobs = {"ps": cluster.ps, "worker": cluster.workers}
    servers = [tf1.train.Server(jobs, job, 0) for job in jobs]
    done: list[str] = []

    def chief(restore: Any) -> Any:
        with tf.Graph().as_default():
            with tf1.device("/job:ps/task:0"):
                step = tf1.train.get_or_create_global_step()
                kernel = tf1.get_variable("kernel", initializer=0.0)
            rendezvous = Rendezvous(cluster, Attempt(folder))
            session = tf1.Session(servers[1].target)
            try:
                return rendezvous.initialise(session, lambda: restore(session, step, kernel)), session.run(step)
            finally:
                session.close()

    def dies(session: Any, step: Any, kernel: Any) -> None:
        session.run([step.assign(500).op, kernel.assign(1.0).op])
        done.append("half")
        raise KeyboardInterrupt

    def restores(session: Any, step: Any, kernel: Any) -> None:
        session.run([step.assign(700).op, kernel.assign(2.0).op])
        done.append("whole")

    with contextlib.suppress(KeyboardInterrupt):
        chief(dies)
    return [chief(restores), chief(dies)], done


def test_a_chief_that_was_killed_while_it_restored_is_followed_by_one_that_does(tmp_path: Path) -> None:
    # In a process of its own, since TensorFlow's servers have no end.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found, done = pool.submit(_chiefs_after_one_another, tmp_path).result()
    assert found == [(True, 700), (False, 700)]
    assert done == ["half", "whole"]
