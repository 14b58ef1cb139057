"""Jobs as a table, for notebooks and terminals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.protocol import ENDED, JobState
from hpc_dl.submission.asking import FORGOTTEN
from hpc_dl.submission.states import states, status

_ROWS = 20  # the most jobs that have a row of their own
_PAUSE = 2.0  # seconds between two questions for the states


def table(runs: Sequence[RunFolder], said: Sequence[JobState]) -> Table:
    """Return a row for each job; for many jobs, a row for each state."""
    if len(runs) > _ROWS:
        found = Table("State", "Jobs")
        for word, number in Counter(state.state for state in said).most_common():
            found.add_row(word, str(number))
        return found
    found = Table("Job", "Name", "State", "Nodes", "Time", "Step")
    for run, state in zip(runs, said, strict=True):
        if not run.job_file.exists():
            found.add_row(escape(run.job_id), "", state.state, "", "", "")
            continue
        now = status(run, state)
        took = timedelta(seconds=round((now.ended or time.time()) - now.started)) if now.started else ""
        step = f"{now.step}/{now.steps}" if now.steps and now.step is not None else ""
        where = f"{now.state} ({now.reason})" if now.reason else now.state
        found.add_row(escape(now.job_id), now.name, escape(where), escape(now.nodelist), str(took), step)
    return found


def watch(runs: Sequence[RunFolder], pause: float = _PAUSE) -> None:
    """Show the table of jobs until all have ended. In a notebook it changes in place, if ipywidgets is there."""
    known = time.monotonic()
    with Live(auto_refresh=False) as live:
        while True:
            said = states(runs)
            live.update(table(runs, said), refresh=True)
            going = [state for state in said if state.state not in ENDED]
            if any(state.state != "UNKNOWN" for state in going):
                known = time.monotonic()
            if not going or time.monotonic() - known > FORGOTTEN:
                return
            time.sleep(pause)
