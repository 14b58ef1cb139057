"""Asking for the state of a job until it has ended. All commands that wait for a job use this."""

from __future__ import annotations

import time

from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers import scheduler_of_run
from hpc_dl.schedulers.protocol import ENDED, JobState
from hpc_dl.submission.states import states

FORGOTTEN = 60.0  # seconds of UNKNOWN after which a job counts as forgotten: a busy controller answers by then
_SLOWER = 1.3  # factor by which the pause between two queries grows: many users may ask one slurmctld


class Asking:
    """Asks for the state of a job, less and less often.

    Args:
        run: the job's run folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._first, self._longest = scheduler_of_run(run).pauses
        self._pause = self._first
        self._ask_at, self._known, self._ends = 0.0, time.monotonic(), False
        self.state = JobState("")
        self.over = False
        """Whether the job has ended, or its state has been unknown for `FORGOTTEN` seconds."""

    def look(self) -> Asking:
        """Ask if it is time to, and update `state` and `over`. Call this several times a second."""
        # A job writes its summary last. When that appears, ask at once.
        ends, before = self._run.summary.exists(), self._ends
        if time.monotonic() < self._ask_at and (before or not ends):
            return self
        (self.state,) = states([self._run])
        self._ends = ends
        self._pause = self._first if ends and not before else min(self._pause * _SLOWER, self._longest)
        now = time.monotonic()
        self._ask_at = now + self._pause
        # A scheduler that does not answer may still know the job.
        if self.state.state != "UNKNOWN" or (self.state.silent and not self.state.reason):
            self._known = now
        self.over = self.state.state in ENDED or now - self._known > FORGOTTEN
        return self
