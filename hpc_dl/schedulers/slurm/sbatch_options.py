"""The sbatch options of a job on its site. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.schedulers.slurm.gpu_request import gpu_request, step_request
from hpc_dl.spec.cores import one_thread_per_core
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Scalar, Site


def directives(job: JobSpec, site: Site, runs: Path, array: str = "") -> dict[str, Scalar]:
    """Return the ``#SBATCH`` options of a resolved job (man sbatch); True stands for an option without a value.

    Args:
        job: the job.
        site: its site.
        runs: the folder of the run folders.
        array: the numbers of the elements of an array, such as ``0-9%2``; empty: it is a single job.

    Raises:
        UserError: Slurm can't write a log into this path.
    """
    if "\\" in str(runs):
        raise UserError(
            f"run folders in {str(runs)!r}: Slurm replaces no %j in a path with a backslash; set workdir or runs"
        )
    options: dict[str, Scalar] = {
        "job-name": job.name,
        "nodes": job.nodes,
        # One task per node: it starts the node's processes.
        "ntasks-per-node": 1,
        "cpus-per-task": job.cores or site.cores,
        "time": job.time,
        # Slurm replaces %j by the job's number, %A and %a by those of an element; a % in the path itself is doubled.
        "output": f"{str(runs).replace('%', '%%')}/{job.name}-{'%A_%a' if array else '%j'}/job.log",
        # A requeued job must not lose the log of its first run.
        "open-mode": "append",
    }
    if array:
        options["array"] = array
    # Without no-requeue Slurm may requeue a job after a node failure, and its script would start from the beginning.
    ours, other = ("requeue", "no-requeue") if job.requeues else ("no-requeue", "requeue")
    options[ours] = True
    if job.requeues and site.notice:
        # B: only the batch shell is signalled; srun would not pass the signal on in time. Slurm may send it up to a
        # minute early, so the notice is at most a fifth of the time limit. A time of 0 means no limit, but an
        # administrator may still set one.
        options["signal"] = f"B:USR1@{min(site.notice, minutes(job.time) * 60 // 5) or site.notice}"
    # slurm.mem in the site file is for jobs without `memory`.
    own = {**({"mem": job.memory} if job.memory else {}), **job.slurm}
    options = with_site(options, site, job.gpus or 0, job.partition, own, job.gres)
    if other in options:
        options.pop(ours, None)
    return options


def ps_directives(job: JobSpec, site: Site) -> dict[str, Scalar]:
    """Return the options of the second component of a heterogeneous job: nodes for parameter servers alone.

    Name, log and signals are those of the first component, where the script runs.
    """
    options: dict[str, Scalar] = {
        "job-name": job.name,
        "nodes": job.ps_nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": job.ps_node_cores,
        "time": job.time,
        "requeue" if job.requeues else "no-requeue": True,
    }
    return with_site(options, site, 0, job.ps_partition or job.partition)


def with_site(
    options: Mapping[str, Scalar],
    site: Site,
    gpus: int,
    partition: str = "",
    own: Mapping[str, Scalar] | None = None,
    gres: Sequence[str] | None = None,
) -> dict[str, Scalar]:
    """Return sbatch options with what every job of a site adds: GPUs, exclusive nodes, partition, further options.

    Args:
        options: what is set already.
        site: the site.
        gpus: GPUs per node.
        partition: the job's choice; empty: the site's.
        own: further options of the job, which win over the site's; false removes an option.
        gres: further generic resources of each node; None: the site's.
    """
    nodes, tasks = int(options.get("nodes", 1)), int(options.get("ntasks-per-node", 1))
    further = site.gres if gres is None else gres
    options = {**options, **gpu_request(site.gpu_request, site, gpus, further, nodes, tasks)}
    if site.exclusive:
        options["exclusive"] = True
    if site.clean_environment:
        options["export"] = "NONE"
    if partition := partition or site.partition:
        options["partition"] = partition
    for key, value in {**site.slurm, **(own or {})}.items():
        if value is False or value == "false":
            options.pop(key, None)
        else:
            options[key] = True if value == "true" else value
    return options


def step_options(job: JobSpec, site: Site, tasks: int = 1) -> list[str]:
    """Return the options of srun that give a step the GPUs and the cores of its job.

    Args:
        job: a resolved job.
        site: its site.
        tasks: how many tasks the step has on each node.
    """
    return [*step_request(site, job.gpus or 0, job.gres or (), job.nodes, tasks), *step_threads(site, job.slurm)]


def step_threads(site: Site, options: Mapping[str, Scalar] | None = None) -> list[str]:
    """Return the option of srun without which it would count hardware threads, where its job counts physical cores.

    Slurm's versions differ in what srun keeps of the job's --hint once it is given --cpu-bind (man srun, --hint).
    """
    return ["--threads-per-core=1"] if one_thread_per_core(site, options) else []


def minutes(time: str) -> int:
    """Return a Slurm time limit in minutes, rounded up (man sbatch, --time)."""
    days, _, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        parts += [0] * (3 - len(parts))
        seconds = ((int(days) * 24 + parts[0]) * 60 + parts[1]) * 60 + parts[2]
    elif len(parts) == 3:
        seconds = (parts[0] * 60 + parts[1]) * 60 + parts[2]
    else:
        seconds = parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)
    return -(-seconds // 60)
