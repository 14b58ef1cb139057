"""Resuming: a new job goes on where one that has ended left its last checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.runfolder.start_from import find_start
from hpc_dl.schedulers.slurm.states import ENDED
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer, build, read_toml
from hpc_dl.spec.modes import MODES, unused
from hpc_dl.spec.site import Site
from hpc_dl.spec.training import changed
from hpc_dl.submission.handle import Job

_KEPT = ("model", "data", "script")  # else the checkpoints are of something else


def plan_resumption(
    job: Job, choose: Callable[[], tuple[Site, Path]], overrides: Sequence[Layer] = (), from_start: bool = False
) -> tuple[Plan, list[str]]:
    """Return the plan of a job that goes on where `job` ended, and notes on it for the user.

    It is made from what was asked for when `job` was submitted; what the site and the mode add is found anew.

    Args:
        job: the job to resume, which has ended.
        choose: returns where to run, and the site's file; called once the job's own Slurm was asked for its state.
        overrides: what changes, weakest first.
        from_start: begin at step 0, without its checkpoints.

    Raises:
        UserError: it still runs or waits, it has no whole checkpoint, or a change is not valid.
    """
    notes = _check_ended(job)
    if not job.run.asked_file.is_file():
        raise UserError(
            f"{job.run.asked_file}: no such file: an earlier version of hpc_dl submitted job {job.job_id};"
            f" submit its job description with --start-from {shlex.quote(str(job.run.path))}"
        )
    asked = read_toml(job.run.asked_file)
    earlier = build(JobSpec, [asked], "job")
    for layer in overrides:
        if "start_from" in layer.values:
            raise UserError(f"{layer.where('start_from')}: a resumed job starts from the job that it resumes")
        for key in _KEPT:
            if key in layer.values and layer.values[key] != getattr(earlier, key):
                raise UserError(
                    f"{layer.where(key)} = {layer.values[key]!r}: job {job.job_id} has {getattr(earlier, key)!r},"
                    " and a resumed job keeps it; submit another job instead"
                )
    values = dict(asked.values)
    mode = next((layer.values["mode"] for layer in reversed(overrides) if "mode" in layer.values), earlier.mode)
    if mode != earlier.mode and (dropped := _only_in_others(earlier, mode)):
        listed = ", ".join(f"{key} = {values.pop(key)}" for key in dropped)
        notes.append(f"mode {mode!r} has no use for what job {job.job_id} had for mode {earlier.mode!r}: {listed}")
    if not from_start and not earlier.script:
        try:
            find_start(job.run)
        except UserError as error:
            raise UserError(f"{error}; --from-start begins at step 0") from None
    start = "" if from_start else str(job.run.path.absolute())
    layers = [Layer(values, str(job.run.asked_file)), *overrides, Layer({"start_from": start}, "resume")]
    return make_plan(None, *choose(), layers), notes


def _check_ended(job: Job) -> list[str]:
    """Return notes on the state of a job.

    Raises:
        UserError: it has not ended.
    """
    state = job.state
    if state == "UNKNOWN":
        return [f"nobody knows whether job {job.job_id} has ended"]
    if state not in ENDED:
        raise UserError(
            f"job {job.job_id} is {state}: only a job that has ended can be resumed;"
            f" `hpc-dl cancel {shlex.quote(str(job.run.path))}` ends it with a last checkpoint"
        )
    return []


def _only_in_others(job: JobSpec, mode: str) -> list[str]:
    """Return the keys that a job has set and that `mode` has no use for."""
    if mode not in MODES:
        return []  # the mode is refused later
    keys = unused(mode, changed(job))
    return keys if job.compression in MODES[mode].compressions else [*dict.fromkeys((*keys, "compression"))]
