"""Commands that job script and task file call: begin, facts, place, launch, again, finish. People may call them too."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from hpc_dl.disk import insist, write_whole
from hpc_dl.errors import LOST, DiskError, JobError, UserError
from hpc_dl.node import attempts, outcome
from hpc_dl.node.restart_policy import Policy
from hpc_dl.runfolder.folder import Failure, RunFolder
from hpc_dl.schedulers import scheduler_of_run
from hpc_dl.schedulers.protocol import Told
from hpc_dl.spec.job import JobSpec

if TYPE_CHECKING:
    from hpc_dl.node.process import ProcessLine
    from hpc_dl.spec.site import Site

# Imported here is what all commands need; each imports the rest itself, since it may start on many nodes at once.
_RUN = click.argument("run", type=Path)
_ATTEMPT = click.option("--attempt", type=int, default=None, help="which start of the processes; default: the latest")

_STAGE = click.option(
    "--stage", is_flag=True, help="copy the job's data set to this node's disk, for as long as its processes run"
)

_ENV_INSIDE = click.option(
    "--env-inside", is_flag=True, help="set variables in the container too, after /usr/bin/env in each command"
)


@click.command()
@_RUN
@click.option("--nodelist", default="", help="nodes that are all this machine; default: the node of this Slurm step")
@_ATTEMPT
@click.option("--ps", is_flag=True, help="this node is for parameter servers alone")
def facts(run: Path, nodelist: str, attempt: int | None, ps: bool) -> int:
    """Write into run folder RUN what this node has for its job."""
    from hpc_dl.node.facts import local_facts, node_name, slurm_facts
    from hpc_dl.spec.nodelist import expand

    folder = RunFolder(run, attempt)
    job, site = _job(folder), folder.read_site()
    what = f"{folder.facts} can't be written"
    insist(what, functools.partial(folder.facts.mkdir, parents=True, exist_ok=True))
    with _reported(folder, "facts", nodelist or node_name()):
        told = local_facts(job, site, expand(nodelist)) if nodelist else [slurm_facts(job, site, ps)]
    for found in told:
        path = folder.facts / f"{found.node}.json"
        insist(what, functools.partial(write_whole, path, msgspec.json.encode(found)))
    return 0


@click.command()
@_RUN
def begin(run: Path) -> int:
    """Begin the next attempt of the job of run folder RUN: the first, or the one after a requeue. Print its number.

    Print nothing where the job has completed already.
    """
    folder = RunFolder(run)
    summary = insist(f"{folder.summary} can't be read", folder.read_summary)
    if summary and summary.state == "COMPLETED":
        # Slurm 24.11 starts a completed job again if the job was preempted and requeued before.
        click.echo("hpc-dl: this job has completed before, and Slurm has started it once more: nothing to do", err=True)
        return 0
    click.echo(attempts.begin(folder, scheduler_of_run(folder).restarts()))
    return 0


@click.command()
@_RUN
@click.option("--attempt", type=int, required=True, help="the attempt that has ended")
@click.option("--code", type=int, required=True, help="its exit code")
def again(run: Path, attempt: int, code: int) -> int:
    """Begin the next attempt in this allocation, if the policy allows it, and print its number; else exit with 1."""
    folder = RunFolder(run, attempt)
    attempts.check(folder)
    how = insist("the outcome can't be read", functools.partial(outcome.outcome, folder, code, 0))
    history = attempts.events(folder)
    if not attempts.may_restart(Policy.of(_job(folder)), history, how):
        return 1
    cause = str(how.failure or f"exit code {how.exit_code}").partition("\n")[0]
    attempts.record(folder, attempts.Event(attempt, time.time(), "ended", 0, how.exit_code, cause, attempts.RESTART))
    number = attempts.begin(folder, scheduler_of_run(folder).restarts(), after=attempt)
    click.echo(f"hpc-dl: all processes start again from the last checkpoint (attempt {number}): {cause}", err=True)
    click.echo(number)
    return 0


def _job(folder: RunFolder) -> JobSpec:
    """Return the job of a run folder. Wait if its disk does not answer."""
    insist(f"{folder.job_file} can't be read", folder.job_file.read_bytes)
    return folder.read_job()


@click.command()
@_RUN
@click.option("--nodelist", required=True, help="the nodes of the job, in Slurm's order")
@click.option("--job-id", required=True, help="the job's number, from which its ports start")
@_ATTEMPT
def place(run: Path, nodelist: str, job_id: str, attempt: int | None) -> int:
    """Place the processes of run folder RUN on its nodes; write the cluster spec and the task file."""
    from hpc_dl.planning.place import placed
    from hpc_dl.planning.task_file import task_file

    folder = RunFolder(run, attempt)
    job, site = _job(folder), folder.read_site()
    found = insist(f"{folder.facts} can't be read", folder.read_facts)
    placement = placed(job, site, found, nodelist, job_id, str(run.parent))
    files = {
        folder.cluster: msgspec.json.encode(placement.cluster()),
        folder.placement: msgspec.json.encode(placement),
        folder.tasks: task_file(job, site, placement, str(run), folder.renderer(), folder.attempt).encode(),
    }
    attempts.check(folder)
    for path, data in files.items():
        insist(f"{path} can't be written", functools.partial(write_whole, path, data))
    click.echo(f"hpc-dl: {len(placement.processes)} processes on {nodelist}; see {folder.tasks}")
    if job.gpus and site.fake_gpus:
        click.echo("hpc-dl: fake_gpus = true in the site file: without GPUs, training computes on cores")
    return 0


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--run", "run", type=Path, required=True, help="the job's run folder")
@click.option("--node", required=True, help="this node's name")
@click.option("--grace", type=float, default=20.0, help="seconds between SIGTERM and SIGKILL")
@_ATTEMPT
@click.option("--classic-flags", is_flag=True, help="add --ps_hosts --worker_hosts --job_name --task_index")
@_STAGE
@_ENV_INSIDE
@click.option("--separator", default=":::", help="what stands before each process")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def launch(
    run: Path,
    node: str,
    grace: float,
    attempt: int | None,
    classic_flags: bool,
    stage: bool,
    env_inside: bool,
    separator: str,
    words: tuple[str, ...],
) -> int:
    """Start and watch this node's processes: ``::: worker:0 VARIABLE=VALUE … COMMAND …`` for each."""
    from hpc_dl.gpus import without_lists
    from hpc_dl.node.addresses import check_own_names
    from hpc_dl.node.launcher import Launcher
    from hpc_dl.node.monitoring import monitor_command
    from hpc_dl.node.process import check_env_inside, parse_processes
    from hpc_dl.planning.process_env import script_defaults
    from hpc_dl.planning.site_env import site_env
    from hpc_dl.schedulers.slurm.task_numbers import without_rank

    folder = RunFolder(run, attempt)
    lines = parse_processes(words, separator)
    with _reported(folder, "launcher", node):
        check_own_names(folder.read_cluster(), [(line.role, line.index) for line in lines])
        check_env_inside(lines if env_inside else [])
    policy, environ, monitor, kept = Policy(), without_rank(os.environ), list[str](), set[str]()
    # A line can be run by hand, with a cluster spec alone.
    if folder.job_file.exists():
        job = folder.read_job()
        policy, defaults = Policy.of(job), {} if env_inside else script_defaults(job)
        environ = {**defaults, **environ}
        kept |= job.env.keys()
        monitor = monitor_command(folder, job, node, [line.name for line in lines])
    site = folder.read_site() if folder.site_file.exists() else None
    environ = without_lists(environ, site.gpu_vendor if site else "nvidia")
    own = _site_variables(folder, site, environ)
    kept |= {*(site_env(site) if site else ()), *own}
    launcher = Launcher(folder, node, grace, policy, {**environ, **own}, monitor, kept)
    with _staged(folder, node, lines if stage else []) as staged:
        return launcher.launch(staged or lines, classic_flags, env_inside)


@contextlib.contextmanager
def _staged(folder: RunFolder, node: str, lines: Sequence[ProcessLine]) -> Iterator[list[ProcessLine]]:
    """Copy the data set to this node, and yield processes that read the copy. Without processes, copy nothing."""
    from hpc_dl.node.staging import staged_data

    if not lines:
        yield []
        return
    with staged_data(folder, node) as data_dir:
        option = f"--data-dir={data_dir}"  # the last one counts
        yield [msgspec.structs.replace(line, command=(*line.command, option)) for line in lines]


@contextlib.contextmanager
def _reported(folder: RunFolder, process: str, node: str) -> Iterator[None]:
    """Record a user's error as the job's failure. Else only the output of this process would tell the cause."""
    try:
        yield
    except UserError as error:
        outcome.report_failure(folder, Failure(process, node, 2, time=time.time(), last_lines=(str(error),)))
        raise


def _site_variables(folder: RunFolder, site: Site | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that tell a job's processes about their site and its network."""
    from hpc_dl.node.addresses import without_proxy

    fake = {"HPC_DL_FAKE_GPUS": "1"} if site and site.fake_gpus else {}
    return {**fake, **without_proxy(environ, folder.read_cluster())}


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--run", "run", type=Path, required=True, help="the job's run folder")
@click.option("--grace", type=float, default=20.0, help="seconds between SIGTERM and SIGKILL")
@_ATTEMPT
@_STAGE
@_ENV_INSIDE
@click.option("--quiet-end", is_flag=True, help="exit 0 when told to end: mpirun kills all ranks when one fails")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def rank(
    run: Path,
    grace: float,
    attempt: int | None,
    stage: bool,
    env_inside: bool,
    quiet_end: bool,
    command: tuple[str, ...],
) -> int:
    """Start and watch COMMAND as the MPI rank that this process is, with its GPUs, cores and log."""
    from hpc_dl.gpus import without_lists
    from hpc_dl.node.launcher import Launcher
    from hpc_dl.node.monitoring import measured_by, monitor_command
    from hpc_dl.node.mpi_rank import process_line, process_of
    from hpc_dl.node.process import check_env_inside
    from hpc_dl.planning.process_env import script_defaults
    from hpc_dl.planning.site_env import site_env

    folder = RunFolder(run, attempt)
    with _reported(folder, "rank", os.uname().nodename):
        placement = folder.read_placement()
        process = process_of(placement, os.environ)
        job, site = _job(folder), folder.read_site()
        lines = [process_line(process, job, site, command)]
        check_env_inside(lines if env_inside else [])
    own = _site_variables(folder, site, os.environ)
    environ = {**({} if env_inside else script_defaults(job)), **without_lists(os.environ, site.gpu_vendor), **own}
    names = measured_by(process, placement)
    monitor = monitor_command(folder, job, process.node, names) if names else []
    kept = {*site_env(site), *job.env, *own}
    launcher = Launcher(folder, process.node, grace, Policy.of(job), environ, monitor, kept)
    with _staged(folder, process.node, lines if stage else []) as staged:
        code = launcher.launch(staged or lines, env_inside=env_inside)
    return 0 if quiet_end and code in (130, 143) and folder.read_failure() is None else code


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--run", "run", type=Path, default=None, help="the job's run folder; default: it is of no job")
@click.option("--grace", type=float, default=20.0, help="seconds that ranks have to end once they are told")
@_ATTEMPT
@click.option("--signal/--no-signal", "signals", default=True, help="whether mpirun passes SIGUSR1 on to its ranks")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def mpirun(run: Path | None, grace: float, attempt: int | None, signals: bool, command: tuple[str, ...]) -> int:
    """Run COMMAND, which is mpirun, so that its ranks have their time to save when they are told to end."""
    from hpc_dl.node.mpirun import run_mpirun

    if run is None:
        return run_mpirun(command, grace, signals=signals)
    folder = RunFolder(run, RunFolder(run, attempt).attempt)
    policy = Policy.of(_job(folder)) if folder.job_file.exists() else Policy()
    return run_mpirun(command, grace, folder, policy.hang_timeout, signals=signals)


@click.command()
@_RUN
@_ATTEMPT
@click.option("--code", type=int, required=True, help="exit code of what the job script ran last")
@click.option("--started", type=float, required=True, help="when the job started, in Unix seconds")
@click.option("--told", is_flag=True, help="the script was told to end")
@click.option("--warned", is_flag=True, help="by the signal that comes ahead of the time limit")
def finish(run: Path, attempt: int | None, code: int, started: float, told: bool, warned: bool) -> int:
    """Write how the job of run folder RUN ended, say why if it failed, and exit with its exit code.

    A job that has to end before its training does is requeued instead, as often as it may be.
    """
    folder = RunFolder(run, attempt)
    try:
        attempts.check(folder)
    except DiskError:
        raise
    except JobError as error:
        click.echo(f"hpc-dl: {error}")
        return LOST
    insist(f"{folder.result} can't be completed", functools.partial(outcome.complete_result, folder))
    summary = insist("the outcome can't be read", functools.partial(outcome.outcome, folder, code, started))
    if told and attempts.may_restart(Policy.of(_job(folder)), attempts.events(folder), summary):
        summary = outcome.cancelled(summary)  # without the signal, it would have restarted
    then = ""
    if summary.state == "CANCELLED":
        then, state = _requeued(folder, warned)
        summary = msgspec.structs.replace(summary, state=state or summary.state)
    cause = str(summary.failure or "").partition("\n")[0]
    if not then:
        outcome.finish(folder, summary)
    attempts.record(folder, attempts.Event(folder.attempt, time.time(), "ended", 0, summary.exit_code, cause, then))
    if then:
        return summary.exit_code
    if summary.result is None and folder.result.exists():
        click.echo(f"hpc-dl: {folder.result} is no JSON object that can be read: the summary has no result")
    took = time.time() - started
    click.echo(f"hpc-dl: job {summary.state} with exit code {summary.exit_code} after {took:.1f} s")
    if summary.failure:
        click.echo(f"hpc-dl: first cause: {summary.failure}")
    return summary.exit_code


def _requeued(folder: RunFolder, warned: bool) -> tuple[str, str]:
    """Requeue a job that was told to end, if it may be requeued.

    Returns:
        What `attempts.requeue` returns, and the state that Slurm gives a job that is not requeued; empty: not known.
    """
    from hpc_dl.runfolder.function import FunctionFiles

    scheduler = scheduler_of_run(folder)
    if scheduler.one_machine:
        return "", ""
    told = Told("time limit", "FAILED") if warned else scheduler.told_by()
    then = attempts.requeue(_job(folder), attempts.events(folder), told.by)
    if not then:
        return "", told.state
    if not FunctionFiles(folder.path).goes_on(folder.attempt, told.by):
        click.echo(f"hpc-dl: {told.by}: not requeued: the function has no checkpoint, or that wants no other run")
        return "", told.state
    click.echo(f"hpc-dl: {told.by}: requeued, to go on from the last checkpoint")
    try:
        scheduler.requeue()
    except JobError as error:
        click.echo(f"hpc-dl: {error}")
        return "", told.state
    return then, ""
