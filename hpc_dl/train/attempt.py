"""The attempt that this process belongs to, and what the launchers record about it in the run folder.

An attempt is one start of all processes of a job. Attempts are counted from 0, over requeues and over restarts in the
same allocation. A process of an earlier attempt may still run on a node that was cut off from the network. Once a later
attempt has begun, that process must write nothing any more.
"""

from __future__ import annotations

import os
from pathlib import Path

from hpc_dl.errors import PeerLostError, UserError


class Attempt:
    """The attempt of this process.

    Args:
        run_dir: the training's folder. Without a launcher (HPC_DL_RUN is not set) it is the job's run folder too.

    Raises:
        UserError: HPC_DL_ATTEMPT is not a number.
    """

    def __init__(self, run_dir: Path) -> None:
        launched = os.environ.get("HPC_DL_RUN")
        folder = Path(launched) if launched else run_dir
        self._latest = folder / "attempt"
        text = os.environ.get("HPC_DL_ATTEMPT", "")
        if text and not text.isdecimal():
            raise UserError(f"HPC_DL_ATTEMPT: {text!r} is not allowed; it must be a number from 0 up")
        # A process that was started by hand belongs to the latest attempt.
        self.number = int(text) if text else self._read()
        self._state = folder / "state" / str(self.number) if launched else None
        self.owns_folder = bool(launched and text) and folder.resolve() == run_dir.resolve()
        """Whether the training's folder is the job's run folder: then all files in it belong to this job."""

    def check(self) -> None:
        """Check that this attempt is still the latest. Call this before anything is published.

        Raises:
            PeerLostError: a later attempt has taken over.
            OSError: the number of the latest attempt can't be read.
        """
        if (latest := self._read()) > self.number:
            raise PeerLostError(
                f"attempt {latest} has taken over from this one, attempt {self.number}: nothing is written"
            )

    def done(self, task: str) -> bool:
        """Return whether a launcher has recorded that `task`, such as ``worker-3``, ended successfully."""
        return self._state is not None and os.path.exists(self._state / "done" / task)  # noqa: PTH110 - never raises

    def given_up(self, task: str) -> bool:
        """Return whether a launcher has given up `task`, such as ``worker-3``: it is not restarted any more."""
        return self._state is not None and os.path.exists(self._state / "lost" / task)  # noqa: PTH110 - never raises

    def _read(self) -> int:
        try:
            return int(self._latest.read_text(encoding="ascii"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return 0
