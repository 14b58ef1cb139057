"""Saving and restoring, and what is done when the disk is in trouble."""

from __future__ import annotations

import sys
from typing import Any

from hpc_dl.train.attempt import Attempt
from hpc_dl.train.checkpoints.store import Checkpoints
from hpc_dl.train.disk import patiently, trouble
from hpc_dl.train.options import Options
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.stop import Stop


class Saving:
    """Writes and reads the checkpoints of the current graph.

    Args:
        options: run_dir, start_from, disk_patience.
        attempt: this process's attempt; to save, it must still be the latest.
        metrics: gets an event for each checkpoint that could not be written.
        stop: SIGTERM.
    """

    def __init__(self, options: Options, attempt: Attempt, metrics: Metrics, stop: Stop) -> None:
        self._checkpoints = Checkpoints(options.run_dir, attempt, options.earlier_run)
        self._patience, self._metrics, self._stop = options.disk_patience, metrics, stop

    def restore(self, session: Any) -> bool:
        """Load the newest whole checkpoint, if there is one. Return whether there was one.

        Raises:
            DiskError: the disk can't be read; that does not mean that the checkpoint is torn.
        """
        what = "the newest checkpoint can't be read"
        return patiently(what, lambda: self._checkpoints.restore(session), self._patience, self._stop)

    def save(self, session: Any, step: int) -> str | None:
        """Write a checkpoint and return its prefix; None, with a warning, if the disk does not take it now."""
        try:
            return self._checkpoints.save(session, step)
        except Exception as error:
            if not (reason := trouble(error)):
                raise
        print(
            f"warning: the checkpoint of step {step} can't be written: {reason}; training goes on",
            file=sys.stderr,
            flush=True,
        )
        self._metrics.event("not_saved", step=step, reason=reason)
        return None

    def save_last(self, session: Any, step: int) -> str:
        """Write the final checkpoint and return its prefix.

        Raises:
            DiskError: the checkpoint could not be written in the time that there was.
        """
        what = f"the last checkpoint, of step {step}, can't be written"
        return patiently(what, lambda: self._checkpoints.save(session, step), self._patience, self._stop)
