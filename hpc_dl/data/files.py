"""The files of a data set: fetched in CIFAR-10's binary format, then made into TFRecord shards, each once.

DATA_DIR/NAME/ARCHIVE        the download, where there is one
DATA_DIR/NAME/binary/*.bin   the images in CIFAR-10's binary format
DATA_DIR/NAME/tfrecord/      shards and meta.json, what training reads
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpc_dl.data.description import Dataset, describe
from hpc_dl.data.folders import build_once

META = "meta.json"
FORMAT = 1  # of the shards; folders of another format are made anew


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
    """Return whether training with a data set needs nothing that is not in `data_dir` yet."""
    dataset = describe(name)
    folder = dataset.folder(data_dir)
    files = (folder / "binary" / file for file in dataset.train_files + dataset.test_files)
    return not dataset.needs_files or is_complete(dataset, folder / "tfrecord") or all(map(Path.is_file, files))


def prepare(name: str, data_dir: Path) -> Path | None:
    """Make sure that the TFRecord shards of a data set are there; cheap, and without TensorFlow, if they are.

    Safe when several processes do it at once: shards are made in a temporary folder that is renamed when complete.

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


def read_meta(folder: Path) -> dict[str, Any]:
    """Return what ``meta.json`` says about the shards in `folder`; empty where it is missing or no JSON object."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def is_complete(dataset: Dataset, folder: Path) -> bool:
    """Say whether all shards of `dataset` are in `folder` with the sizes that they had when they were written."""
    meta = read_meta(folder)
    if meta.get("format") != FORMAT or meta.get("images") != [dataset.train_images, dataset.test_images]:
        return False
    try:
        return all((folder / file).stat().st_size == size for file, size in meta["bytes"].items())
    except OSError:
        return False
