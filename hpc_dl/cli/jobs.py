"""Commands on jobs that were submitted: watch, tensorboard, cancel."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpc_dl.cli.arguments import JOB, JOBS, RUNS

if TYPE_CHECKING:
    from rich.console import Console

    from hpc_dl.submission.handle import Job


def follow(job: Job, console: Console) -> int:
    """Show a job until it ends and return its exit code; Ctrl-C leaves it running."""
    from hpc_dl.cli.terminal import summary_lines, watch
    from hpc_dl.submission.states import summary_of

    try:
        state = watch(job, console)
    except KeyboardInterrupt:
        # The id alone is enough for a job in the folder where `watch` looks by default.
        name = job.job_id if job.run.path.parent.absolute() == Path("runs").absolute() else str(job.run.path)
        word = shlex.quote(name)
        click.echo(
            f"\nDetached; job {job.job_id} goes on."
            f"\n  come back:  hpc-dl watch {word}   (make watch JOB={word})"
            f"\n  end it:     hpc-dl cancel {word}  (make cancel JOB={word})"
        )
        return 0
    summary = summary_of(job.run, state)
    for line in summary_lines(job, state, summary):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if state.state == "COMPLETED":
        return 0
    return (summary.exit_code if summary else 0) or 1


@click.command()
@JOB
@RUNS
def watch(job: str, runs: str) -> int:
    """Show the progress of JOB (a job id or run folder; default: the newest) until it ends."""
    from rich.console import Console

    from hpc_dl.submission.handle import find_job

    return follow(find_job(job, Path(runs)), Console())


@click.command()
@JOB
@RUNS
@click.option("--port", type=click.IntRange(1, 65535), default=6006, envvar="HPC_DL_PORT", help="where it listens")
def tensorboard(job: str, runs: str, port: int) -> int:
    """Show JOB (a job id or run folder; default: the newest) in TensorBoard, on this machine's localhost alone."""
    import importlib.util
    import os
    import sys

    from hpc_dl import tensorflow_env
    from hpc_dl.errors import UserError
    from hpc_dl.submission.handle import find_job

    folder = find_job(job, Path(runs)).run.tensorboard
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a job has it from its first step on")
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(f"{sys.executable} has no tensorboard: it comes with TensorFlow (make setup)")
    # Its first warnings concern only its developers.
    command = [sys.executable, "-W", "ignore::UserWarning", "-m", "tensorboard.main"]
    command += [f"--logdir={folder}", "--host=localhost", f"--port={port}"]
    tensorflow_env.before_import()
    os.execv(sys.executable, command)  # noqa: S606 - TensorBoard takes this process's place


@click.command()
@JOBS
@RUNS
def cancel(jobs: tuple[str, ...], runs: str) -> int:
    """End each JOB (job ids or run folders; default: the newest); what trains saves a last checkpoint."""
    from hpc_dl.submission.handle import cancel as end
    from hpc_dl.submission.handle import find_jobs

    handles = find_jobs(jobs or [""], Path(runs))  # a job that is not found raises, before any job is ended
    told = end(handles)
    for handle in handles:
        click.echo(f"Job {handle.job_id} {'is told to end' if handle in told else 'has ended already'}")
    return 0
