"""Commands that show what jobs measured: report, compare."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc_dl.cli.arguments import JOB, JOBS, RUNS

if TYPE_CHECKING:
    from hpc_dl.report.model import Report

_HTML = click.option(
    "--html",
    metavar="[FILE]",
    is_flag=False,
    flag_value="1",
    envvar="HPC_DL_HTML",
    help="also write a page with figures, here or to FILE",
)
_OUT = click.option(
    "--out",
    metavar="FOLDER",
    envvar="HPC_DL_OUT",
    help="also write the page, its figures (SVG, PNG, JSON) and its tables (CSV, JSON) to FOLDER",
)


@click.command()
@JOB
@RUNS
@_HTML
@_OUT
@click.option("--one", metavar="JOB", envvar="HPC_DL_ONE", help="a job with one worker, whose speed shows the ideal")
def report(job: str, runs: str, html: str | None, out: str | None, one: str | None) -> int:
    """Print what JOB's processes did: step times, bytes, confusion matrix (a job id or run folder; default: newest).

    The page has curves of loss and accuracy, throughput, CPU and traffic of each node, costs, and what limits the job.
    It is one file that needs no other, in the run folder unless FILE is given.
    """
    from hpc_dl.cli.status import print_status
    from hpc_dl.runfolder.report import report_lines
    from hpc_dl.submission.handle import find_job

    handle = find_job(job, Path(runs))
    state = handle.query()
    print_status(handle, state)
    for line in report_lines(handle.run):
        click.echo(line)
    if html or out:
        from hpc_dl.report.compare import images_per_s
        from hpc_dl.report.measured import measure
        from hpc_dl.report.one_job import report_of

        single = images_per_s(measure(find_job(one, Path(runs)).run)) if one else None
        words = ["hpc-dl", "report", str(handle.run.path.absolute()), "--html", *(["--one", one] if one else [])]
        page = report_of(measure(handle.run), state.state, shlex.join(words), single)
        _write(page, html, handle.run.path / "report.html", out)
    return 0


@click.command()
@JOBS
@RUNS
@_HTML
@_OUT
def compare(jobs: tuple[str, ...], runs: str, html: str | None, out: str | None) -> int:
    """Print a table of each JOB's speed, accuracy and cost (job ids or run folders; default: the newest).

    The speedup is that over the job with the fewest workers, of those with the same network, data set and batch. The
    page is ./compare.html unless FILE is given.
    """
    from hpc_dl.report.compare import compare as report_of
    from hpc_dl.report.measured import measure
    from hpc_dl.report.page import cell_text
    from hpc_dl.submission.handle import find_jobs
    from hpc_dl.submission.states import states

    handles = find_jobs(jobs or [""], Path(runs))
    found = [state.state for state in states([handle.run for handle in handles])]
    words = ["hpc-dl", "compare", *(str(handle.run.path.absolute()) for handle in handles), "--html"]
    page = report_of([measure(handle.run) for handle in handles], found, shlex.join(words))
    table = page.tables[0]
    lines = [list(table.columns), *([cell_text(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    if html or out:
        _write(page, html, Path("compare.html"), out)
    return 0


def _write(page: Report, html: str | None, default: Path, out: str | None) -> None:
    """Write a report where the options say, and print where it is."""
    from hpc_dl.disk import write_whole
    from hpc_dl.report.page import html as as_html
    from hpc_dl.report.page import write_files

    if html:
        path = default if html == "1" else Path(html)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, as_html(page))
        click.echo(f"Report: {path}")
    if out:
        click.echo(f"Report: {len(write_files(page, Path(out)))} files in {out}")
