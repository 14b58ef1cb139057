"""The files of a data set: fetched in CIFAR-10's binary format, then made into TFRecord shards, each once.

DATA_DIR/NAME/ARCHIVE        the download, where there is one
DATA_DIR/NAME/binary/*.bin   the images in CIFAR-10's binary format
DATA_DIR/NAME/tfrecord/      shards and meta.json, what training reads
"""

from __future__ import annotations

from pathlib import Path

from hpc_dl.data.description import describe
from hpc_dl.data.folders import build_once
from hpc_dl.data.meta import is_complete


def fetch(name: str, data_dir: Path) -> Path | None:
    """Make sure that the files of a data set are there, in CIFAR-10's binary format; needs no TensorFlow.

    Returns:
        The folder of the ``.bin`` files, or None where the images are generated.

    Raises:
        UserError: unknown name, no network, wrong checksum, or a folder that can't be written.
    """
    dataset = describe(name)
    if not dataset.needs_files:
        return None
    folder = dataset.folder(data_dir) / "binary"
    names = dataset.train_files + dataset.test_files

    def complete(target: Path) -> bool:
        return all((target / file).is_file() for file in names)

    def build(target: Path) -> None:
        if dataset.needs_download:
            from hpc_dl.data.download import download, unpack  # the HTTP client: 25 ms that most commands need not pay

            archive = dataset.folder(data_dir) / dataset.url.rpartition("/")[2]
            download(dataset.url, dataset.md5, archive)
            unpack(archive, names, target)
        else:
            from hpc_dl.data import digits

            digits.write(dataset, target)

    build_once(folder, complete, build)
    return folder


def is_there(name: str, data_dir: Path) -> bool:
    """Return whether `data_dir` has all files that training with a data set needs."""
    dataset = describe(name)
    folder = dataset.folder(data_dir)
    files = (folder / "binary" / file for file in dataset.train_files + dataset.test_files)
    return not dataset.needs_files or is_complete(dataset, folder / "tfrecord") or all(map(Path.is_file, files))


def prepare(name: str, data_dir: Path) -> Path | None:
    """Make sure that the TFRecord shards of a data set are there. If they are, this is cheap and needs no TensorFlow.

    Several processes may do this at once: shards are made in a temporary folder that is renamed when complete.

    Returns:
        The folder of the shards, or None where the images are generated.

    Raises:
        UserError: as `fetch`, and for files that are cut short or otherwise not of the format.
    """
    dataset = describe(name)
    if not dataset.needs_files:
        return None
    folder = dataset.folder(data_dir) / "tfrecord"

    def build(target: Path) -> None:
        from hpc_dl.data import shards

        binary = fetch(name, data_dir)
        if binary is not None:
            shards.write(dataset, binary, target)

    build_once(folder, lambda target: is_complete(dataset, target), build)
    return folder
