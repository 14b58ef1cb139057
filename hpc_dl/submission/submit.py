"""Submission: a plan becomes a run folder and a job."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from hpc_dl import data
from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan
from hpc_dl.planning.task_file import nodes_python
from hpc_dl.processes import private_files
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.local import processes
from hpc_dl.schedulers.slurm import sbatch
from hpc_dl.submission.handle import Job
from hpc_dl.submission.mpi_check import check_mpi


def submit_plan(plan: Plan) -> Job:
    """Make the run folder, submit the job and return its handle.

    A data set is downloaded here and now if it is missing, since nodes often have no way out.

    Raises:
        UserError: the mode can't run here, Slurm refuses the job, or the data set can't be had; no run folder is left
            then.
    """
    check_mpi(plan.job, plan.site, nodes_python(plan.site))
    script = plan.script()
    folder = Path(plan.job.workdir, plan.site.data)
    if not plan.job.script and data.describe(plan.job.data).needs_download and not data.is_there(plan.job.data, folder):
        data.fetch(plan.job.data, folder)
    with private_files(), _new_folder(plan.runs) as run:
        run.freeze(plan.job, plan.asked, plan.site, script, plan.task_templates())
        if plan.site.scheduler == "local":
            return Job(_start_local(plan, run))
        return Job(_start_slurm(plan, run, script))


def check_plan(plan: Plan) -> str:
    """Let Slurm check the job's script without submitting it, and return what it says.

    Raises:
        UserError: Slurm would refuse it.
    """
    check_mpi(plan.job, plan.site, nodes_python(plan.site))
    return test_plan(plan)


def test_plan(plan: Plan) -> str:
    """Do as `check_plan`, without asking whether MPI is there."""
    script = plan.script()
    if plan.site.scheduler == "local":
        return "local run: nothing for Slurm to check"
    with tempfile.NamedTemporaryFile("w", prefix="hpc_dl-", suffix=".sh") as file:
        file.write(script)
        file.flush()
        return sbatch.test_only(Path(file.name))


def _start_slurm(plan: Plan, run: RunFolder, script: str) -> RunFolder:
    with sbatch.held(script) as job_id:
        try:
            run.rename(f"{plan.job.name}-{job_id}")
        except OSError as error:
            # The name is taken where an earlier cluster gave the same number.
            raise UserError(f"{error.filename2}: {error.strerror}") from None
    return run


def _start_local(plan: Plan, run: RunFolder) -> RunFolder:
    number = 1 + max((_local_number(path) for path in plan.runs.glob("*-L*")), default=0)
    # Whoever has the folder .L7 may give number 7, whatever the names of the jobs that are submitted at once.
    while not _renamed(run, f".L{number}") or any(plan.runs.glob(f"*-L{number}")):
        number += 1
    run.rename(f"{plan.job.name}-L{number}")
    processes.save(run, processes.start(run, f"L{number}"))
    return run


def _renamed(run: RunFolder, name: str) -> bool:
    """Give the folder a name; return False if the name is taken."""
    try:
        run.rename(name)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def _local_number(path: Path) -> int:
    match = re.search(r"-L(\d+)$", path.name)
    return int(match[1]) if match else 0


@contextlib.contextmanager
def _new_folder(parent: Path) -> Iterator[RunFolder]:
    """Yield a run folder without its name yet; it goes again if the block fails, unless its job may still start."""
    run = RunFolder.create(parent / f".new-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        yield run
    except sbatch.StrayJobError:
        raise
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
