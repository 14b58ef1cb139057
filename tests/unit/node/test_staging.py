"""Copying the data set to the node's disk: checked, and gone in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from hpc_dl.data.description import describe
from hpc_dl.data.meta import FORMAT, META
from hpc_dl.errors import JobError
from hpc_dl.node import staging
from hpc_dl.node.staging import staged
from hpc_dl.runfolder.folder import RunFolder, to_toml
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data set that counts as prepared, and signals as they were afterwards."""
    folder = tmp_path / "data" / "digits" / "tfrecord"
    folder.mkdir(parents=True)
    (folder / "train-0.tfrecord").write_bytes(bytes(range(256)) * 10_000)
    (folder / "meta.json").write_text("{}")
    monkeypatch.setattr(staging, "prepare", lambda name, data_dir: data_dir / name / "tfrecord")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    (tmp_path / "disk").mkdir()
    yield tmp_path / "data"
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "disk").iterdir())


def test_the_copy_is_there_while_it_is_needed(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    with staged("digits", data_dir, "$DISK") as copy:
        assert copy.parent == tmp_path / "disk"
        assert copy.stat().st_mode & 0o777 == 0o700
        for file in (data_dir / "digits" / "tfrecord").iterdir():
            assert (copy / "digits" / "tfrecord" / file.name).read_bytes() == file.read_bytes()
    assert left(tmp_path) == []


def test_what_an_earlier_attempt_has_left_makes_room(data_dir: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    for name in ("hpc_dl-ours-1", "hpc_dl-other-1"):
        (disk / name).mkdir()
    (disk / "hpc_dl-ours-2").symlink_to(data_dir)
    with staged("digits", data_dir, str(disk), "ours") as copy:
        assert sorted(path.name for path in disk.glob("*-1")) == ["hpc_dl-other-1"]
        assert (copy / "digits" / "tfrecord" / "meta.json").exists()
        assert copy.name.startswith("hpc_dl-ours-")
    assert (data_dir / "digits").is_dir()


def test_the_copy_goes_when_something_fails(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged("digits", data_dir, str(tmp_path / "disk")):
        raise ZeroDivisionError
    assert left(tmp_path) == []


def test_a_copy_that_differs_is_refused(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.pwrite(descriptor, b"x", 0))
    with (
        pytest.raises(JobError, match=r"stage: the copy .*/meta.json differs from"),
        staged("digits", data_dir, str(tmp_path / "disk")),
    ):
        pass
    assert left(tmp_path) == []


def test_a_full_disk_is_named(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with (
        pytest.raises(JobError, match="disk has 1 MB free, the data set has 3 MB"),
        staged("digits", data_dir, str(tmp_path / "disk")),
    ):
        pass
    assert left(tmp_path) == []


def test_a_disk_that_is_not_there_is_named(data_dir: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(JobError, match=r"absent.*: No such file or directory"),
        staged("digits", data_dir, str(tmp_path / "absent")),
    ):
        pass


_SHARES = """
import sys, time, pathlib
from hpc_dl.node import staging
data, disk, name = map(pathlib.Path, sys.argv[1:])
staging.prepare = lambda name, data_dir: data_dir / name / "tfrecord"
real = staging._copy
def slow(source, target):
    (disk.parent / f"copied-{name}").touch()
    time.sleep(0.5)
    real(source, target)
staging._copy = slow
with staging.staged("digits", data, str(disk), "ours") as copy:
    assert (copy / "digits" / "tfrecord" / "train-0.tfrecord").stat().st_size == 2_560_000
    print(copy, flush=True)
    sys.stdin.read()
    assert (copy / "digits" / "tfrecord" / "train-0.tfrecord").stat().st_size == 2_560_000
"""


def test_the_ranks_of_a_node_share_a_copy(data_dir: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    command = [sys.executable, "-c", _SHARES, str(data_dir), str(disk)]
    ranks = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    try:
        copies = {rank.stdout.readline() for rank in ranks if rank.stdout}
        assert len(copies) == 1
        assert len(list(tmp_path.glob("copied-*"))) == 1, "one rank copied for all"
        ranks[0].kill()  # one that dies does not take the copy with it
        ranks[0].wait()
        ranks[1].communicate("")
        assert [name for name in left(tmp_path) if not name.endswith(".lock")] == [Path(copies.pop().strip()).name]
        for rank in ranks[2:]:
            rank.communicate("")
        assert [rank.returncode for rank in ranks[1:]] == [0, 0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert left(tmp_path) == []


def test_a_copy_that_another_could_not_make_is_made_again(data_dir: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (disk / "hpc_dl-ours.lock").touch()
    (disk / "hpc_dl-ours-half").mkdir()
    with staged("digits", data_dir, str(disk), "ours") as copy:
        assert (copy / "digits" / "tfrecord" / "meta.json").exists()
        assert not (disk / "hpc_dl-ours-half").exists()
    assert left(tmp_path) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_lock_of_another_user_is_not_taken(data_dir: Path, tmp_path: Path) -> None:
    lock = tmp_path / "disk" / "hpc_dl-ours.lock"
    lock.write_text(str(tmp_path))
    os.chown(lock, 65534, 65534)
    with pytest.raises(JobError, match="belongs to another user"), staged("digits", data_dir, str(lock.parent), "ours"):
        pass


def test_a_generated_data_set_is_not_copied(tmp_path: Path) -> None:
    with staged("synthetic", tmp_path, "/absent") as folder:
        assert folder == tmp_path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which digits count as prepared."""
    top = tmp_path_factory.mktemp("data")
    digits = describe("digits")
    folder = digits.folder(top) / "tfrecord"
    folder.mkdir(parents=True)
    (folder / "train-0.tfrecord").write_bytes(bytes(1000))
    images, sizes = [digits.train_images, digits.test_images], {"train-0.tfrecord": 1000}
    (folder / META).write_text(json.dumps({"format": FORMAT, "images": images, "bytes": sizes}))
    return top


@pytest.fixture
def run(tmp_path: Path, prepared: Path) -> RunFolder:
    """A run folder of a job that stages digits."""
    (tmp_path / "disk").mkdir()
    folder = RunFolder.create(tmp_path / "run")
    folder.job_file.write_text(to_toml(JobSpec(stage=True, workdir=str(tmp_path))))
    folder.site_file.write_text(to_toml(Site(cores=1, local_disk=str(tmp_path / "disk"), data=str(prepared))))
    folder.cluster.write_bytes(msgspec.json.encode({"worker": ["a:1"]}))
    return folder


def launched(run: RunFolder, script: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "hpc_dl",
        "launch",
        "--run",
        str(run.path),
        "--node",
        "n1",
        "--grace",
        "5",
        "--stage",
    ]
    command += [":::", "worker:0", "sh", "-c", script, "--data-dir=/shared"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("code", [0, 3])
def test_the_launcher_stages_and_cleans_up(run: RunFolder, tmp_path: Path, code: int) -> None:
    process = launched(run, f'ls "${{1#--data-dir=}}/digits/tfrecord"; exit {code}')
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "meta.json" in run.log_of("worker:0").read_text()
    assert left(tmp_path) == []


def test_the_launcher_cleans_up_after_sigterm(run: RunFolder, tmp_path: Path) -> None:
    process = launched(run, "sleep 60")
    try:
        deadline = time.monotonic() + 30
        while not run.log_of("worker:0").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(left(tmp_path)) == 2, "the copy and its lock"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 143
    finally:
        process.kill()
        process.wait()
    assert left(tmp_path) == []


def test_a_failure_to_stage_is_the_jobs_first_cause(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "disk").rmdir()
    process = launched(run, "true")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "No such file or directory" in output
    failure = run.read_failure()
    assert failure is not None
    assert str(failure).startswith("stage on node n1 ended with exit code 1; its last lines:\n    stage: ")
    assert not run.logs.exists()
