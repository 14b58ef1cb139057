"""Submission: a plan becomes a run folder and a job."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from hpc_dl import data, local
from hpc_dl.job import Job
from hpc_dl.plan import Plan
from hpc_dl.rendering import Renderer
from hpc_dl.runfolder import RunFolder
from hpc_dl.slurm import executor


def submit_plan(plan: Plan) -> Job:
    """Make the run folder, submit the job and return its handle.

    A data set is downloaded here and now if it is missing, since nodes often have no way out.

    Raises:
        UserError: Slurm refuses the job, or the data set can't be had; no run folder is left then.
    """
    script = plan.script()
    if not plan.job.script:
        data.fetch(plan.job.data, Path(plan.job.workdir, plan.site.data))
    with _new_folder(plan.runs) as run:
        run.freeze(plan.job, plan.site, script, Renderer(plan.templates).folders)
        if plan.site.scheduler == "local":
            return Job(_start_local(plan, run))
        job_id = executor.ScriptExecutor(run.path / "submitit", script).submit_script()
        shutil.rmtree(run.path / "submitit")
        try:
            final = run.rename(f"{plan.job.name}-{job_id}")
        except OSError:
            executor.cancel(job_id)
            raise
    executor.release(job_id)
    return Job(final)


def check_plan(plan: Plan) -> str:
    """Let Slurm check the job's script without submitting it, and return what it says.

    Raises:
        UserError: Slurm would refuse it.
    """
    script = plan.script()
    if plan.site.scheduler == "local":
        return "local run: nothing for Slurm to check"
    with _new_folder(plan.runs) as run:
        run.script.write_text(script)
        said = executor.test_only(run.script)
        shutil.rmtree(run.path)
        return said


def _start_local(plan: Plan, run: RunFolder) -> RunFolder:
    number = 1 + max((_local_number(path) for path in plan.runs.glob("*-L*")), default=0)
    while True:
        try:
            final = run.rename(f"{plan.job.name}-L{number}")
        except OSError:
            # Another submission took the number between the look and now.
            if not (plan.runs / f"{plan.job.name}-L{number}").exists():
                raise
            number += 1
            continue
        local.save(final, local.start(final, f"L{number}"))
        return final


def _local_number(path: Path) -> int:
    match = re.search(r"-L(\d+)$", path.name)
    return int(match[1]) if match else 0


@contextlib.contextmanager
def _new_folder(parent: Path) -> Iterator[RunFolder]:
    """Yield a run folder without its name yet; it goes again if the block fails."""
    run = RunFolder.create(parent / f".new-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        yield run
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
