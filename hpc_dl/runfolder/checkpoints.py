"""Checkpoints, known from the names of their files, without TensorFlow.

The files of step 500 are ``step-500.index`` and ``step-500.data-*``, and ``step-500-2.*`` in attempt 2. So a process of
an earlier attempt that still runs somewhere writes other files. The newest checkpoint has the highest (attempt, step).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(
    r"(?P<hidden>\.?)step-(?P<step>\d+)(-(?P<attempt>[1-9]\d*))?\.(?P<part>index|data-\d+-of-\d+)(?P<rest>.*)"
)


class Checkpoint(NamedTuple):
    """A checkpoint; the largest is the newest."""

    attempt: int
    step: int

    @property
    def name(self) -> str:
        """Return the name that its files begin with."""
        return f"step-{self.step}-{self.attempt}" if self.attempt else f"step-{self.step}"


class CheckpointFile(NamedTuple):
    """A file of a checkpoint."""

    name: str
    checkpoint: Checkpoint
    is_index: bool
    published: bool
    """Whether it has its final name. Other files are being written, or are left over."""


def files(folder: Path) -> list[CheckpointFile]:
    """Return all files of checkpoints in a folder, also files that are being written and files that are left over."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - faster than pathlib on a shared disk
    except FileNotFoundError:
        return []
    matches = (match for name in names if (match := _NAME.fullmatch(name)))
    return [
        CheckpointFile(
            match[0],
            Checkpoint(int(match["attempt"] or 0), int(match["step"])),
            match["part"] == "index",
            not match["hidden"] and not match["rest"],
        )
        for match in matches
    ]


def published(folder: Path) -> list[Checkpoint]:
    """Return the checkpoints in a folder, the newest last. The contents of their files are not checked."""
    return sorted(file.checkpoint for file in files(folder) if file.is_index and file.published)
