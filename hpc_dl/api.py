"""The Python API: what the command line does, for programs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hpc_dl import jobstate
from hpc_dl.choose import choose_site
from hpc_dl.config import Layer
from hpc_dl.job import Job, find_job
from hpc_dl.memory import gpu_warning
from hpc_dl.plan import Plan, make_plan
from hpc_dl.slurm.state import SlurmState
from hpc_dl.submission import submit_plan


def plan(job: str | None = None, *, site: str = "", nodelist: str = "", **settings: Any) -> Plan:
    """Return what a job would be, without submitting it.

    Args:
        job: name or path of a job file; None: the defaults.
        site: name or path of a site file; empty: where we are.
        nodelist: nodes of a preview, such as ``nvb[16,19,25]``.
        **settings: any key of a job file.

    Raises:
        UserError: something is not valid; the message says what is allowed.
    """
    chosen, path = choose_site(site)
    return make_plan(job, chosen, path, [Layer(settings, "keyword {key}")], nodelist)


def submit(job: str | None = None, *, site: str = "", **settings: Any) -> Job:
    """Submit a job and return its handle; a network that is probably too large for the GPUs makes a `UserWarning`.

    Args:
        job: name or path of a job file; None: the defaults.
        site: name or path of a site file; empty: where we are.
        **settings: any key of a job file.

    Raises:
        UserError: something is not valid, or Slurm refuses the job.
    """
    planned = plan(job, site=site, **settings)
    if warning := gpu_warning(planned.job, planned.site):
        warnings.warn(warning, stacklevel=2)
    return submit_plan(planned)


def states(jobs: Iterable[Job]) -> list[SlurmState]:
    """Return where jobs are, by two questions to Slurm at most, however many they are."""
    return jobstate.states([job.run for job in jobs])


def load(job_id: str | int, runs: Path | str = "runs") -> Job:
    """Return the handle of a job that was submitted before, by its job id or run folder.

    Raises:
        UserError: there is no such job.
    """
    return find_job(str(job_id), Path(runs))
