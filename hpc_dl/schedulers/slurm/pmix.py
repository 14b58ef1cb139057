"""Can srun start MPI ranks?"""

from __future__ import annotations

from collections.abc import Mapping

from hpc_dl.schedulers.slurm.commands import NO_COMMAND, ask


def why_not(environ: Mapping[str, str]) -> str:
    """Return why srun can't use PMIx here; empty if it can, or if that can't be told.

    `srun --mpi=list` names the plugin even where the library that it loads, libpmix, is missing. So srun is asked to
    check a step (--test-only starts nothing): it loads the plugin before it asks the controller, whose own objections
    don't matter here.
    """
    answer = ask(environ, "srun", "--mpi=pmix", "--test-only", "--ntasks=1", "true", patience=60.0)
    if answer.code == NO_COMMAND:
        return answer.error
    # Slurm 20.11 writes it in small letters.
    if "invalid mpi type" not in answer.error.lower():
        return ""
    # The first line is the plugin's own: "srun: error:  mpi/pmix_v4: …: pmi/pmix: can not load PMIx library".
    return answer.error.splitlines()[0].rpartition(": ")[2]
