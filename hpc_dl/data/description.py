"""The data sets, as far as they are known without their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpc_dl.errors import UserError, allowed, near_match


@dataclass(frozen=True)
class Dataset:
    """A set of small images of one shape, each with one label."""

    name: str
    description: str
    classes: int
    shape: tuple[int, int, int]  # height, width, channels
    train_images: int
    test_images: int
    flip: bool  # whether a mirrored image keeps its class
    train_files: tuple[str, ...] = ()  # in CIFAR-10's binary format; none: images are generated
    test_files: tuple[str, ...] = ()
    url: str = ""  # of the archive that holds the files; none: nothing to download
    md5: str = ""

    @property
    def needs_download(self) -> bool:
        """Whether `fetch` needs the network."""
        return bool(self.url)

    @property
    def needs_files(self) -> bool:
        """Whether training reads files (else the images are generated in the input pipeline)."""
        return bool(self.train_files)

    def folder(self, data_dir: Path) -> Path:
        """Return the folder of all files of this data set."""
        return data_dir / self.name


# https://www.cs.toronto.edu/~kriz/cifar.html
_CIFAR10 = Dataset(
    name="cifar10",
    description="CIFAR-10: 60,000 colour photographs in 10 classes (A. Krizhevsky, 2009)",
    classes=10,
    shape=(32, 32, 3),
    train_images=50_000,
    test_images=10_000,
    flip=True,
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_files=("test_batch.bin",),
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
)

_DIGITS = Dataset(
    name="digits",
    description="scikit-learn's 1,797 handwritten digits, made 32x32x3, in CIFAR-10's format; works offline",
    classes=10,
    shape=(32, 32, 3),
    train_images=1_500,
    test_images=297,
    flip=False,
    train_files=("data_batch_1.bin",),
    test_files=("test_batch.bin",),
)

_SYNTHETIC = Dataset(
    name="synthetic",
    description="noise with a different colour per class, generated in memory; measures training without input",
    classes=10,
    shape=(32, 32, 3),
    train_images=1_024,
    test_images=256,
    flip=True,
)

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (_DIGITS, _CIFAR10, _SYNTHETIC)}


def describe(name: str) -> Dataset:
    """Return the data set called `name`.

    Raises:
        UserError: there is none. The message lists the known names and the nearest one.
    """
    if name not in DATASETS:
        raise UserError(f"unknown data set {name!r}{near_match(name, DATASETS)}: allowed are {allowed(DATASETS)}")
    return DATASETS[name]
