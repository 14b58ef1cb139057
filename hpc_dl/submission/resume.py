"""Resuming: a new job goes on from the last checkpoint of a job that has ended."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.runfolder.function import FunctionFiles
from hpc_dl.runfolder.start_from import find_start
from hpc_dl.schedulers.protocol import ENDED, JobState
from hpc_dl.spec.container import unexpanded
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer, build, read_toml
from hpc_dl.spec.modes import MODES, unused
from hpc_dl.spec.training import changed
from hpc_dl.submission.choose_site import site_of_job

_KEPT = ("model", "data", "script")  # keys that can't change: the checkpoints depend on them


def plan_resumption(
    run: RunFolder, state: JobState, site: str = "", overrides: Sequence[Layer] = (), from_start: bool = False
) -> tuple[Plan, list[str]]:
    """Return the plan of a job that goes on where an earlier one ended, and notes on it for the user.

    The plan is made from the job description as it was submitted. Defaults of the site and the mode are filled in anew.

    Args:
        run: the run folder of the earlier job.
        state: the state of that job.
        site: name or path of a site file; empty: the site that this machine belongs to.
        overrides: settings that change, weakest first.
        from_start: begin at step 0, without checkpoints of the earlier job.

    Raises:
        UserError: it still runs or waits, it has no whole checkpoint, or a change is not valid.
    """
    notes = _check_ended(run, state)
    if not run.asked_file.is_file():
        raise UserError(
            f"{run.asked_file}: no such file: an earlier version of hpc_dl submitted job {run.job_id};"
            f" submit its job description with --start-from {shlex.quote(str(run.path))}"
        )
    asked = read_toml(run.asked_file)
    earlier = build(JobSpec, [asked], "job")
    for layer in overrides:
        if "start_from" in layer.values:
            raise UserError(f"{layer.where('start_from')}: a resumed job starts from the job that it resumes")
        for key in _KEPT:
            if key in layer.values and _name(layer.values[key]) not in _names(earlier, key):
                raise UserError(
                    f"{layer.where(key)} = {layer.values[key]!r}: job {run.job_id} has {getattr(earlier, key)!r},"
                    " and a resumed job keeps it; submit another job instead"
                )
    values = unexpanded(asked.values)
    mode = next((layer.values["mode"] for layer in reversed(overrides) if "mode" in layer.values), earlier.mode)
    if mode != earlier.mode and (dropped := _only_in_others(earlier, mode)):
        listed = ", ".join(f"{key} = {values.pop(key)}" for key in dropped)
        notes.append(f"mode {mode!r} has no use for what job {run.job_id} had for mode {earlier.mode!r}: {listed}")
    if from_start and FunctionFiles(run.path).folder.exists():
        raise UserError(f"job {run.job_id} runs a function: from the start it runs when it is submitted again")
    if not from_start and not earlier.script:
        try:
            find_start(run)
        except UserError as error:
            raise UserError(f"{error}; --from-start begins at step 0") from None
    start = "" if from_start else str(run.path.absolute())
    changes = [layer.without(_KEPT) for layer in overrides]
    layers = [Layer(values, str(run.asked_file)), *changes, Layer({"start_from": start}, "resume")]
    chosen = site_of_job(site, None, layers)
    return make_plan(None, chosen.site, chosen.path, layers), [*notes, *chosen.notes]


def _name(value: object) -> str:
    return os.path.normpath(value) if isinstance(value, str) and value else str(value)


def _names(earlier: JobSpec, key: str) -> list[str]:
    """Return all ways to write the earlier job's value of a key: a script may also be given by a relative path."""
    value = str(getattr(earlier, key))
    if key != "script" or not value:
        return [value]
    return [value, *(os.path.relpath(value, folder) for folder in (earlier.workdir, Path.cwd()))]


def _check_ended(run: RunFolder, state: JobState) -> list[str]:
    """Return notes on the state of a job.

    Raises:
        UserError: it has not ended.
    """
    if state.state == "UNKNOWN":
        return [f"nobody knows whether job {run.job_id} has ended"]
    if state.state not in ENDED:
        raise UserError(
            f"job {run.job_id} is {state.state}: only a job that has ended can be resumed;"
            f" `hpc-dl cancel {shlex.quote(str(run.path))}` ends it with a last checkpoint"
        )
    return []


def _only_in_others(job: JobSpec, mode: str) -> list[str]:
    """Return the keys that a job has set and that `mode` has no use for."""
    if mode not in MODES:
        return []  # the mode is refused later
    keys = unused(mode, changed(job))
    return keys if job.compression in MODES[mode].compressions else [*dict.fromkeys((*keys, "compression"))]
