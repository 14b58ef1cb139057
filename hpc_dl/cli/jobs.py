"""Commands on jobs that were submitted: status, watch, report, tensorboard, logs, cancel, list."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from hpc_dl.job import Job

_JOB = click.argument("job", default="", envvar="HPC_DL_JOB")
_RUNS = click.option("--runs", default="runs", envvar="HPC_DL_RUNS", help="folder of the run folders")


def follow(job: Job, console: Console) -> int:
    """Show a job until it ends and return its exit code; Ctrl-C leaves it running."""
    from hpc_dl.terminal import summary_lines, watch

    spec = job.run.read_job()
    try:
        state = watch(job, console, None if spec.script else spec.steps)
    except KeyboardInterrupt:
        # The id alone finds it where `watch` looks by itself.
        name = job.job_id if job.run.path.parent.absolute() == Path("runs").absolute() else str(job.run.path)
        word = shlex.quote(name)
        click.echo(
            f"\nDetached; job {job.job_id} goes on."
            f"\n  come back:  hpc-dl watch {word}   (make watch JOB={word})"
            f"\n  end it:     hpc-dl cancel {word}  (make cancel JOB={word})"
        )
        return 0
    summary = job.summary()
    for line in summary_lines(job, state, summary):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if state.state == "COMPLETED":
        return 0
    return (summary.exit_code if summary else 0) or 1


@click.command()
@_JOB
@_RUNS
def watch(job: str, runs: str) -> int:
    """Show the progress of JOB (a job id or run folder; default: the newest) until it ends."""
    from rich.console import Console

    return follow(find(job, runs), Console())


@click.command()
@_JOB
@_RUNS
def status(job: str, runs: str) -> int:
    """Print where JOB is (a job id or run folder; default: the newest)."""
    _print_status(find(job, runs))
    return 0


@click.command()
@_JOB
@_RUNS
def report(job: str, runs: str) -> int:
    """Print what JOB's processes did: step times, bytes, confusion matrix (a job id or run folder; default: newest)."""
    from hpc_dl.report import report_lines

    handle = find(job, runs)
    _print_status(handle)
    for line in report_lines(handle.run):
        click.echo(line)
    return 0


@click.command()
@_JOB
@_RUNS
@click.option("--port", type=click.IntRange(1, 65535), default=6006, envvar="HPC_DL_PORT", help="where it listens")
def tensorboard(job: str, runs: str, port: int) -> int:
    """Show JOB (a job id or run folder; default: the newest) in TensorBoard, on this machine's localhost alone."""
    import importlib.util
    import os
    import sys

    from hpc_dl.errors import UserError
    from hpc_dl.job import find_job

    folder = find_job(job, Path(runs)).run.tensorboard
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a job has it from its first step on")
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(f"{sys.executable} has no tensorboard: it comes with TensorFlow (make setup)")
    # What it would warn of first concerns its authors alone.
    command = [sys.executable, "-W", "ignore::UserWarning", "-m", "tensorboard.main"]
    command += [f"--logdir={folder}", "--host=localhost", f"--port={port}"]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.execv(sys.executable, command)  # noqa: S606 - TensorBoard takes this process's place


def _print_status(handle: Job) -> None:
    from hpc_dl.progress import Progress
    from hpc_dl.slurm.state import ENDED
    from hpc_dl.terminal import describe, summary_lines

    spec = handle.run.read_job()
    state = handle.query()
    if state.state in ENDED:
        click.echo("\n".join(summary_lines(handle, state, handle.summary())))
    else:
        click.echo(f"Job {handle.job_id} {describe(state, Progress(handle.run).look(), spec.steps)}")
        click.echo(f"Run folder: {handle.run.path}")


@click.command(name="list")
@_RUNS
def list_jobs(runs: str) -> int:
    """List the jobs that have run folders, newest last, with their states."""
    from hpc_dl.job import Job, runs_in
    from hpc_dl.slurm import state

    jobs = [Job(run) for run in runs_in(Path(runs))]
    asked = [job.job_id for job in jobs if not job.run.local.exists()]
    known = state.query(asked) if asked else {}
    for job in jobs:
        spec = job.run.read_job()
        said = known.get(job.job_id)
        now = said.state if said and said.state != "UNKNOWN" else _own_state(job)
        click.echo(f"{job.job_id:>8}  {now:<10}  {spec.mode:<8}  {spec.nodes:>3} nodes  {job.run.path}")
    return 0


def _own_state(job: Job) -> str:
    summary = job.summary()
    return summary.state if summary else job.state


@click.command()
@_JOB
@_RUNS
@click.option("--process", default="", envvar="HPC_DL_PROCESS", help="one process, such as worker:3; default: all")
@click.option("--follow", "-f", "go_on", is_flag=True, envvar="HPC_DL_FOLLOW", help="go on as they grow")
def logs(job: str, runs: str, process: str, go_on: bool) -> int:
    """Print the logs of JOB (default: the newest): its script's and its processes', a label before each line."""
    from hpc_dl.errors import UserError, allowed, near_match

    handle = find(job, runs)
    offsets: dict[Path, int] = {}
    while True:
        ended = not go_on or handle.done()
        sources = {"job": handle.run.log, **handle.logs()}
        if process:
            if process not in sources and ended:
                raise UserError(
                    f"job {handle.job_id} has no log of {process!r}{near_match(process, sources)};"
                    f" it has {allowed(sources)}"
                )
            sources = {name: path for name, path in sources.items() if name == process}
        for name, path in sources.items():
            _print_appended(name, path, offsets, whole=not ended)
        if ended:
            return 0
        time.sleep(1)


def _print_appended(name: str, path: Path, offsets: dict[Path, int], whole: bool) -> None:
    """Print what was appended to a log since the last look; with `whole`, up to its last line end."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offsets.get(path, 0))
        text = file.read()
    if whole:
        text = text[: text.rfind(b"\n") + 1]
    offsets[path] = offsets.get(path, 0) + len(text)
    for line in text.decode(errors="replace").splitlines():
        click.echo(f"{name:<9} {line}")


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...", envvar="HPC_DL_JOB")
@_RUNS
def cancel(jobs: tuple[str, ...], runs: str) -> int:
    """End each JOB (job ids or run folders; default: the newest); what trains saves a last checkpoint."""
    from hpc_dl.job import cancel as end

    handles = [find(job, runs) for job in jobs or [""]]  # one that is not found ends none
    end(handles)
    for handle in handles:
        click.echo(f"Job {handle.job_id} is told to end")
    return 0


def find(job: str, runs: str) -> Job:
    """Return the job with an id or run folder, and reach the Slurm that it is of."""
    from hpc_dl.choose import choose_site
    from hpc_dl.job import find_job

    found = find_job(job, Path(runs))
    if not found.run.local.exists():
        name = found.run.read_site().name
        choose_site(name if name == "minicluster" else "")
    return found
