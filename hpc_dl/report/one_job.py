"""The report of one job."""

from __future__ import annotations

import msgspec

from hpc_dl.report.bottleneck import findings
from hpc_dl.report.figures import figures
from hpc_dl.report.measured import Measured
from hpc_dl.report.model import Report
from hpc_dl.report.situation import Situation, spoken, uses
from hpc_dl.report.tables import commands, facts, tables, training_rates
from hpc_dl.spec.modes import MODES


def report_of(job: Measured, state: str, made_by: str, one_worker: float | None = None) -> Report:
    """Return the report of a job.

    Args:
        job: what was measured.
        state: its state now, in Slurm's words.
        made_by: the command that makes the report.
        one_worker: images per second of a job with one worker; None: not known.
    """
    now = situation(job)
    what = f"{job.job.script or job.job.model}, mode {job.job.mode}"
    return Report(
        title=f"{job.name}: {what}",
        state=state,
        facts=dict(facts(job)),
        findings=findings(now),
        measured=bool(now.nodes),
        figures=figures(job, one_worker),
        tables=tables(job),
        commands=commands(job, made_by),
    )


def situation(job: Measured) -> Situation:
    """Return what a job used while it trained."""
    nodes = {
        name: msgspec.structs.replace(node, rates=training_rates(node.rates, job)) for name, node in job.nodes.items()
    }
    processes, used = uses(nodes, job.placement, job.site)
    times = {spoken(name): of["step_seconds"] for name, of in job.figures.items() if of.get("step_seconds")}
    begin, _ = job.trained
    return Situation(
        processes=processes,
        nodes=used,
        synchronous=MODES[job.job.mode].synchronous and not job.job.script,
        step_seconds={name: of["median"] for name, of in times.items()},
        fastest_step=min((of["min"] for of in times.values()), default=0.0),
        start_seconds=begin - job.begun if begin and len(job.attempts) <= 2 else 0.0,
        all_seconds=job.seconds,
    )
