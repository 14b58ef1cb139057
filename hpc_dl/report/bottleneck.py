"""What limits a job."""

from __future__ import annotations

from hpc_dl.report.measured import Measured
from hpc_dl.report.model import Finding


def findings(job: Measured) -> list[Finding]:
    """Return what limits a job."""
    del job
    return []


def is_measured(job: Measured) -> bool:
    """Return whether there is enough to look for what limits a job."""
    return not job
