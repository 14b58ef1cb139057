"""Commands that tell where jobs are: status, list, logs."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc_dl.cli.arguments import JOB, JOBS, RUNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpc_dl.runfolder.folder import RunFolder
    from hpc_dl.schedulers.protocol import JobState
    from hpc_dl.spec.job import JobSpec
    from hpc_dl.submission.handle import Job

_JSON = click.option("--json", "as_json", is_flag=True, envvar="HPC_DL_JSON", help="print an array of objects")
_SILENT = "Slurm does not answer: what is shown is what was last known"


@click.command()
@JOBS
@RUNS
@_JSON
def status(jobs: tuple[str, ...], runs: str, as_json: bool) -> int:
    """Print where each JOB is (job ids or run folders; default: the newest).

    Slurm's word comes first; a job that it has forgotten is where the run folder says. UNKNOWN: nobody knows.
    """
    from hpc_dl.submission.handle import find_jobs
    from hpc_dl.submission.states import states

    handles = find_jobs(jobs or [""], Path(runs))
    found = states([handle.run for handle in handles])
    if as_json:
        _print_json([handle.run for handle in handles], found)
        return 0
    for number, (handle, state) in enumerate(zip(handles, found, strict=True)):
        if number:
            click.echo()
        print_status(handle, state)
    return 0


def print_status(handle: Job, state: JobState) -> None:
    """Print a job's state, its progress or how it ended, and its run folder."""
    from hpc_dl.cli.terminal import describe, output_lines, summary_lines
    from hpc_dl.runfolder.progress import Progress
    from hpc_dl.schedulers.protocol import ENDED
    from hpc_dl.submission.states import summary_of

    if state.state in ENDED:
        click.echo("\n".join(summary_lines(handle, state, summary_of(handle.run, state))))
    else:
        spec = handle.run.read_job()
        steps = None if spec.script else spec.steps
        click.echo(f"Job {handle.job_id} {describe(state, Progress(handle.run).look(), steps)}")
        for line in output_lines(handle.run, spec, state):
            click.echo(f"    {line}")
        click.echo(f"Run folder: {handle.run.path}")
    if state.silent and not state.reason:
        click.echo(f"hpc-dl: {_SILENT}", err=True)


@click.command(name="list")
@RUNS
@click.option(
    "--state", "wanted", multiple=True, envvar="HPC_DL_STATE", help="only jobs in this state, such as running"
)
@_JSON
def list_jobs(runs: str, wanted: tuple[str, ...], as_json: bool) -> int:
    """List the jobs that have run folders, newest last, with their states."""
    from hpc_dl.cli.terminal import no_step_for
    from hpc_dl.errors import UserError, allowed, near_match
    from hpc_dl.runfolder.progress import Progress
    from hpc_dl.schedulers.protocol import ACTIVE, ENDED, WAITING
    from hpc_dl.submission.handle import runs_in
    from hpc_dl.submission.states import states

    known = {state.lower() for state in ENDED | WAITING | ACTIVE}
    for name in wanted:
        if name.lower() not in known:
            raise UserError(f"--state: {name!r}{near_match(name.lower(), known)}; known are {allowed(sorted(known))}")
    specs = {run: spec for run in runs_in(Path(runs)) if (spec := _read_job(run))}
    folders = list(specs)
    found = states(folders)
    chosen = [pair for pair in zip(folders, found, strict=True) if not wanted or _is_one(pair[1], wanted)]
    if as_json:
        _print_json([run for run, _ in chosen], [state for _, state in chosen])
        return 0
    width = max((len(specs[run].name) for run, _ in chosen), default=0)
    for run, state in chosen:
        spec = specs[run]
        told = f"{run.job_id:>8}  {state.state:<10}  {spec.name:<{width}}  {spec.mode:<11}  {spec.nodes:>3} nodes"
        told += f"  {_times(run, state)}  {run.path}"
        quiet = Progress(run).look().quiet if state.state == "RUNNING" else 0.0
        click.echo(f"{told}  {no_step_for(quiet)}" if quiet else told)
    if any(state.silent and not state.reason for _, state in chosen):
        click.echo(f"hpc-dl: {_SILENT}", err=True)
    return 0


def _times(run: RunFolder, state: JobState) -> str:
    """Return when a job was submitted, and for how long it has run."""
    from hpc_dl.runfolder.report import duration

    submitted = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.job_file.stat().st_mtime))
    took = duration((state.ended or time.time()) - state.started) if state.started else ""
    return f"{submitted}  {took:>9}"


def _read_job(run: RunFolder) -> JobSpec | None:
    """Return the job of a run folder. If this version can't read it (or it is not ours), say so and return None."""
    from hpc_dl.errors import UserError

    try:
        return run.read_job()
    except UserError as error:
        click.echo(f"hpc-dl: {run.path} is left out: {error}", err=True)
        return None


def _is_one(state: JobState, wanted: tuple[str, ...]) -> bool:
    return state.state.lower() in [name.lower() for name in wanted]


def _print_json(runs: Sequence[RunFolder], found: Sequence[JobState]) -> None:
    import msgspec

    from hpc_dl.submission.states import status as all_of

    objects = [all_of(run, state) for run, state in zip(runs, found, strict=True)]
    click.echo(msgspec.json.format(msgspec.json.encode(objects)))


@click.command()
@JOB
@RUNS
@click.option("--process", default="", envvar="HPC_DL_PROCESS", help="one process, such as worker:3; default: all")
@click.option("--follow", "-f", "go_on", is_flag=True, envvar="HPC_DL_FOLLOW", help="go on until the job has ended")
@click.option(
    "--lines", "-n", type=click.IntRange(0), envvar="HPC_DL_LINES", help="begin with the last N lines of each"
)
def logs(job: str, runs: str, process: str, go_on: bool, lines: int | None) -> int:
    """Print the logs of JOB (default: the newest): its script's and its processes', a label before each line.

    Log lines have no times: they come one process after the other, with --follow as they are written. A job that is
    requeued goes on in the same logs, and --follow goes on with it.
    """
    from hpc_dl.errors import UserError, allowed, near_match
    from hpc_dl.runfolder.logs import Logs
    from hpc_dl.submission.asking import Asking
    from hpc_dl.submission.handle import find_job

    handle = find_job(job, Path(runs))
    asking = Asking(handle.run)
    logs = Logs(lines)
    while True:
        over = not go_on or asking.look().over
        sources = {"job": handle.run.log, **handle.logs()}
        if process:
            if process not in sources and over:
                raise UserError(
                    f"job {handle.job_id} has no log of {process!r}{near_match(process, sources)};"
                    f" it has {allowed(sources)}"
                )
            sources = {name: path for name, path in sources.items() if name == process}
        appended = logs.appended(sources, final=over)
        while some := list(itertools.islice(appended, 1000)):
            click.echo("\n".join(some))
        if over:
            return 0
        time.sleep(1)
