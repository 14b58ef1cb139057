"""What limits a job that runs, from what its monitors saw in the last minute."""

from __future__ import annotations

import time

import msgspec

from hpc_dl.monitor.reading import read_end
from hpc_dl.report.bottleneck import findings
from hpc_dl.report.measured import read_placement, site_of
from hpc_dl.report.model import Finding
from hpc_dl.report.situation import Situation, uses
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.spec.modes import MODES

_WINDOW = 60.0  # seconds that are looked at, and for which a job must have trained
_PAUSE = 15.0  # seconds between looks


class LiveLimit:
    """Follows the monitor files of a run folder.

    Args:
        run: the job's run folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._since: float | None = None  # when the job was first seen to train
        self._looked = 0.0
        self._found: Finding | None = None

    def look(self, trains: bool) -> Finding | None:
        """Return what limits the job most; None: nothing, or it has not trained for long enough.

        Args:
            trains: whether the job makes steps now.
        """
        now = time.time()
        if not trains:
            self._since, self._found = None, None
            return None
        self._since = self._since or now
        if now - self._since >= _WINDOW and now - self._looked >= _PAUSE:
            self._looked = now
            self._found = next(iter(findings(self._situation(now - _WINDOW))), None)
        return self._found

    def _situation(self, since: float) -> Situation:
        site, placement, job = site_of(self._run), read_placement(self._run), self._run.read_job()
        nodes = {}
        for path in sorted(self._run.monitor.glob("*.jsonl")):
            node = read_end(path)
            nodes[path.stem] = msgspec.structs.replace(node, rates=[rate for rate in node.rates if rate.time > since])
        processes, used = uses(nodes, placement, site)
        return Situation(processes, used, MODES[job.mode].synchronous and not job.script)
