"""The state of Slurm jobs, with or without accounting. What nobody knows is UNKNOWN, never a guess."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hpc_dl.processes import for_slurms_commands

# States after which a job does not run again by itself (man squeue, "JOB STATE CODES").
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
# States of a job that waits, for which Slurm's reason says why.
WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
# All others (man squeue and man sacct).
ACTIVE = frozenset({"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED", "UNKNOWN"})
# Ends after which Slurm requeues most jobs; accounting learns of that seconds later.
REQUEUED = frozenset({"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REQUEUED"})

PATIENCE = 30.0  # seconds that a question has: a busy controller takes its time
_JOB_ID = re.compile(r"\d+([_+]\d+)?")
_LIST = 100_000  # characters of a list of jobs; the kernel takes 128 KiB in an argument
_SQUEUE = "--format=%i|%T|%N|%V|%S|%e|%j|%r"  # the reason comes last: it may hold anything
_SACCT = "--format=JobID,State,ExitCode,Submit,Start,End,NodeList,JobName"


class SlurmState(msgspec.Struct, frozen=True):
    """What Slurm says of a job; times are Unix seconds."""

    state: str
    """One of Slurm's job states, or UNKNOWN."""
    reason: str = ""
    """Why it waits; empty once it runs."""
    nodelist: str = ""
    exit_code: int | None = None
    """As a shell sees it: 128 + number for a signal. Only accounting tells it."""
    submitted: float | None = None
    started: float | None = None
    """When it started; not known while it waits."""
    ended: float | None = None
    estimated_start: float | None = None
    """When Slurm expects to start it, where it has worked that out."""
    name: str = ""
    """The job's name; empty where it is not told. Another Slurm has other jobs of the same numbers."""
    silent: bool = False
    """Whether a part of Slurm that may know more did not answer: the state may be older, or be known to it."""


UNKNOWN = SlurmState("UNKNOWN")


def query(
    job_ids: Iterable[str], patience: float = PATIENCE, environ: Mapping[str, str] | None = None
) -> dict[str, SlurmState]:
    """Return the states of jobs by two questions at most: squeue for all, then sacct for all that it does not list.

    Args:
        job_ids: jobs, or elements of arrays such as ``12_3``.
        patience: seconds that each question may take.
        environ: the environment of Slurm's commands; default: this process's.
    """
    wanted = list(dict.fromkeys(job_ids))
    asked = [job_id for job_id in wanted if _JOB_ID.fullmatch(job_id)]
    ask = _Asker(patience, environ if environ is not None else os.environ)
    listed = ask.controller(asked) if asked else {}
    states = {job_id: state for job_id, state in (listed or {}).items() if job_id in set(asked)}
    if left := [job_id for job_id in asked if job_id not in states]:
        recorded = ask.accounting(left)
        for job_id in left:
            states[job_id] = _of_record((recorded or {}).get(job_id), listed is None, recorded is None)
    return {job_id: states.get(job_id, UNKNOWN) for job_id in wanted}


def _of_record(recorded: SlurmState | None, no_controller: bool, no_accounting: bool) -> SlurmState:
    """Return the state of a job that slurmctld does not list, from what accounting has recorded of it."""
    if recorded is None:
        return msgspec.structs.replace(UNKNOWN, silent=no_controller or no_accounting)
    if no_controller:
        known = UNKNOWN if recorded.state in REQUEUED else recorded
        return msgspec.structs.replace(known, silent=True)
    # slurmctld has forgotten it, so it has ended: accounting was away at that time, and knows no better.
    return recorded if recorded.state in ENDED else UNKNOWN


class _Asker:
    """Asks Slurm's commands; None is no answer."""

    def __init__(self, patience: float, environ: Mapping[str, str]) -> None:
        self._patience = patience
        # Unix seconds: man squeue, man sacct.
        self._environ = {**for_slurms_commands(environ), "SLURM_TIME_FORMAT": "%s"}

    def controller(self, job_ids: Sequence[str]) -> dict[str, SlurmState] | None:
        """Return all that slurmctld lists of these jobs, maybe of others too."""
        # --states=all lists a job that just ended too; an unknown id among several is no error to it.
        chosen = ",".join(job_ids)
        jobs = [f"--jobs={chosen}"] if len(chosen) <= _LIST else []
        code, text, error = self._run("squeue", "--noheader", "--array", "--states=all", _SQUEUE, *jobs)
        if "Invalid job id" in error:
            return {}
        if code is None:
            return self._scontrol()
        return _parse_squeue(text) if code == 0 else None

    def _scontrol(self) -> dict[str, SlurmState] | None:
        code, text, _ = self._run("scontrol", "--oneliner", "show", "job")
        return _parse_scontrol(text) if code == 0 else None

    def accounting(self, job_ids: Sequence[str]) -> dict[str, SlurmState] | None:
        """Return all that accounting has recorded of these jobs; nothing where there is none."""
        count = max(1, _LIST // (1 + max(map(len, job_ids))))
        jobs = [f"--jobs={','.join(job_ids[start : start + count])}" for start in range(0, len(job_ids), count)]
        options = ("--noheader", "--allocations", "--parsable2", _SACCT)
        code, text, error = self._run("sacct", *options, *jobs)
        if code is None or "accounting storage is disabled" in error:
            return {}
        return _parse_sacct(text) if code == 0 else None

    def _run(self, *command: str) -> tuple[int | None, str, str]:
        """Return a command's exit code, output and errors; None for the code if there is no such command."""
        try:
            done = subprocess.run(
                command, env=self._environ, capture_output=True, text=True, check=False, timeout=self._patience
            )
        except FileNotFoundError:
            return None, "", ""
        except subprocess.TimeoutExpired:
            return 124, "", ""
        return done.returncode, done.stdout, done.stderr


def _parse_squeue(text: str) -> dict[str, SlurmState]:
    states: dict[str, SlurmState] = {}
    for line in text.splitlines():
        if line.count("|") >= 7:
            job_id, state, nodes, submit, start, end, name, reason = line.split("|", 7)
            states[job_id.strip()] = _state(state, nodes, submit, start, end, reason, name=name)
    return states


def _parse_scontrol(text: str) -> dict[str, SlurmState]:
    states: dict[str, SlurmState] = {}
    for line in text.splitlines():
        # The first of a name counts: the user's own comment or command comes later.
        fields: dict[str, str] = {}
        for name, value in re.findall(r"(?:^|(?<= ))([A-Z]\w*)=(\S*)", line):
            fields.setdefault(name, value)
        if not fields.keys() >= {"JobId", "JobState"}:
            continue
        job_id = fields["JobId"]
        if "ArrayTaskId" in fields:
            job_id = f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
        wanted = ("JobState", "NodeList", "SubmitTime", "StartTime", "EndTime", "Reason", "ExitCode", "JobName")
        states[job_id] = _state(*(fields.get(name, "") for name in wanted))
    return states


def _parse_sacct(text: str) -> dict[str, SlurmState]:
    states: dict[str, SlurmState] = {}
    for line in text.splitlines():
        # The last line is the last run of a requeued job; "CANCELLED by 1000" names a user too.
        if found := re.fullmatch(r"([^|]+)\|(\w+)[^|]*" + 5 * r"\|([^|]*)" + r"\|(.*)", line.strip()):
            job_id, state, code, submit, start, end, nodes, name = found.groups()
            states[job_id] = _state(state, nodes, submit, start, end, code=code, name=name)
    return states


def _state(
    state: str, nodes: str, submit: str, start: str, end: str, reason: str = "", code: str = "", name: str = ""
) -> SlurmState:
    """Return a state from Slurm's words for its parts."""
    waits, over = state in WAITING, state in ENDED
    nodes = "" if nodes in ("(null)", "None assigned", "None") else nodes
    exit_code = _exit_code(code) if over else None
    return SlurmState(
        state=state,
        reason=reason.strip() if waits and reason.strip() not in ("None", "(null)") else "",
        nodelist=nodes,
        # A job that was cancelled while it waited has 0:0.
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
