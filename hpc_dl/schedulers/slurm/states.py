"""The state of Slurm jobs, with or without accounting. A state that nobody knows is UNKNOWN, never a guess."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.protocol import ENDED, PATIENCE, REQUEUED, UNKNOWN, WAITING, JobState
from hpc_dl.schedulers.slurm.commands import NO_COMMAND, ask

_JOB_ID = re.compile(r"\d+([_+]\d+)?")
_AT_ONCE = 60.0  # the most seconds between making a run folder and submitting its job
_LIST = 100_000  # characters of a list of jobs; the kernel allows 128 KiB in an argument
_SQUEUE = "--format=%i|%T|%N|%V|%S|%e|%j|%r"  # the reason comes last: it may hold anything
_SACCT = "--format=JobID,State,ExitCode,Submit,Start,End,NodeList,JobName"


def query(environ: Mapping[str, str], job_ids: Iterable[str], patience: float = PATIENCE) -> dict[str, JobState]:
    """Return the states of jobs with at most two queries: squeue for all, then sacct for all that it does not list.

    Args:
        environ: the environment of Slurm's commands.
        job_ids: jobs, or elements of arrays such as ``12_3``.
        patience: timeout of each query in seconds.
    """
    environ = {**environ, "SLURM_TIME_FORMAT": "%s"}  # Unix seconds: man squeue, man sacct
    wanted = list(dict.fromkeys(job_ids))
    asked = [job_id for job_id in wanted if _JOB_ID.fullmatch(job_id)]
    listed = _ask_controller(environ, asked, patience) if asked else {}
    states = {job_id: state for job_id in asked if (state := _listed(job_id, listed or {}))}
    if left := [job_id for job_id in asked if job_id not in states]:
        recorded = _ask_accounting(environ, left, patience)
        for job_id in left:
            states[job_id] = _of_record((recorded or {}).get(job_id), listed is None, recorded is None)
    return {job_id: states.get(job_id, UNKNOWN) for job_id in wanted}


def _listed(job_id: str, listed: Mapping[str, JobState]) -> JobState | None:
    """Return what slurmctld lists for a job.

    Elements of an array that were cancelled together while they waited are one record, with the array's number.
    """
    array = listed.get(job_id.partition("_")[0])
    return listed.get(job_id) or (array if array and array.state in ENDED else None)


def of_runs(environ: Mapping[str, str], runs: Sequence[RunFolder], patience: float) -> dict[Path, JobState]:
    """Return the states of the jobs of run folders, by the folders' paths.

    A job whose name differs belongs to another Slurm, or to one whose job numbers restarted: it counts as UNKNOWN.
    """
    said = query(environ, [run.job_id for run in runs], patience)
    ours = {run: said[run.job_id] if _is_of(run, said[run.job_id]) else UNKNOWN for run in runs}
    return {run.path: msgspec.structs.replace(state, job_id=run.job_id) for run, state in ours.items()}


def _is_of(run: RunFolder, said: JobState) -> bool:
    if said.name in ("", run.path.name.rpartition("-")[0]):
        return True
    with contextlib.suppress(UserError, OSError):
        # The folder may have been renamed; the job too, by a plugin or the user.
        made = run.job_file.stat().st_mtime
        return said.name == run.read_job().name or abs((said.submitted or 0.0) - made) < _AT_ONCE
    return False


def _of_record(recorded: JobState | None, no_controller: bool, no_accounting: bool) -> JobState:
    """Return the state of a job that slurmctld does not list, from its record in accounting."""
    if recorded is None:
        return msgspec.structs.replace(UNKNOWN, silent=no_controller or no_accounting)
    if no_controller:
        known = UNKNOWN if recorded.state in REQUEUED else recorded
        return msgspec.structs.replace(known, silent=True)
    # slurmctld has forgotten the job, so it has ended. Accounting may have been away then and still call it running.
    return recorded if recorded.state in ENDED else UNKNOWN


def _ask_controller(environ: Mapping[str, str], job_ids: Sequence[str], patience: float) -> dict[str, JobState] | None:
    """Return the states of these jobs in slurmctld, maybe of others too; None if it does not answer."""
    # --states=all lists a job that just ended too; an unknown id among several is no error to squeue. The number of an
    # array lists all of its elements.
    chosen = ",".join(dict.fromkeys(job_id.partition("_")[0] for job_id in job_ids))
    jobs = [f"--jobs={chosen}"] if len(chosen) <= _LIST else []
    command = ("squeue", "--noheader", "--array", "--states=all", _SQUEUE, *jobs)
    answer = ask(environ, *command, patience=patience)
    if "Invalid job id" in answer.error:
        return {}
    return _parse_squeue(answer.out) if answer.code == 0 else None


def _ask_accounting(environ: Mapping[str, str], job_ids: Sequence[str], patience: float) -> dict[str, JobState] | None:
    """Return the states of these jobs in accounting; empty if there is no accounting; None if it does not answer."""
    count = max(1, _LIST // (1 + max(map(len, job_ids))))
    jobs = [f"--jobs={','.join(job_ids[start : start + count])}" for start in range(0, len(job_ids), count)]
    command = ("sacct", "--noheader", "--allocations", "--parsable2", _SACCT, *jobs)
    answer = ask(environ, *command, patience=patience)
    if answer.code == NO_COMMAND or "accounting storage is disabled" in answer.error:
        return {}
    return _parse_sacct(answer.out) if answer.code == 0 else None


def _parse_squeue(text: str) -> dict[str, JobState]:
    states: dict[str, JobState] = {}
    for line in text.splitlines():
        if line.count("|") >= 7:
            job_id, state, nodes, submit, start, end, name, reason = line.split("|", 7)
            states[_leader(job_id)] = _state(state, nodes, submit, start, end, reason, name=name)
    return states


def _parse_sacct(text: str) -> dict[str, JobState]:
    states: dict[str, JobState] = {}
    for line in text.splitlines():
        # The last line is the last run of a requeued job; "CANCELLED by 1000" names a user too.
        if found := re.fullmatch(r"([^|]+)\|(\w+)[^|]*" + 5 * r"\|([^|]*)" + r"\|(.*)", line.strip()):
            job_id, state, code, submit, start, end, nodes, name = found.groups()
            states[_leader(job_id)] = _state(state, nodes, submit, start, end, code=code, name=name)
    return states


def _leader(job_id: str) -> str:
    """Return the number by which a heterogeneous job is known: its first component is called ``7+0``."""
    return job_id.strip().removesuffix("+0")


def _state(
    state: str, nodes: str, submit: str, start: str, end: str, reason: str = "", code: str = "", name: str = ""
) -> JobState:
    """Return a state from Slurm's texts."""
    waits, over = state in WAITING, state in ENDED
    nodes = "" if nodes in ("(null)", "None assigned", "None") else nodes
    exit_code = _exit_code(code) if over else None
    return JobState(
        state=state,
        reason=reason.strip() if waits and reason.strip() not in ("None", "(null)") else "",
        nodelist=nodes,
        # A job that was cancelled while it waited has the exit code 0:0.
        exit_code=exit_code if exit_code or state == "COMPLETED" else None,
        submitted=_seconds(submit),
        started=_seconds(start) if nodes and not waits else None,
        ended=_seconds(end) if over else None,
        estimated_start=_seconds(start) if state == "PENDING" else None,
        name=name.strip(),
    )


def _seconds(text: str) -> float | None:
    """Return a time of Slurm's as Unix seconds; None for its Unknown, N/A and NONE."""
    return float(text) if text.isdigit() and int(text) else None


def _exit_code(text: str) -> int | None:
    """Return ``3:0`` or ``0:9``, exit code and signal, as a shell's exit code."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    return None if found is None else 128 + int(found[2]) if int(found[2]) else int(found[1])
