"""The files of a function that was submitted in place of a script. The process that runs it imports nothing more.

Each attempt of the job has results of its own: a process that still runs on a node that was cut off writes elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from hpc_dl.disk import write_whole


class FunctionFiles:
    """The files of a function in the run folder of its job.

    Args:
        run: the run folder.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / "function"
        self.description = self.folder / "description.json"
        self._results = run / "results"

    def submitted(self, attempt: int = 0) -> Path:
        """Return the pickle of what an attempt runs: what was submitted, or what an earlier attempt's checkpoint made.

        An attempt whose checkpoint wanted no other one has left an empty file for the next.
        """
        made = [path for number in range(attempt, 0, -1) if (path := self.following(number - 1)).exists()]
        return made[0] if made else self.folder / "0.pkl"

    def take_over(self, earlier: FunctionFiles, attempt: int) -> None:
        """Begin with what an attempt of an earlier job would have run."""
        self.folder.mkdir(mode=0o700)
        write_whole(self.description, earlier.description.read_bytes())
        made = [path for number in range(attempt, -1, -1) if (path := earlier.submitted(number)).stat().st_size]
        write_whole(self.submitted(), made[0].read_bytes())

    def following(self, attempt: int) -> Path:
        """Return the file for what the attempt after this one runs."""
        return self.folder / f"{attempt + 1}.pkl"

    def results(self, attempt: int) -> Path:
        """Return the folder of an attempt's results."""
        return self._results / str(attempt)

    def result(self, attempt: int, process: str) -> Path:
        """Return the file of what the function returned or raised in process ``worker:3``."""
        return self.results(attempt) / f"{process.replace(':', '-')}.pkl"

    def goes_on(self, attempt: int, ended_by: str) -> bool:
        """Return whether a job that was told to end has a reason to start again.

        After preemption the function begins anew. At its time limit it would only come to the same end, unless its
        checkpoint has said what follows. A job without a function always has a reason.

        Args:
            attempt: the attempt that has ended.
            ended_by: ``time limit`` or ``preemption``.
        """
        if not self.folder.exists():
            return True
        following = self.following(attempt)
        return following.stat().st_size > 0 if following.exists() else ended_by == "preemption"
