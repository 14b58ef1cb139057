"""The states of all functions that a program has submitted, asked for together."""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path

from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.protocol import ENDED, JobState
from hpc_dl.submission.states import states

_AGE = 2.0  # seconds for which an answer counts


class Watch:
    """Knows the states of jobs. A loop over a thousand handles puts one question to Slurm, not a thousand."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: weakref.WeakValueDictionary[Path, RunFolder] = weakref.WeakValueDictionary()
        self._said: dict[Path, JobState] = {}
        self._asked_at = -_AGE

    def add(self, run: RunFolder) -> None:
        """Ask for this job too, as long as somebody holds the object."""
        with self._lock:
            self._runs[run.path] = run

    def state(self, run: RunFolder) -> JobState:
        """Return the state of a job as it was at most `_AGE` seconds ago; that of a job that has ended since is new."""
        with self._lock:
            said = self._said.get(run.path)
            if said is None or (said.state not in ENDED and (self._is_old() or run.summary.exists())):
                self._runs.setdefault(run.path, run)
                self._ask()
            return self._said[run.path]

    def _ask(self) -> None:
        runs = [run for path, run in self._runs.items() if not self._ended(path)]
        self._said = {path: said for path, said in self._said.items() if path in self._runs}
        self._said |= {run.path: said for run, said in zip(runs, states(runs), strict=True)}
        self._asked_at = time.monotonic()

    def _is_old(self) -> bool:
        return time.monotonic() - self._asked_at > _AGE

    def _ended(self, path: Path) -> bool:
        return path in self._said and self._said[path].state in ENDED


watch = Watch()
"""That of this program."""
