"""What the job script and the task file call: facts, place, launch, finish. People call them to look into a job."""

from __future__ import annotations

import time
from pathlib import Path

import click

_RUN = click.argument("run", type=Path)


@click.command()
@_RUN
@click.option("--nodelist", default="", help="nodes that are all this machine; default: the node of this Slurm step")
def facts(run: Path, nodelist: str) -> int:
    """Print what this node has for the job of run folder RUN, as a line of JSON."""
    import msgspec

    from hpc_dl.launch.facts import local_facts, slurm_facts
    from hpc_dl.nodelist import expand
    from hpc_dl.runfolder import RunFolder

    folder = RunFolder(run)
    job, site = folder.read_job(), folder.read_site()
    for found in local_facts(job, site, expand(nodelist)) if nodelist else [slurm_facts(job, site)]:
        click.echo(msgspec.json.encode(found))
    return 0


@click.command()
@_RUN
@click.option("--nodelist", required=True, help="the nodes of the job, in Slurm's order")
@click.option("--job-id", required=True, help="the job's number, from which its ports start")
def place(run: Path, nodelist: str, job_id: str) -> int:
    """Place the processes of run folder RUN on its nodes; write the cluster spec and the task file."""
    import msgspec

    from hpc_dl.plan import placed, task_file
    from hpc_dl.runfolder import RunFolder, write_text

    folder = RunFolder(run)
    job, site = folder.read_job(), folder.read_site()
    placement = placed(job, site, folder.read_facts(), nodelist, job_id)
    write_text(folder.cluster, msgspec.json.encode(placement.cluster()))
    if job.mode == "horovod":
        write_text(folder.placement, msgspec.json.encode(placement))
    write_text(folder.tasks, task_file(job, site, placement, str(run), folder.renderer()))
    click.echo(f"hpc-dl: {len(placement.processes)} processes on {nodelist}; see {folder.tasks}")
    return 0


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--run", "run", type=Path, required=True, help="the job's run folder")
@click.option("--node", required=True, help="this node's name")
@click.option("--grace", type=float, default=20.0, help="seconds between SIGTERM and SIGKILL")
@click.option("--classic-flags", is_flag=True, help="add --ps_hosts --worker_hosts --job_name --task_index")
@click.option("--stage", is_flag=True, help="copy the job's data set to this node's disk, for as long as they run")
@click.option("--separator", default=":::", help="what stands before each process")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def launch(
    run: Path, node: str, grace: float, classic_flags: bool, stage: bool, separator: str, words: tuple[str, ...]
) -> int:
    """Start and watch this node's processes: ``::: worker:0 VARIABLE=VALUE … COMMAND …`` for each."""
    import msgspec

    from hpc_dl.launch.launcher import Launcher, parse_processes
    from hpc_dl.launch.staging import staged_data
    from hpc_dl.runfolder import RunFolder

    folder = RunFolder(run)
    lines = parse_processes(words, separator)
    if not stage:
        return Launcher(folder, node, grace).launch(lines, classic_flags)
    with staged_data(folder, node) as data_dir:
        option = f"--data-dir={data_dir}"  # the last one counts
        lines = [msgspec.structs.replace(line, command=(*line.command, option)) for line in lines]
        return Launcher(folder, node, grace).launch(lines, classic_flags)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--run", "run", type=Path, required=True, help="the job's run folder")
@click.option("--grace", type=float, default=20.0, help="seconds between SIGTERM and SIGKILL")
@click.option("--quiet-end", is_flag=True, help="exit 0 when told to end: mpirun kills all ranks when one fails")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def rank(run: Path, grace: float, quiet_end: bool, command: tuple[str, ...]) -> int:
    """Start and watch COMMAND as the MPI rank that this process is, with its GPUs, cores and log."""
    import os

    from hpc_dl.launch.launcher import Launcher
    from hpc_dl.launch.rank import process_line, process_of
    from hpc_dl.runfolder import RunFolder

    folder = RunFolder(run)
    process = process_of(folder.read_placement(), os.environ)
    code = Launcher(folder, process.node, grace).launch([process_line(process, command)])
    return 0 if quiet_end and code in (130, 143) and folder.read_failure() is None else code


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--grace", type=float, default=20.0, help="seconds that ranks have to end once they are told")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def mpirun(grace: float, command: tuple[str, ...]) -> int:
    """Run COMMAND, which is mpirun, so that its ranks have their time to save when they are told to end."""
    from hpc_dl.launch.mpirun import run_mpirun

    return run_mpirun(command, grace)


@click.command()
@_RUN
@click.option("--code", type=int, required=True, help="exit code of what the job script ran last")
@click.option("--started", type=float, required=True, help="when the job started, in Unix seconds")
def finish(run: Path, code: int, started: float) -> int:
    """Write how the job of run folder RUN ended, say why if it failed, and exit with its exit code."""
    from hpc_dl.launch.outcome import finish as write_summary
    from hpc_dl.runfolder import RunFolder

    summary = write_summary(RunFolder(run), code, started)
    took = time.time() - started
    click.echo(f"hpc-dl: job {summary.state} with exit code {summary.exit_code} after {took:.1f} s")
    if summary.failure:
        click.echo(f"hpc-dl: first cause: {summary.failure}")
    return summary.exit_code
