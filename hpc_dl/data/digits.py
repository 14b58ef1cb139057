"""scikit-learn's digits (E. Alpaydin, C. Kaynak, UCI repository, 1998), bundled with it, in CIFAR-10's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpc_dl.data import binary
from hpc_dl.data.description import Dataset
from hpc_dl.errors import UserError

_SPLIT_SEED = 1797  # the split between training and test images never changes


def write(dataset: Dataset, folder: Path) -> None:
    """Write the training and test file into `folder`: 8x8 grey images of 0 … 16, made 32x32x3 of 0 … 255.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise UserError(f"data set {dataset.name!r} needs scikit-learn in this environment") from error
    bundle = load_digits()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(bundle.target))
    grey = np.rint(bundle.images[order] * (255 / 16)).astype(np.uint8)
    height, width, channels = dataset.shape
    images = grey.repeat(height // 8, axis=1).repeat(width // 8, axis=2)[..., None].repeat(channels, axis=3)
    labels = bundle.target[order].astype(np.uint8)
    train, test = np.split(np.arange(len(labels)), [dataset.train_images])
    for name, part in ((dataset.train_files[0], train), (dataset.test_files[0], test)):
        (folder / name).write_bytes(binary.serialise(images[part], labels[part]))
