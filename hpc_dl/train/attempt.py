"""Which start of a job's processes this one belongs to, and what the launchers say in the run folder.

An attempt is one start of all processes of a job; they are counted from 0, over requeues and over restarts in the same
allocation. A process of an earlier attempt may still run, on a node that was cut off from the network: it must write
nothing any more once a later attempt has begun.
"""

from __future__ import annotations

import os
from pathlib import Path

from hpc_dl.errors import PeerLostError, UserError


class Attempt:
    """The attempt of this process.

    Args:
        run_dir: the training's folder, which is the job's own where there is no launcher.

    Raises:
        UserError: HPC_DL_ATTEMPT is no number.
    """

    def __init__(self, run_dir: Path) -> None:
        launched = os.environ.get("HPC_DL_RUN")
        folder = Path(launched) if launched else run_dir
        self._latest = folder / "attempt"
        text = os.environ.get("HPC_DL_ATTEMPT", "")
        if text and not text.isdecimal():
            raise UserError(f"HPC_DL_ATTEMPT: {text!r} is not allowed; it must be a number from 0 up")
        # Who starts a process by hand means it to go on from whatever was last.
        self.number = int(text) if text else self._read()
        self._state = folder / "state" / str(self.number) if launched else None
        self.owns_folder = bool(launched and text) and folder.resolve() == run_dir.resolve()
        """Whether what is in the training's folder is of this job alone."""

    def check(self) -> None:
        """Look whether this attempt is still the latest; to be done before anything is published.

        Raises:
            PeerLostError: a later one has taken over.
            OSError: that can't be read.
        """
        if (latest := self._read()) > self.number:
            raise PeerLostError(
                f"attempt {latest} has taken over from this one, attempt {self.number}: nothing is written"
            )

    def done(self, task: str) -> bool:
        """Say whether a launcher has seen the process ``worker-3`` end well."""
        return self._state is not None and os.path.exists(self._state / "done" / task)  # noqa: PTH110 - never raises

    def given_up(self, task: str) -> bool:
        """Say whether a launcher will not start the process ``worker-3`` again."""
        return self._state is not None and os.path.exists(self._state / "lost" / task)  # noqa: PTH110 - never raises

    def _read(self) -> int:
        try:
            return int(self._latest.read_text(encoding="ascii"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return 0
