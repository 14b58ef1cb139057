"""The Python API: what the command line does, for programs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpc_dl.errors import UserError
from hpc_dl.planning.gpu_memory import gpu_warning
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.runfolder.function import FunctionFiles
from hpc_dl.schedulers.protocol import JobState
from hpc_dl.spec.layers import Layer
from hpc_dl.submission import states as job_states
from hpc_dl.submission.choose_site import site_of_job
from hpc_dl.submission.handle import Job, find_job
from hpc_dl.submission.submit import submit_plan


def plan(job: str | os.PathLike[str] | None = None, *, site: str = "", nodelist: str = "", **settings: Any) -> Plan:
    """Return the plan of a job, without submitting it.

    Args:
        job: name or path of a job file; None: the defaults.
        site: name or path of a site file; empty: the site that this machine belongs to.
        nodelist: nodes of a preview, such as ``nvb[16,19,25]``.
        **settings: any key of a job file.

    Raises:
        UserError: something is not valid; the message says what is allowed.
    """
    layers = [Layer(settings, "keyword {key}")]
    job = _name(job)
    chosen = site_of_job(site, job, layers)
    for note in chosen.notes:
        warnings.warn(note, stacklevel=2)
    return make_plan(job, chosen.site, chosen.path, layers, nodelist)


def _name(job: str | os.PathLike[str] | None) -> str | None:
    if job is None or isinstance(job, (str, os.PathLike)):
        return os.fspath(job) if job is not None else None
    raise UserError(
        f"job = {job!r}: expected the name or the path of a job file; hpc_dl.Executor().submit(…) submits a function"
    )


def submit(job: str | os.PathLike[str] | None = None, *, site: str = "", **settings: Any) -> Job:
    """Submit a job and return its handle.

    A network that is probably too large for the GPUs causes a `UserWarning`.

    Args:
        job: name or path of a job file; None: the defaults.
        site: name or path of a site file; empty: the site that this machine belongs to.
        **settings: any key of a job file.

    Raises:
        UserError: something is not valid, or Slurm refuses the job.
    """
    planned = plan(job, site=site, **settings)
    if warning := gpu_warning(planned.job, planned.site):
        warnings.warn(warning, stacklevel=2)
    return Job(submit_plan(planned))


def states(jobs: Iterable[Job]) -> list[JobState]:
    """Return the states of jobs, with at most two queries to Slurm, however many jobs there are."""
    return job_states.states([job.run for job in jobs])


def map(  # noqa: A001 - as the builtin of this name
    array: Iterable[Mapping[str, Any]],
    job: str | os.PathLike[str] | None = None,
    *,
    site: str = "",
    parallel: int | None = None,
    **settings: Any,
) -> list[Job]:
    """Submit a job for each of several settings, as one array of Slurm, and return their handles.

    Args:
        array: the settings of each job, by job keys. Nodes, cores and what else one job script says for all of them
            must not differ.
        job: name or path of a job file; None: the defaults.
        site: name or path of a site file; empty: the site that this machine belongs to.
        parallel: how many of the jobs may run at once; None: as many as fit.
        **settings: job keys of all of them.

    Raises:
        UserError: something is not valid, or Slurm refuses the array.
    """
    from hpc_dl.submission.array import plan_array, submit_elements

    common = [Layer(settings, "keyword {key}")]
    elements = [Layer(values, f"element {number} of the array, {{key}}") for number, values in enumerate(array)]
    job = _name(job)
    chosen = site_of_job(site, job, [*common, *elements[:1]])
    for note in chosen.notes:
        warnings.warn(note, stacklevel=2)
    return [Job(run) for run in submit_elements(plan_array(job, chosen, common, elements, parallel))]


def watch(jobs: Iterable[Job]) -> None:
    """Show a table of jobs, in a terminal or a notebook, until all have ended.

    More than 20 jobs are counted by their states. In a notebook the table changes in place if ipywidgets is installed.
    """
    from hpc_dl.submission.table import watch as show

    show([job.run for job in jobs])


def load(job_id: str | int, runs: Path | str = "runs") -> Job:
    """Return the handle of a job that was submitted before, by its job id or run folder.

    Raises:
        UserError: there is no such job.
    """
    job = find_job(str(job_id), Path(runs))
    if not FunctionFiles(job.run.path).folder.exists():
        return job
    from hpc_dl.executor.job import FunctionJob  # imports submitit

    return FunctionJob[Any](job.run)
