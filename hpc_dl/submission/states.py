"""The states of jobs, from the scheduler; else from a record of its last answer, else from the job's own summary."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hpc_dl.disk import write_whole
from hpc_dl.runfolder.folder import Failure, RunFolder, Summary
from hpc_dl.runfolder.progress import Progress
from hpc_dl.schedulers import scheduler_of_run
from hpc_dl.schedulers.protocol import ENDED, PATIENCE, JobState, Scheduler, state_in_summary

_PATIENCE = 5.0  # timeout of a query in seconds, if the run folders already say how every job ended


class Ended(msgspec.Struct, frozen=True):
    """Slurm's answer on how a job ended, recorded in the run folder since Slurm forgets jobs."""

    attempt: int | None
    """The job's latest attempt at that time. A job that was requeued since has a later one, and this does not count."""
    said: JobState


class JobStatus(msgspec.Struct, frozen=True):
    """All that is known of a job now; what ``hpc-dl status --json`` prints. Times are Unix seconds."""

    job_id: str
    name: str
    mode: str
    nodes: int
    state: str
    """One of Slurm's job states, or UNKNOWN."""
    reason: str
    """Why it waits; empty once it runs."""
    nodelist: str
    exit_code: int | None
    """As a shell sees it; None before the end, or if nobody knows."""
    submitted: float | None
    started: float | None
    ended: float | None
    estimated_start: float | None
    attempt: int | None
    """Number of the current attempt, counted from 0; None before the first."""
    step: int | None
    """Highest global step that any of its workers has reported in this attempt."""
    steps: int | None
    """Global steps until the training's end; None for a script of the user's own."""
    last_step: float | None
    """When a worker last reported a step."""
    failure: Failure | None
    """The first process that failed."""
    slurm_answers: bool
    """If False, the state is the last one known."""
    run_folder: str


def states(runs: Sequence[RunFolder], patience: float = 0.0) -> list[JobState]:
    """Return the states of jobs, with at most two queries to Slurm, however many jobs there are.

    Slurm's answer comes first: a job that was requeued may have a summary of its earlier run.

    Args:
        runs: the jobs' run folders.
        patience: timeout of each query in seconds; 0: 30 s, or 5 s if there is a record of the end of every job.
    """
    # Attempts are read before Slurm is asked: if a job starts again meanwhile, our record of its end does not count.
    attempts = [read_attempt(run) for run in runs]
    records = [_record(run, attempt) for run, attempt in zip(runs, attempts, strict=True)]
    said = ask(runs, patience or (_PATIENCE if all(records) else PATIENCE))
    found = []
    for run, attempt, record in zip(runs, attempts, records, strict=True):
        state = said[run.path]
        if not state.silent and state.state in ENDED and state != record:
            _write_down(run, Ended(attempt, state))
        # If slurmctld does not answer, a job that accounting calls running may have ended meanwhile.
        known = state.state in ENDED or (state.state != "UNKNOWN" and not (state.silent and record))
        found.append(state if known or record is None else msgspec.structs.replace(record, silent=state.silent))
    return found


def ask(runs: Sequence[RunFolder], patience: float = PATIENCE) -> dict[Path, JobState]:
    """Return the states that the schedulers report, by the paths of the run folders."""
    said: dict[Path, JobState] = {}
    for scheduler, its_runs in by_scheduler(runs).items():
        said |= scheduler.states(its_runs, patience)
    return said


def forgotten_at_once(runs: Sequence[RunFolder]) -> None:
    """Write down that jobs were cancelled, of those that the scheduler forgets at once.

    Slurm does so with the element of an array that is cancelled while it waits.

    Args:
        runs: jobs that waited, and were just cancelled.
    """
    elements = [run for run in runs if "_" in run.job_id]
    for path, state in ask(elements).items() if elements else ():
        if state.state == "UNKNOWN" and not state.silent:
            run = RunFolder(path)
            _write_down(run, Ended(read_attempt(run), JobState("CANCELLED", job_id=run.job_id)))


def by_scheduler(runs: Sequence[RunFolder]) -> dict[Scheduler, list[RunFolder]]:
    """Return run folders by the scheduler that has their jobs."""
    groups: dict[Scheduler, list[RunFolder]] = {}
    for run in runs:
        groups.setdefault(scheduler_of_run(run), []).append(run)
    return groups


def status(run: RunFolder, state: JobState) -> JobStatus:
    """Return all that is known of a job, given its state."""
    job = run.read_job()
    summary = summary_of(run, state)
    now = Progress(run).look() if state.state not in ("PENDING", "UNKNOWN") else None
    return JobStatus(
        job_id=run.job_id,
        name=job.name,
        mode=job.mode,
        nodes=job.nodes,
        state=state.state,
        reason=state.reason,
        nodelist=state.nodelist,
        exit_code=summary.exit_code if summary else state.exit_code,
        submitted=state.submitted,
        started=state.started or (summary.started if summary else None),
        ended=state.ended or (summary.ended if summary else None),
        estimated_start=state.estimated_start,
        attempt=read_attempt(run),
        step=now.step if now and now.workers else None,
        steps=None if job.script else job.steps,
        last_step=now.last_step if now and now.workers else None,
        failure=summary.failure if summary else None,
        slurm_answers=not state.silent,
        run_folder=str(run.path).encode(errors="replace").decode(),
    )


def summary_of(run: RunFolder, state: JobState) -> Summary | None:
    """Return the summary of a job's end; None while it goes on, or if it left none.

    A job that was requeued, and cancelled while it waited, has no nodes. Its summary is of its earlier run.
    """
    if state.state not in ENDED or (state.submitted is not None and not state.nodelist):
        return None
    return run.read_summary()


def read_attempt(run: RunFolder) -> int | None:
    """Return the number of a job's current start, counted from 0; None before the first."""
    with contextlib.suppress(OSError, ValueError):
        return int(run.attempt_file.read_text())
    return None


def _record(run: RunFolder, attempt: int | None) -> JobState | None:
    """Return how a job ended, from its run folder: Slurm's recorded answer, else the job's own summary."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        ended = msgspec.json.decode(run.ended.read_bytes(), type=Ended)
        if ended.attempt == attempt:
            return msgspec.structs.replace(ended.said, job_id=run.job_id)
    return state_in_summary(run)


def _write_down(run: RunFolder, ended: Ended) -> None:
    with contextlib.suppress(OSError):  # another user's run folder, or a full disk: Slurm is asked again next time
        write_whole(run.ended, msgspec.json.encode(ended))
