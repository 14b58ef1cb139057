"""An MPI rank: its process in the placement, which a launcher starts and watches as in the other modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpc_dl.errors import UserError
from hpc_dl.node.process import ProcessLine
from hpc_dl.planning.process_env import variables
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import Placement, Process
from hpc_dl.spec.site import Site

# Set by Open MPI's mpirun; by srun --mpi=pmix; by other MPIs; by srun alone, and in batch scripts too.
_RANK = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")


def mpi_rank(environ: Mapping[str, str]) -> int:
    """Return this process's number in MPI_COMM_WORLD.

    Raises:
        UserError: no variable has it.
    """
    for key in _RANK:
        if (text := environ.get(key, "")).isdigit():
            return int(text)
    raise UserError(f"rank: none of {', '.join(_RANK)} is set: this command runs under mpirun or srun")


def process_of(placement: Placement, environ: Mapping[str, str]) -> Process:
    """Return the worker that this rank is: rank 3 is worker 3.

    Raises:
        UserError: there are more ranks than workers, or the MPI launcher took another order of nodes.
    """
    rank = mpi_rank(environ)
    workers = {process.index: process for process in placement.processes if process.role == "worker"}
    if rank not in workers:
        raise UserError(f"rank {rank}: the job has {len(workers)} workers; one rank is started for each")
    here = environ.get("SLURMD_NODENAME", "")
    if here and here != workers[rank].node:
        raise UserError(
            f"rank {rank} runs on node {here}, but its GPUs and cores are on {workers[rank].node}: "
            "the site's mpirun or srun options must leave the ranks in the order of the nodes"
        )
    return workers[rank]


def process_line(process: Process, job: JobSpec, site: Site, command: Sequence[str]) -> ProcessLine:
    """Return what to start: `command` on the cores of `process`, with its GPUs and threads."""
    bound = ("taskset", "-c", process.core_list) if process.cores else ()
    return ProcessLine(process.role, process.index, variables(process, job, site), (*bound, *command))
