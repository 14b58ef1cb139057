"""CIFAR-10's binary format: per image 1 byte label, then height x width bytes per channel, channels one by one.

Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_dl.errors import UserError

Bytes = NDArray[np.uint8]


def record_bytes(shape: tuple[int, int, int]) -> int:
    """Return the size of one record, label included, for images of (height, width, channels)."""
    height, width, channels = shape
    return 1 + height * width * channels


def parse(content: bytes, name: str, shape: tuple[int, int, int], classes: int) -> tuple[Bytes, Bytes]:
    """Split the content of a file into images and labels.

    Args:
        content: the whole file.
        name: its name, for messages.
        shape: height, width, channels of an image.
        classes: labels are 0 … classes - 1.

    Returns:
        Images [n, height, width, channels] and labels [n].

    Raises:
        UserError: the file ends inside a record, or a label is out of range. The message names file and byte offset.
    """
    size = record_bytes(shape)
    whole, rest = divmod(len(content), size)
    if rest or not whole:
        raise UserError(
            f"{name}: cut short: {len(content)} bytes are no whole number of {size}-byte records; "
            f"record {whole} starts at offset {whole * size} and has {rest} bytes"
        )
    records = np.frombuffer(content, np.uint8).reshape(whole, size)
    labels = records[:, 0]
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        record = int(wrong[0])
        raise UserError(
            f"{name}: label {labels[record]} of record {record} at offset {record * size}: "
            f"allowed are 0 to {classes - 1}"
        )
    height, width, channels = shape
    images = records[:, 1:].reshape(whole, channels, height, width).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels.copy()


def serialise(images: Bytes, labels: Bytes) -> bytes:
    """Return images [n, height, width, channels] and labels [n] in the format that `parse` reads."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    records: Bytes = np.concatenate([labels[:, None], planes], axis=1).astype(np.uint8)
    return records.tobytes()


def read(path: Path, shape: tuple[int, int, int], classes: int) -> tuple[Bytes, Bytes]:
    """Read one file; see `parse`.

    Raises:
        UserError: the file can't be read, or is not of the format.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    return parse(content, str(path), shape, classes)
