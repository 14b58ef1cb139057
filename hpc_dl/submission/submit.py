"""Submission: a plan becomes a run folder and a job."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpc_dl import data
from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan
from hpc_dl.planning.task_file import nodes_python
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.runfolder.function import FunctionFiles
from hpc_dl.schedulers import scheduler_of
from hpc_dl.schedulers.cluster import nodes_in, too_few
from hpc_dl.schedulers.protocol import StrayJobError
from hpc_dl.spec.site_files import tables_of_no_partition
from hpc_dl.submission.mpi_check import check_mpi


def submit_plan(plan: Plan, add_files: Callable[[RunFolder], object] = lambda _: None) -> RunFolder:
    """Make the run folder, submit the job and return the folder.

    A data set that is missing is downloaded now, on this machine: nodes often have no access to the internet.

    Args:
        plan: the job.
        add_files: called before the job is submitted; may write further files into the run folder.

    Raises:
        UserError: the mode can't run here, Slurm refuses the job, or the data set can't be downloaded. Then no run
            folder is left.
    """
    script = _prepared(plan)
    with _new_folder(plan.runs) as run:
        run.freeze(plan.job, plan.asked, plan.site, script, plan.task_templates())
        _take_over_function(plan, run)
        add_files(run)
        scheduler_of(plan.site).submit(run, plan.job.name)
        return run


def submit_array(plan: Plan, add_files: Sequence[Callable[[RunFolder], object]]) -> list[RunFolder]:
    """Make the run folders of an array's elements, submit them with one job script and return the folders.

    Args:
        plan: the job of each element, and the array's numbers.
        add_files: for each element, what writes its own files into its run folder.

    Raises:
        UserError: see `submit_plan`.
    """
    if plan.job.ps_nodes:
        raise UserError(
            f"ps_nodes = {plan.job.ps_nodes}: Slurm has no arrays of heterogeneous jobs; submit single jobs"
        )
    script = _prepared(plan)
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(_new_folder(plan.runs)) for _ in add_files]
        runs[0].freeze(plan.job, plan.asked, plan.site, script, plan.task_templates())
        for run in runs[1:]:
            run.freeze_like(runs[0])
        for run, add in zip(runs, add_files, strict=True):
            add(run)
        scheduler_of(plan.site).submit_array(runs, plan.job.name)
        return runs


def _prepared(plan: Plan) -> str:
    """Return the job script, once what the job needs is there."""
    _check(plan)
    script = plan.script()
    folder = Path(plan.job.workdir, plan.site.data)
    if not plan.job.script and data.describe(plan.job.data).needs_download and not data.is_there(plan.job.data, folder):
        data.fetch(plan.job.data, folder)
    return script


def _take_over_function(plan: Plan, run: RunFolder) -> None:
    """Copy the function of an earlier job that this one resumes, as its last checkpoint has left it."""
    if not plan.job.start_from or not plan.job.script:
        return
    earlier = RunFolder(plan.job.start_from)
    files = FunctionFiles(earlier.path)
    if files.folder.exists() and earlier.read_job().script == plan.job.script:
        FunctionFiles(run.path).take_over(files, earlier.attempt + 1)


def check_plan(plan: Plan) -> str:
    """Let the scheduler check the job's script without submitting it, and return what it says.

    Raises:
        UserError: the scheduler would refuse it, or the mode can't run here.
    """
    _check(plan)
    return scheduler_of(plan.site).test(plan.script())


def _check(plan: Plan) -> None:
    check_mpi(plan.job, plan.site, nodes_python(plan.site))
    known = scheduler_of(plan.site).nodes()
    if known and plan.site_path.is_file():
        own, _ = tables_of_no_partition(plan.site_path, {node.partition for node in known})
        if own:
            raise UserError(own[0])
    nodes = nodes_in(known, plan.job.partition or plan.site.partition)
    if problem := too_few(plan.job, plan.site, nodes):
        raise UserError(problem)


@contextlib.contextmanager
def _new_folder(parent: Path) -> Iterator[RunFolder]:
    """Yield a run folder under a temporary name; remove it if the block fails, unless its job may still start."""
    run = RunFolder.create(parent / f".new-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        yield run
    except StrayJobError:
        raise
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
