"""The input pipeline: from TFRecord shards, or from generated images, to batches that a network takes.

All operations after the batching work on a whole batch at once: a few large operations instead of many per image. On
one core they take a tenth of the time. Random numbers are stateless functions of (seed, batch number), so a run can be
repeated with any number of threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf

from hpc_dl.data.description import Dataset, describe
from hpc_dl.data.files import prepare
from hpc_dl.data.meta import read_meta

PAD = 4  # pixels on each side before the random crop, as in section 4.2 of "Deep Residual Learning"
PARALLEL = 4  # files read and batches made at the same time
BUFFER = 4  # batches ready before they are asked for
# Nothing here branches on a tensor, so AutoGraph is off. It would write a temporary file per function, which a killed
# process leaves behind.
_plain = tf.autograph.experimental.do_not_convert


def train_batches(name: str, data_dir: Path, batch: int, seed: int, workers: int = 1, index: int = 0) -> Any:
    """Return the endless training batches of one worker.

    Args:
        name: a key of `DATASETS`.
        data_dir: where its files lie; they are made if they are missing.
        batch: images per batch.
        seed: seed of order and augmentation; the same seed gives the same batches.
        workers: number of workers that share the images; each image belongs to one of them.
        index: index of this worker.

    Returns:
        A `tf.data.Dataset` of float32 images [batch, height, width, channels], standardised per channel over the
        training set, and int32 labels [batch].

    Raises:
        UserError: see `hpc_dl.data.prepare`.
    """
    dataset = describe(name)
    if not dataset.needs_files:
        return _synthetic_train_batches(dataset, batch, seed, workers, index)
    folder = prepare(name, data_dir)
    meta = read_meta(folder) if folder else {}
    records = worker_records(_files(folder, "train"), workers, index).cache()
    batches = records.shuffle(dataset.train_images, seed=seed).repeat().batch(batch, drop_remainder=True)

    def make(number: Any, serialised: Any) -> Any:
        images, labels = _parse(serialised, dataset)
        images = augment(images, tf.stack([tf.constant(seed, tf.int64) + index, number]), dataset.flip)
        return _standardise(images, meta), labels

    batches = batches.enumerate().map(_plain(make), num_parallel_calls=PARALLEL, deterministic=True).prefetch(BUFFER)
    return _own_threads(batches)


def test_batches(name: str, data_dir: Path, batch: int) -> Any:
    """Return the test set, each image exactly once and not augmented. The last batch may be smaller.

    Arguments, return value and errors are as in `train_batches`.
    """
    dataset = describe(name)
    if not dataset.needs_files:
        numbers = tf.data.Dataset.range(dataset.train_images, dataset.train_images + dataset.test_images)
        return numbers.batch(batch).map(_plain(lambda number: _synthesise(number, dataset))).prefetch(BUFFER)
    folder = prepare(name, data_dir)
    meta = read_meta(folder) if folder else {}

    def make(serialised: Any) -> Any:
        images, labels = _parse(serialised, dataset)
        return _standardise(images, meta), labels

    return tf.data.TFRecordDataset(_files(folder, "test")).batch(batch).map(_plain(make)).prefetch(BUFFER)


def worker_records(files: list[str], workers: int, index: int) -> Any:
    """Return this worker's records, each once: of its own files if these divide evenly, else every n-th of all."""
    even = len(files) % workers == 0
    mine = files[index::workers] if even else files
    records = tf.data.TFRecordDataset(mine, num_parallel_reads=min(PARALLEL, len(mine)))
    return records if even else records.shard(workers, index)


def augment(images: Any, seed: Any, flip: bool) -> Any:
    """Shift each image by up to 4 pixels (pad with zeros, crop at random) and, if `flip`, mirror a random half.

    Args:
        images: uint8 [batch, height, width, channels].
        seed: two integers.
        flip: whether mirroring is allowed.

    Returns:
        uint8 images of the same shape.
    """
    batch, height, width, _ = images.shape
    shift = tf.random.stateless_uniform([batch, 2], seed, 0, 2 * PAD + 1, tf.int32)
    rows = shift[:, :1] + tf.range(height)
    columns = shift[:, 1:] + tf.range(width)
    if flip:
        mirrored = tf.random.stateless_uniform([batch, 1], seed + 1, 0, 2, tf.int32) == 1
        columns = tf.where(mirrored, columns[:, ::-1], columns)
    padded = tf.pad(images, [[0, 0], [PAD, PAD], [PAD, PAD], [0, 0]])
    pixels = rows[:, :, None] * (width + 2 * PAD) + columns[:, None, :]
    flat = tf.reshape(padded, [batch, (height + 2 * PAD) * (width + 2 * PAD), -1])
    return tf.reshape(tf.gather(flat, tf.reshape(pixels, [batch, -1]), axis=1, batch_dims=1), images.shape)


def _files(folder: Path | None, part: str) -> list[str]:
    return sorted(str(path) for path in folder.glob(f"{part}-*.tfrecord")) if folder else []


def _parse(serialised: Any, dataset: Dataset) -> tuple[Any, Any]:
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    examples = tf.io.parse_example(serialised, features)
    images = tf.io.decode_raw(examples["image"], tf.uint8)
    batch = serialised.shape[0] or -1
    return tf.reshape(images, [batch, *dataset.shape]), tf.cast(examples["label"], tf.int32)


def _standardise(images: Any, meta: dict[str, Any]) -> Any:
    return (tf.cast(images, tf.float32) - meta["mean"]) * [1 / deviation for deviation in meta["deviation"]]


def _synthesise(numbers: Any, dataset: Dataset) -> tuple[Any, Any]:
    """Make the images with these numbers, and their labels: standard normal noise around one colour per class."""
    labels = tf.cast(numbers % dataset.classes, tf.int32)
    patterns = tf.random.stateless_normal([dataset.classes, 1, 1, dataset.shape[-1]], [0, 0])
    # The seed is the first number, so that a batch is the same in every process.
    noise = tf.random.stateless_normal(tf.concat([tf.shape(labels), dataset.shape], 0), [1, numbers[0]])
    return noise + tf.gather(patterns, labels), labels


def _synthetic_train_batches(dataset: Dataset, batch: int, seed: int, workers: int, index: int) -> Any:
    """Make each batch once and then take it from memory, so that input costs nothing."""
    numbers = tf.data.Dataset.range(dataset.train_images).shuffle(dataset.train_images, seed=seed)
    mine = numbers.shard(workers, index).repeat().batch(batch, drop_remainder=True)
    batches = mine.take(max(1, dataset.train_images // workers // batch))
    made = batches.map(_plain(lambda number: _synthesise(number, dataset)))
    return _own_threads(made.cache().repeat().prefetch(BUFFER))


def _own_threads(batches: Any) -> Any:
    """Give the pipeline threads of its own: the training step may hold all other threads of the process for long."""
    options = tf.data.Options()
    options.threading.private_threadpool_size = PARALLEL
    options.deterministic = True
    return batches.with_options(options)
