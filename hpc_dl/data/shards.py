"""TFRecord shards: a few large files instead of many small ones, which suits parallel file systems.

Each record is a `tf.train.Example` with ``image`` (height x width x channels bytes) and ``label`` (one integer).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hpc_dl.data import binary
from hpc_dl.data.binary import Bytes
from hpc_dl.data.description import Dataset
from hpc_dl.data.meta import FORMAT, META
from hpc_dl.errors import UserError

TRAIN_SHARDS = 16  # each worker reads files of its own if they divide evenly
TEST_SHARDS = 1


def load(dataset: Dataset, folder: Path, files: tuple[str, ...], expected: int) -> tuple[Bytes, Bytes]:
    """Read and join binary files: images [n, height, width, channels] and labels [n].

    Raises:
        UserError: a file is not of the format, or together they don't hold `expected` images.
    """
    parts = [binary.read(folder / file, dataset.shape, dataset.classes) for file in files]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if len(labels) != expected:
        raise UserError(f"{folder}: {', '.join(files)} hold {len(labels)} images, there must be {expected}")
    return images, labels


def write(dataset: Dataset, binary_folder: Path, folder: Path) -> None:
    """Write the shards of both parts and, last, ``meta.json`` with their sizes, mean and deviation per channel.

    Raises:
        UserError: see `load`; or TensorFlow is not installed.
    """
    train = load(dataset, binary_folder, dataset.train_files, dataset.train_images)
    test = load(dataset, binary_folder, dataset.test_files, dataset.test_images)
    names = _write_part(folder, "train", *train, TRAIN_SHARDS) + _write_part(folder, "test", *test, TEST_SHARDS)
    pixels = train[0].astype(np.float32)
    meta = {
        "format": FORMAT,
        "name": dataset.name,
        "images": [len(train[1]), len(test[1])],
        "mean": pixels.mean(axis=(0, 1, 2), dtype=np.float64).round(4).tolist(),
        "deviation": pixels.std(axis=(0, 1, 2), dtype=np.float64).round(4).tolist(),
        "bytes": {name: (folder / name).stat().st_size for name in names},
    }
    (folder / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def _write_part(folder: Path, part: str, images: Bytes, labels: Bytes, shards: int) -> list[str]:
    """Write one part in `shards` files, image i into shard i modulo `shards`, and return their names."""
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        raise UserError("writing TFRecord shards needs TensorFlow in this environment") from error
    names = [f"{part}-{shard:05d}-of-{shards:05d}.tfrecord" for shard in range(shards)]
    for shard, name in enumerate(names):
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for image, label in zip(images[shard::shards], labels[shard::shards], strict=True):
                feature = {
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    return names
