"""The state of Slurm jobs, with or without accounting. What nobody knows is UNKNOWN, never a guess."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable

import msgspec

# States after which a job does not run again by itself (man squeue, "JOB STATE CODES").
ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)


class SlurmState(msgspec.Struct, frozen=True):
    """What Slurm says of a job."""

    state: str
    """One of Slurm's job states, or UNKNOWN."""
    reason: str = ""
    """Why it waits; empty once it runs."""
    nodelist: str = ""


def query(job_ids: Iterable[str]) -> dict[str, SlurmState]:
    """Return the states of jobs: from squeue for all, then scontrol and sacct for those it no longer lists."""
    wanted = list(job_ids)
    states = _squeue(wanted)
    for job_id in wanted:
        if job_id not in states or states[job_id].state in ENDED:
            states[job_id] = _scontrol(job_id) or _sacct(job_id) or states.get(job_id) or SlurmState("UNKNOWN")
    return states


def _run(*command: str) -> str:
    """Return a command's output; empty if it failed, which says that this source knows nothing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""


def _squeue(job_ids: list[str]) -> dict[str, SlurmState]:
    # --states=all lists a job that just ended too; an unknown id among several is no error to it.
    text = _run("squeue", "--noheader", "--states=all", f"--jobs={','.join(job_ids)}", "--format=%i|%T|%r|%N")
    states: dict[str, SlurmState] = {}
    for line in text.splitlines():
        job_id, state, reason, nodes = line.strip().split("|", 3)
        waits = state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING")
        states[job_id] = SlurmState(state, reason if waits and reason != "None" else "", nodes)
    return states


def _scontrol(job_id: str) -> SlurmState | None:
    text = _run("scontrol", "--oneliner", "show", "job", job_id)
    state = re.search(r"\bJobState=(\w+)", text)
    if state is None:
        return None
    nodes = re.search(r"\bNodeList=(\S+)", text)
    return SlurmState(state[1], "", nodes[1] if nodes and nodes[1] != "(null)" else "")


def _sacct(job_id: str) -> SlurmState | None:
    text = _run("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job_id}", "--format=State,NodeList")
    if not text.strip():
        return None
    # The last line is the last run of a requeued job; "CANCELLED by 1000" names a user too.
    state, _, nodes = text.strip().splitlines()[-1].partition("|")
    return SlurmState(state.split()[0], "", nodes)
