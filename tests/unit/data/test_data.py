"""The data sets without TensorFlow: format, download, digits."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_dl import data
from hpc_dl.data import binary, description
from hpc_dl.data.folders import build_once
from hpc_dl.errors import UserError

SHAPE = (32, 32, 3)
SIZE = binary.record_bytes(SHAPE)


def records(count: int, seed: int = 0) -> tuple[binary.Bytes, binary.Bytes]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, *SHAPE), np.uint8)
    return images, random.integers(0, 10, count).astype(np.uint8)


def test_the_format_is_label_then_channel_by_channel() -> None:
    content = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes([3]) * 1024
    images, labels = binary.parse(content, "file", SHAPE, 10)
    assert labels.tolist() == [7]
    assert (images[0] == [1, 2, 3]).all()


@given(count=st.integers(1, 5), seed=st.integers(0, 1000))
def test_round_trip(count: int, seed: int) -> None:
    images, labels = records(count, seed)
    again = binary.parse(binary.serialise(images, labels), "file", SHAPE, 10)
    assert np.array_equal(again[0], images)
    assert np.array_equal(again[1], labels)


@given(size=st.integers(0, 4 * SIZE))
def test_a_file_cut_short_is_named_with_its_offset(size: int) -> None:
    if size and size % SIZE == 0:
        assert len(binary.parse(bytes(size), "batch.bin", SHAPE, 10)[1]) == size // SIZE
        return
    with pytest.raises(UserError, match=rf"^batch\.bin: cut short.* offset {size // SIZE * SIZE} "):
        binary.parse(bytes(size), "batch.bin", SHAPE, 10)


@given(record=st.integers(0, 3), label=st.integers(10, 255))
def test_a_wrong_label_is_named_with_its_offset(record: int, label: int) -> None:
    content = bytearray(4 * SIZE)
    content[record * SIZE] = label
    with pytest.raises(UserError, match=rf"^batch\.bin: label {label} of record {record} at offset {record * SIZE}:"):
        binary.parse(bytes(content), "batch.bin", SHAPE, 10)


def test_digits_are_in_the_format_and_each_is_there_once(tmp_path: Path) -> None:
    folder = data.fetch("digits", tmp_path)
    assert folder is not None
    train = binary.read(folder / "data_batch_1.bin", SHAPE, 10)
    test = binary.read(folder / "test_batch.bin", SHAPE, 10)
    assert (len(train[1]), len(test[1])) == (1500, 297)
    from sklearn.datasets import load_digits

    images = np.concatenate([train[0], test[0]])
    assert images.max() == 255
    small = images[:, ::4, ::4, 0]
    expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(image.tobytes() for image in small) == sorted(image.tobytes() for image in expected)
    assert len(set(test[1].tolist())) == 10


def test_unknown_names_get_the_near_match() -> None:
    with pytest.raises(UserError, match=r"unknown data set 'cifar' \(did you mean 'cifar10'\?\): .*'synthetic'"):
        data.describe("cifar")


def test_nothing_to_fetch_for_synthetic(tmp_path: Path) -> None:
    assert data.fetch("synthetic", tmp_path) is None
    assert data.prepare("synthetic", tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_importing_and_checking_needs_no_tensorflow_and_no_numpy() -> None:
    code = (
        "import sys; import hpc_dl.data, hpc_dl.models, hpc_dl.train.options; from pathlib import Path;"
        "hpc_dl.train.options.Options(run_dir=Path('run'), steps=1);"
        "print(sorted({'tensorflow', 'numpy', 'keras'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# The real loader of CIFAR-10, on an archive of the same form served from this machine.


class _Server(BaseHTTPRequestHandler):
    def __init__(self, archive: bytes, limit: list[int], *args: object) -> None:
        self.archive, self.limit = archive, limit
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        begin = int(wanted)
        if begin >= len(self.archive):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(self.archive) - begin))
        self.end_headers()
        # The first answer ends early, as when a connection breaks.
        end = begin + self.limit.pop() if self.limit else len(self.archive)
        self.wfile.write(self.archive[begin:end])

    def log_message(self, *args: object) -> None:
        pass


def cifar_archive(extra: dict[str, bytes] | None = None) -> bytes:
    names = [f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)]
    members = {name: binary.serialise(*records(4, seed)) for seed, name in enumerate(names)}
    members["cifar-10-batches-bin/test_batch.bin"] = binary.serialise(*records(3, 9))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in {**members, **(extra or {})}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[description.Dataset, list[int]]]:
    """CIFAR-10 with 4 images per training file, from a server that can end an answer early."""
    archive = cifar_archive({"../../evil.bin": b"evil", "../data_batch_1.bin.sh": b"evil"})
    limit: list[int] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Server, archive, limit))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    small = dataclasses.replace(
        description.DATASETS["cifar10"],
        url=f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz",
        md5=hashlib.md5(archive, usedforsecurity=False).hexdigest(),
        train_images=20,
        test_images=3,
    )
    monkeypatch.setitem(description.DATASETS, "cifar10", small)
    yield small, limit
    server.shutdown()
    server.server_close()


def test_cifar10_is_where_and_what_its_page_says() -> None:
    real = description.DATASETS["cifar10"]
    assert real.url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert real.md5 == "c32a1d4ab5d03f1284b67883e8d87530"
    assert real.flip
    assert not description.DATASETS["digits"].flip


def test_cifar10_is_downloaded_resumed_checked_and_unpacked(
    cifar: tuple[description.Dataset, list[int]], tmp_path: Path
) -> None:
    _, limit = cifar
    limit.append(1000)
    with pytest.raises(UserError, match=r"can't download .*ended after 1000 of .*put it here: .*cifar-10-binary"):
        data.fetch("cifar10", tmp_path)
    assert (tmp_path / "cifar10" / "cifar-10-binary.tar.gz.part").stat().st_size == 1000
    folder = data.fetch("cifar10", tmp_path)
    assert folder is not None
    assert sorted(path.name for path in folder.iterdir()) == [f"data_batch_{n}.bin" for n in range(1, 6)] + [
        "test_batch.bin"
    ]
    assert binary.read(folder / "data_batch_2.bin", SHAPE, 10)[1].tolist() == records(4, 1)[1].tolist()
    assert not list(tmp_path.glob("**/*evil*"))
    assert not list(tmp_path.glob("cifar10/*.part"))


def test_a_wrong_checksum_is_refused(cifar: tuple[description.Dataset, list[int]], tmp_path: Path) -> None:
    archive = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz: MD5 sum is [0-9a-f]{32}, it must be "):
        data.fetch("cifar10", tmp_path)
    assert not (tmp_path / "cifar10" / "binary").exists()


def test_no_network_says_which_file_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = dataclasses.replace(description.DATASETS["cifar10"], url="http://127.0.0.1:9/cifar-10-binary.tar.gz")
    monkeypatch.setitem(description.DATASETS, "cifar10", closed)
    with pytest.raises(UserError) as caught:
        data.fetch("cifar10", tmp_path)
    assert f"put it here: {tmp_path / 'cifar10' / 'cifar-10-binary.tar.gz'}" in str(caught.value)


def test_a_folder_that_fails_to_build_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").touch()
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        build_once(tmp_path / "folder", lambda folder: folder.exists(), build)
    assert [path.name for path in tmp_path.iterdir()] == [".folder.lock"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*can't be written"):
        data.fetch("digits", tmp_path / "file")


def test_many_at_once_build_one_folder(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "content").write_text("whole")

    def complete(folder: Path) -> bool:
        return (folder / "content").exists()

    threads = [threading.Thread(target=build_once, args=(tmp_path / "folder", complete, build)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert (tmp_path / "folder" / "content").read_text() == "whole"
