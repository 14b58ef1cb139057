"""Status: the states of a file's tasks, while they run and afterwards. It reads only the records."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from hpc_dl.tasks.file.parser import read
from hpc_dl.tasks.file.task import TaskFile
from hpc_dl.tasks.journal import Journal
from hpc_dl.tasks.locks import in_use
from hpc_dl.tasks.messages import Ended
from hpc_dl.tasks.records import newest_records
from hpc_dl.tasks.report import TaskRow, clock, counts, rows
from hpc_dl.tasks.scheduler import TaskState

_LOOK = 1.0  # seconds between two looks at the records
_SHOWN = 20  # running tasks that the live table names


class Status:
    """The tasks of a file and the records of their last run.

    Args:
        file: the task file.
        records: the records folder; None: the one that was written to last.

    Raises:
        UserError: the file can't be read.
    """

    def __init__(self, file: Path, records: Path | None = None) -> None:
        self.file = read(file)
        self._path = file
        self._given = records is not None
        self.folder = records or newest_records(file)
        self._journal = Journal(self.folder)

    @property
    def begun(self) -> bool:
        """Return whether there has been a run."""
        return bool(self._journal.runs)

    def look(self) -> tuple[list[TaskRow], bool]:
        """Return a row for each task, and whether a run goes on now."""
        if not self.begun and not self._given:  # the run may be in a job, which has records of its own
            self.folder = newest_records(self._path)
            self._journal = Journal(self.folder)
        going_on = in_use(self.folder)
        journal = self._journal
        journal.refresh()
        last = journal.last(self.file.tasks)
        # A task that failed before this run began may run again in it.
        since = journal.runs[-1].time if going_on and journal.runs else 0.0
        running = journal.running() if going_on else {}
        attempts = {end.task: end.attempt for end in journal.ends}
        states = _states(self.file, last, since, running)
        return rows(self.file, states, last, attempts, self.folder, running), going_on


def _states(file: TaskFile, last: Mapping[int, Ended], since: float, running: Collection[int]) -> dict[int, TaskState]:
    states: dict[int, TaskState] = {}
    for task in file.tasks:
        end = last.get(task.number)
        if task.number in running:
            state = TaskState.RUNNING
        elif end is not None and (end.ok or end.ended >= since):
            state = TaskState.OK if end.ok else TaskState.STOPPED if end.stopped else TaskState.FAILED
        elif any(states[parent] in (TaskState.FAILED, TaskState.CANCELLED) for parent in task.after):
            state = TaskState.CANCELLED
        else:
            state = TaskState.WAITING
        states[task.number] = state
    return states


def table_lines(table: list[TaskRow]) -> Iterator[str]:
    """Yield the table of all tasks for people, line by line."""
    width = max([12, *(len(row.node) for row in table)])
    yield f"{'task':<12} {'state':<10} {'node':<{width}} {'end':>6} {'seconds':>9} {'MiB':>6}  output"
    for row in table:
        end = f"sig {row.signal}" if row.signal else "" if row.code is None else row.code
        yield (
            f"{_label(row):<12} {row.state.value:<10} {row.node:<{width}} {end:>6} {row.seconds:>9.1f}"
            f" {row.memory or '':>6}  {row.output}"
        ).rstrip()


def summary(table: list[TaskRow], going_on: bool) -> str:
    """Return how many tasks are in each state, in one line."""
    numbers = ", ".join(f"{number} {state.value}" for state, number in counts(table).items() if number)
    return f"{'Running' if going_on else 'Not running'}: {numbers or 'no tasks'}"


def follow(status: Status, console: Console) -> list[TaskRow]:
    """Show a run until it ends, and return its last rows. If it has not begun, wait for it.

    A terminal shows a table of the running tasks. Other output gets a line whenever a count has changed.
    """
    if not console.is_terminal:
        said = ""
        for table, going_on in _looks(status):
            line = summary(table, going_on) if status.begun else "Waiting for the run to begin"
            if line != said:
                console.print(line, highlight=False, soft_wrap=True, markup=False)
                said = line
        return table
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for table, going_on in _looks(status):
            live.update(_live_table(table, summary(table, going_on)), refresh=True)
    return table


def _looks(status: Status) -> Iterator[tuple[list[TaskRow], bool]]:
    while True:
        table, going_on = status.look()
        yield table, going_on
        if status.begun and not going_on:
            return
        time.sleep(_LOOK)


def _live_table(rows_: list[TaskRow], title: str) -> Table:
    """Return the running tasks, those that run longest first."""
    running = sorted((row for row in rows_ if row.state is TaskState.RUNNING), key=lambda row: row.started)
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("task", "node", "running for", "output"):
        table.add_column(heading)
    for row in running[:_SHOWN]:
        table.add_row(escape(_label(row)), escape(row.node), clock(row.seconds), escape(row.output))
    if len(running) > _SHOWN:
        table.add_row(f"… {len(running) - _SHOWN} more")
    return table


def _label(row: TaskRow) -> str:
    return f"{row.number} {row.name}".strip()
