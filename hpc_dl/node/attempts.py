"""Attempts: each start of all processes of a job, after a requeue or again in the same allocation.

A job script claims an attempt by making its folder, which only one script can do. Processes of an earlier attempt may
still run on a node that was cut off. They end when they see the number of a later attempt.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time

import msgspec

from hpc_dl.disk import insist, write_whole
from hpc_dl.errors import LOST, JobError
from hpc_dl.node.restart_policy import Policy
from hpc_dl.runfolder.folder import RunFolder, Summary
from hpc_dl.spec.job import JobSpec

RESTART, REQUEUE, PREEMPTED = "restart", "requeue", "requeue after preemption"


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of ``attempts.jsonl``: an attempt has started or ended."""

    attempt: int
    time: float
    """Unix seconds."""
    event: str
    """``started`` or ``ended``."""
    slurm_restarts: int = 0
    """How often Slurm had requeued the job (SLURM_RESTART_COUNT)."""
    exit_code: int = 0
    cause: str = ""
    """The first process that failed, and how."""
    then: str = ""
    """What follows: ``restart``, ``requeue``, ``requeue after preemption``; empty: the job's end."""


def events(run: RunFolder) -> list[Event]:
    """Return all lines so far, without lines that a full disk cut off."""
    try:
        lines = insist(f"{run.attempts} can't be read", run.attempts.read_bytes).splitlines()
    except FileNotFoundError:
        return []
    return [event for line in lines if (event := _event(line))]


def _event(line: bytes) -> Event | None:
    try:
        return msgspec.json.decode(line, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def record(run: RunFolder, event: Event) -> None:
    """Append a line; retry while the disk is in trouble."""

    def append() -> None:
        with run.attempts.open("a+b") as file:
            # If a full disk cut off the last line, begin a new one.
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            torn = file.read() not in (b"", b"\n")
            file.write((b"\n" if torn else b"") + msgspec.json.encode(event) + b"\n")

    insist(f"{run.attempts} can't be written", append)


def begin(run: RunFolder, slurm_restarts: int = 0, after: int | None = None) -> int:
    """Begin the next attempt and return its number. Summary and result of the earlier attempt are removed.

    Args:
        run: the run folder.
        slurm_restarts: how often Slurm has requeued the job.
        after: the caller's own attempt, if only the one that follows it may begin.

    Raises:
        JobError: another script of this job has begun an attempt after the caller's.
    """
    what = "the next attempt can't begin"
    number = (insist(what, run.latest_attempt) if after is None else after) + 1 if run.attempt_file.exists() else 0
    while True:
        try:
            insist(what, functools.partial(RunFolder(run.path, number).state.mkdir, parents=True))
            break
        except FileExistsError:
            if after is not None:
                raise JobError(superseded(after)) from None
            number += 1
    stop = RunFolder(run.path, number).stop
    insist(what, functools.partial(write_whole, stop, "Empty: all launchers of this attempt are to end.\n"))
    latest = functools.partial(insist, what, functools.partial(_latest_folder, run))
    while insist(what, run.latest_attempt) < latest() or not run.attempt_file.exists():
        # Write it again if a slower script has just written a lower number.
        insist(what, functools.partial(write_whole, run.attempt_file, str(latest())))
    for file in (run.summary, run.result):
        with contextlib.suppress(IsADirectoryError):  # the user's script made a folder of that name
            insist(what, functools.partial(file.unlink, missing_ok=True))
    record(run, Event(number, time.time(), "started", slurm_restarts))
    return number


def _latest_folder(run: RunFolder) -> int:
    return max(int(path.name) for path in run.state.parent.iterdir() if path.name.isdigit())


def check(run: RunFolder) -> None:
    """Check that the attempt of a run folder is the job's latest.

    Raises:
        JobError: a later one has begun, maybe on other nodes.
    """
    if insist(f"{run.attempt_file} can't be read", lambda: run.superseded):
        raise JobError(superseded(run.attempt))


def superseded(attempt: int) -> str:
    """Return the message of a process whose attempt is over."""
    return f"attempt {attempt} of this job is over: a later one has begun"


def may_restart(policy: Policy, history: list[Event], ended: Summary) -> bool:
    """Return whether all processes of a job start again in the same allocation.

    Args:
        policy: the job's restart policy.
        history: the attempts so far.
        ended: how the attempt has ended.
    """
    # If no process has failed, exit code 1 means that srun or mpirun started none: a new start may help.
    code = LOST if ended.failure is None and ended.exit_code == 1 else ended.exit_code
    if ended.state != "FAILED" or not policy.curable(code):
        return False
    start = max((i for i, event in enumerate(history) if _is_first_of_a_run(history, i)), default=0)
    return sum(event.then == RESTART for event in history[start:]) < policy.restarts


def _is_first_of_a_run(history: list[Event], index: int) -> bool:
    """Return whether a line is the first of its run of the Slurm job."""
    event = history[index]
    return event.event == "started" and not any(
        before.event == "started" and before.slurm_restarts == event.slurm_restarts for before in history[:index]
    )


def requeue(job: JobSpec, history: list[Event], ended_by: str) -> str:
    """Return how a job that was told to end goes on: ``requeue``, ``requeue after preemption``, or empty for its end.

    Requeues after preemption have no limit: Slurm asks for them.

    Args:
        job: the resolved job.
        history: its attempts so far.
        ended_by: ``time limit``, ``preemption`` or empty.
    """
    if ended_by == "preemption":
        return PREEMPTED if job.requeues else ""
    if ended_by == "time limit" and sum(event.then == REQUEUE for event in history) < (job.requeues or 0):
        return REQUEUE
    return ""
