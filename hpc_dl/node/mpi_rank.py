"""An MPI rank: its process in the placement, which a launcher starts and watches as in the other modes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from hpc_dl.errors import UserError
from hpc_dl.node.process import ProcessLine
from hpc_dl.planning.process_env import variables
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import Placement, Process
from hpc_dl.spec.site import Site

# Set by Open MPI's mpirun; by MVAPICH2's; by MPICH's and Intel MPI's, and by srun --mpi=pmi2; by srun --mpi=pmix; by
# srun alone, and in batch scripts too. Daemons of an mpirun may be ranks of srun, and pass its variables on.
_RANK = ("OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


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
    # An mpirun may give all ranks the variables of the first node.
    host = os.uname().nodename.partition(".")[0]
    if here and here != workers[rank].node and host != workers[rank].node.partition(".")[0]:
        raise UserError(
            f"rank {rank} runs on node {here}, but its GPUs and cores are on {workers[rank].node}: "
            "the site's mpirun or srun options must leave the ranks in the order of the nodes"
        )
    return workers[rank]


def process_line(process: Process, job: JobSpec, site: Site, command: Sequence[str]) -> ProcessLine:
    """Return what to start: `command` on the cores of `process`, with its GPUs and threads."""
    bound = ("taskset", "-c", process.core_list) if process.cores else ()
    return ProcessLine(process.role, process.index, variables(process, job, site), (*bound, *command))
