"""What people see: the placement table, live progress, the summary. Plain lines where the output is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpc_dl.report.live import LiveLimit
from hpc_dl.report.model import Finding
from hpc_dl.runfolder.folder import RunFolder, Summary
from hpc_dl.runfolder.logs import last_lines, screen_lines
from hpc_dl.runfolder.progress import Progress, Totals
from hpc_dl.runfolder.report import duration
from hpc_dl.schedulers.protocol import WAITING, JobState
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import Placement
from hpc_dl.submission.asking import Asking
from hpc_dl.submission.handle import Job

_FRAME = 0.5  # seconds between looks at the metrics files
_LINE = 5.0  # seconds between plain lines
_RESULT = {"test_accuracy", "test_loss", "steps", "steps_per_s", "images_per_s"}  # what the built-in program reports
_ROWS = 24  # nodes that the placement table shows
_OUTPUT = 5  # lines of a script's output that are shown while it runs
_WIDEST = 200  # characters of such a line, and of a value in a script's result


def placement_table(placement: Placement) -> Table:
    """Return the table node x process."""
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for heading in ("node", "process", "GPUs", "cores", "address"):
        table.add_column(heading)
    for shown, (node, processes) in enumerate(placement.by_node().items()):
        if shown == _ROWS:
            table.add_row(f"… {len(placement.nodes) - shown} nodes more")
            break
        for number, process in enumerate(processes):
            table.add_row(
                escape(node) if number == 0 else "",
                f"{process.role} {process.index}",
                escape(process.visible_gpus) or "none",
                process.core_list or "not bound",
                escape(process.address),
            )
    return table


def describe(state: JobState, now: Totals, steps: int | None) -> str:
    """Return one line on a job's state and progress.

    Args:
        state: its state.
        now: its progress.
        steps: global steps that it makes in all; None for a user's script.
    """
    parts = [f"{state.state} ({state.reason})" if state.reason else state.state]
    if state.silent and not state.reason:
        parts.append("Slurm does not answer")
    if state.estimated_start and state.estimated_start > time.time():
        parts.append(f"estimated start {time.strftime('%Y-%m-%d %H:%M', time.localtime(state.estimated_start))}")
    if state.state in WAITING and "held" in state.reason.lower():
        parts.append("`scontrol release` lets it go on")  # JobHeldUser, launch_failed_requeued_held, …
    if state.state in WAITING:
        return "  ".join(parts)
    running = state.state == "RUNNING"
    if running and now.evaluating:
        parts.append("evaluating")
    elif running and not now.workers:
        elapsed = [duration(max(0.0, time.time() - now.begun))] if now.begun else []
        parts += elapsed if elapsed and steps is None else [" for ".join(["starting", *elapsed])]
    if now.workers and steps is not None:
        parts.append(f"step {now.step}/{steps}")
        parts += _speed(now)
        if now.loss is not None:
            parts.append(f"loss {now.loss:.3f}")
        if now.accuracy is not None:
            parts.append(f"accuracy {now.accuracy:.3f}")
        left = now.seconds_left(steps)
        if left is not None and running and not now.evaluating and not now.quiet:
            parts.append(f"{duration(left)} left")
    return "  ".join(parts)


def _speed(now: Totals) -> list[str]:
    if not now.quiet:
        return [f"{now.steps_per_s:.1f} steps/s", f"{now.images_per_s:.0f} images/s"]
    return [] if now.evaluating else [no_step_for(now.quiet)]


def no_step_for(seconds: float) -> str:
    """Return the words for a job that has made no step for so long."""
    return f"no step for {duration(seconds)}"


def watch(job: Job, console: Console) -> JobState:
    """Show a job's progress until it has ended; return its last state."""
    if not console.is_terminal:
        told: list[str] = []

        def say(view: _View) -> None:
            lines = ["  ".join([view.line, *view.output[-1:]])]
            if view.limit and view.limit.what not in told:
                told.append(view.limit.what)
                lines.append(_limit(view.limit))
            for line in lines:
                console.print(line, highlight=False, soft_wrap=True, markup=False)

        return _follow(job, say)
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(view: _View) -> None:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(escape(view.line))
            if view.totals.workers and view.steps:
                done = min(view.totals.step, view.steps)
                grid.add_row(ProgressBar(total=view.steps, completed=done, width=60))
            if view.limit:
                grid.add_row(Text(_limit(view.limit), style="yellow"))
            for line in view.output:
                grid.add_row(Text(line, style="dim", no_wrap=True, overflow="ellipsis"))
            live.update(grid, refresh=True)

        return _follow(job, show, every=0.0)


class _View(msgspec.Struct, frozen=True):
    """What is shown of a job at one time."""

    line: str
    totals: Totals
    steps: int | None
    output: list[str]
    """The last output lines of a user's script."""
    limit: Finding | None = None


def _limit(finding: Finding) -> str:
    return f"Limited by {finding.what}: {finding.why}"


def output_lines(run: RunFolder, spec: JobSpec, state: JobState) -> list[str]:
    """Return the last output lines of a running user's script, from the process that usually prints for all."""
    if not spec.script or state.state != "RUNNING":
        return []
    speaker = "chief:0" if spec.chief else "worker:0"
    return [f"{speaker}  {line[:_WIDEST]}" for line in screen_lines(run.log_of(speaker), _OUTPUT)]


def _follow(job: Job, show: Callable[[_View], None], every: float = _LINE) -> JobState:
    """Show a job's progress at once when its state changes. Show other changes at most every `every` seconds.

    With 0, show it at each look, since elapsed times change.
    """
    spec = job.run.read_job()
    steps = None if spec.script else spec.steps
    progress = Progress(job.run)
    asking = Asking(job.run)
    limit = LiveLimit(job.run)
    shown_at, shown = 0.0, ("", 0, [""])
    while True:
        now = time.monotonic()
        totals = progress.look()
        looked = time.monotonic() - now
        state, ended = asking.look().state, asking.over
        trains = state.state == "RUNNING" and bool(totals.workers or spec.script)
        trains = trains and not totals.evaluating and not totals.quiet
        output = output_lines(job.run, spec, state)
        view = _View(
            describe(state, totals, steps), totals, steps, output, limit.look(trains and state.state == "RUNNING")
        )
        quiet = totals.quiet // 60  # changes once a minute
        said = f"{state.state} {state.reason} {state.silent} {totals.evaluating} {quiet}"
        mark = (said, totals.step, view.output[-1:])
        if mark[0] != shown[0] or ended or not every or (mark != shown and now - shown_at >= every):
            show(view)
            shown, shown_at = mark, now
        if ended:
            return state
        # Reading the metrics of a thousand workers takes long: leave the shared disk to others for most of the time.
        time.sleep(max(_FRAME, 10 * looked))


def summary_lines(job: Job, state: JobState, summary: Summary | None) -> list[str]:
    """Return the lines on a job that has ended: how it ended, its result, its run folder."""
    took = f" after {duration(summary.ended - summary.started)}" if summary else ""
    lines = [f"Job {job.job_id} {state.state}{took}"]
    if summary and summary.attempts > 1:
        lines.append(f"Its processes were started {summary.attempts} times; {job.run.attempts} says why")
    if summary and summary.failure:
        lines.append(str(summary.failure))
    elif state.state != "COMPLETED":
        lines.append(f"The end of {job.run.log}:")
        lines += [f"    {line}" for line in last_lines(job.run.log, 8)]
    result = summary.result if summary else None
    if result and _is_ours(result):
        loss = math.nan if result["test_loss"] is None else result["test_loss"]  # JSON has no NaN
        lines.append(
            f"test accuracy {result['test_accuracy']:.2%}, test loss {loss:.3f};"
            f" {result['steps']} steps, {result['steps_per_s']:.1f} steps/s, {result['images_per_s']:.0f} images/s"
        )
    elif result:
        lines.append("Result: " + ", ".join(f"{_short(key)} = {_short(value)}" for key, value in result.items()))
    lines.append(f"Run folder: {job.run.path}")
    return lines


def _is_ours(result: Mapping[str, Any]) -> bool:
    """Return whether a result is the built-in program's. A user's script may report text under the same names."""
    numbers = [result.get(key) for key in _RESULT - {"test_loss"}]
    loss = result.get("test_loss", "")
    numbers.append(0.0 if loss is None else loss)
    return all(isinstance(number, float) or (isinstance(number, int) and abs(number) < 2**63) for number in numbers)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…"
