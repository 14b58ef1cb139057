"""The Python API: what the command line does, for programs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hpc_dl.errors import UserError
from hpc_dl.planning.gpu_memory import gpu_warning
from hpc_dl.planning.plan import Plan, make_plan
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
        f"job = {job!r}: expected the name or the path of a job file; a function can't be submitted:"
        " write it into a script, and name that with script=…"
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


def load(job_id: str | int, runs: Path | str = "runs") -> Job:
    """Return the handle of a job that was submitted before, by its job id or run folder.

    Raises:
        UserError: there is no such job.
    """
    return find_job(str(job_id), Path(runs))
