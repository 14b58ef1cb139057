"""The report of one job."""

from __future__ import annotations

from hpc_dl.report.bottleneck import findings, is_measured
from hpc_dl.report.figures import figures
from hpc_dl.report.measured import Measured
from hpc_dl.report.model import Report
from hpc_dl.report.tables import commands, facts, tables


def report_of(job: Measured, state: str, made_by: str, one_worker: float | None = None) -> Report:
    """Return the report of a job.

    Args:
        job: what was measured.
        state: its state now, in Slurm's words.
        made_by: the command that makes the report.
        one_worker: images per second of a job with one worker; None: not known.
    """
    what = f"{job.job.script or job.job.model}, mode {job.job.mode}"
    return Report(
        title=f"{job.name}: {what}",
        state=state,
        facts=dict(facts(job)),
        findings=findings(job),
        measured=is_measured(job),
        figures=figures(job, one_worker),
        tables=tables(job),
        commands=commands(job, made_by),
    )
