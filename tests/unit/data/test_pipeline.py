"""TFRecord shards and the input pipeline."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from hpc_dl import data
from hpc_dl.data import pipeline
from hpc_dl.errors import UserError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    data.prepare("digits", folder)
    return folder


def shard_files(data_dir: Path) -> list[str]:
    return sorted(map(str, (data_dir / "digits" / "tfrecord").glob("train-*.tfrecord")))


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 16, 20])
def test_workers_share_the_images_and_none_is_left_out(data_dir: Path, workers: int) -> None:
    files = shard_files(data_dir)
    shares = [list(pipeline.worker_records(files, workers, index).as_numpy_iterator()) for index in range(workers)]
    seen = Counter(record for share in shares for record in share)
    assert seen == Counter(pipeline.worker_records(files, 1, 0).as_numpy_iterator())
    assert sum(seen.values()) == 1500
    assert max(map(len, shares)) - min(map(len, shares)) <= 16


def test_batches_are_standardised_and_repeatable(data_dir: Path) -> None:
    def first(seed: int, count: int = 12) -> list[tuple[np.ndarray, np.ndarray]]:  # type: ignore[type-arg]
        return list(pipeline.train_batches("digits", data_dir, 128, seed).take(count).as_numpy_iterator())

    batches = first(1)
    images = np.concatenate([batch[0] for batch in batches])
    assert images.dtype == np.float32
    assert images.shape == (12 * 128, 32, 32, 3)
    assert abs(float(images.mean())) < 0.1
    assert abs(float(images.std()) - 1) < 0.1
    assert all(
        np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(batches, first(1), strict=True)
    )
    assert not np.array_equal(batches[0][0], first(2, 1)[0][0])


def test_augmentation_shifts_and_mirrors() -> None:
    images = np.random.default_rng(0).integers(1, 256, (64, 32, 32, 3), np.uint8)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))

    def origin(original: np.ndarray, changed: np.ndarray) -> tuple[int, int, bool]:  # type: ignore[type-arg]
        for y in range(9):
            for x in range(9):
                crop = original[y : y + 32, x : x + 32]
                for mirrored in (False, True):
                    if np.array_equal(crop[:, ::-1] if mirrored else crop, changed):
                        return y, x, mirrored
        raise AssertionError("not a crop of the padded image")

    for flip in (False, True):
        changed = pipeline.augment(tf.constant(images), tf.constant([1, 2], tf.int64), flip).numpy()
        found = [origin(*pair) for pair in zip(padded, changed, strict=True)]
        assert len({(y, x) for y, x, _ in found}) > 30
        assert {mirrored for _, _, mirrored in found} == ({False, True} if flip else {False})


@pytest.mark.parametrize(("name", "images"), [("digits", 297), ("synthetic", 256)])
def test_the_test_set_is_seen_once_with_the_last_batch(data_dir: Path, name: str, images: int) -> None:
    batches = list(pipeline.test_batches(name, data_dir, 100).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [100] * (images // 100) + [images % 100]
    assert len({image.tobytes() for batch, _ in batches for image in batch}) > images * 0.95


def test_synthetic_batches_differ_between_workers_and_repeat(tmp_path: Path) -> None:
    def labels(index: int) -> list[int]:
        batches = pipeline.train_batches("synthetic", tmp_path, 32, 0, 2, index).take(32).as_numpy_iterator()
        return [int(label) for _, batch in batches for label in batch]

    assert labels(0)[:512] == labels(0)[512:]  # 1,024 images, two workers: the second epoch is the first again
    assert labels(0) != labels(1)


def test_small_shards_can_fill_a_large_batch(tmp_path: Path) -> None:
    batch, _ = next(pipeline.train_batches("synthetic", tmp_path, 2048, 0).as_numpy_iterator())
    assert batch.shape == (2048, 32, 32, 3)


def test_torn_shards_are_made_anew_and_torn_sources_are_named(tmp_path: Path) -> None:
    folder = data.prepare("digits", tmp_path)
    assert folder is not None
    meta = (folder / "meta.json").read_text()
    shard = folder / "train-00003-of-00016.tfrecord"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    data.prepare("digits", tmp_path)
    assert shard.read_bytes() == whole
    assert (folder / "meta.json").read_text() == meta
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        ".binary.lock",
        ".tfrecord.lock",
        "binary",
        "tfrecord",
    ]

    source = tmp_path / "digits" / "binary" / "data_batch_1.bin"
    source.write_bytes(source.read_bytes()[:-1])
    (folder / "meta.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(UserError, match=r"data_batch_1\.bin: cut short"):
        data.prepare("digits", tmp_path)
    source.write_bytes(source.read_bytes()[:3073])
    with pytest.raises(UserError, match="hold 1 images, there must be 1500"):
        data.prepare("digits", tmp_path)
