"""Where a job starts from: the newest whole checkpoint of an earlier run, found without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.runfolder.checkpoints import Checkpoint, published
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import is_file


def checkpoints(run: RunFolder) -> list[Checkpoint]:
    """Return the checkpoints of a run whose files are all there, newest last."""
    return [checkpoint for checkpoint in published(run.checkpoints) if _has_data(run.checkpoints, checkpoint)]


def _has_data(folder: Path, checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint has its index and all of its ``.data-00000-of-00001`` files, none of them empty."""
    parts = [path for path in folder.glob(f"{checkpoint.name}.data-*-of-*") if path.stat().st_size]
    complete = bool(parts) and len(parts) == int(parts[0].name.rpartition("-of-")[2])
    return complete and (folder / f"{checkpoint.name}.index").stat().st_size > 0


def _what_is_there(run: RunFolder) -> str:
    """Return in words why a run has no whole checkpoint."""
    torn = [f"{checkpoint.name}.index" for checkpoint in published(run.checkpoints)]
    return f"{run.checkpoints} has {', '.join(torn)} without all data" if torn else f"none in {run.checkpoints}"


def find_start(run: RunFolder) -> tuple[RunFolder, Checkpoint]:
    """Return the run folder with the newest whole checkpoint: this one, else the one that it started from, and so on.

    Raises:
        UserError: none of them has one; the message says what is there.
    """
    looked: list[str] = []
    while True:
        if found := checkpoints(run):
            return run, found[-1]
        looked.append(_what_is_there(run))
        before = read_earlier(run).start_from
        if not before or len(looked) > 100:  # a ring can only be made by hand
            raise UserError(f"no whole checkpoint to start from: {'; '.join(looked)}")
        run = RunFolder(before)


def read_earlier(run: RunFolder) -> JobSpec:
    """Return the job of a run folder.

    Raises:
        UserError: it is no run folder, or it can't be read.
    """
    if not is_file(run.job_file):
        raise UserError(f"start_from = {str(run.path)!r}: no run folder of a job (it has no {run.job_file.name})")
    return run.read_job()


def resolve_start(job: JobSpec) -> JobSpec:
    """Return `job` with `start_from` set to the run folder from which its first checkpoint is read.

    For a script of the user's own the folder is not changed: nobody knows where its checkpoints are.

    Raises:
        UserError: there is no such checkpoint, it has another network or data set, or no steps are left to do.
    """
    if not job.start_from:
        return job
    run = RunFolder(job.start_from)
    earlier = read_earlier(run)
    if job.script:
        return job
    if earlier.script:
        raise UserError(f"start_from = {job.start_from!r}: a run of {earlier.script!r}, not of the built-in program")
    for key in ("model", "data"):
        here, there = getattr(job, key), getattr(earlier, key)
        if here != there:
            what = f"the checkpoints in {job.start_from} are of {there!r}"
            raise UserError(f"{key} = {here!r}: {what}; set {key} = {there!r}, or no start_from")
    start, checkpoint = find_start(run)
    if checkpoint.step >= job.steps:
        raise UserError(
            f"steps = {job.steps}: the checkpoint in {start.path} is at step {checkpoint.step}, nothing is left to do;"
            f" a larger number of steps (--steps) goes on from there"
        )
    return msgspec.structs.replace(job, start_from=str(start.path))
