"""The state of Slurm jobs, with or without accounting. What nobody knows is UNKNOWN, never a guess."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable

import msgspec

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

_PATIENCE = 60.0  # seconds that a command has; a controller that is away is asked again for up to a minute


class SlurmState(msgspec.Struct, frozen=True):
    """What Slurm says of a job."""

    state: str
    """One of Slurm's job states, or UNKNOWN."""
    reason: str = ""
    """Why it waits; empty once it runs."""
    nodelist: str = ""


def query(job_ids: Iterable[str]) -> dict[str, SlurmState]:
    """Return the states of jobs: from squeue for all, then from sacct for all that it no longer lists.

    scontrol stands in for squeue where that fails, as it does for a single job that Slurm has forgotten.
    """
    wanted = list(dict.fromkeys(job_ids))
    states = _squeue(wanted) if wanted else {}
    if states is None:
        states = {job_id: said for job_id in wanted if (said := _scontrol(job_id))}
    if left := [job_id for job_id in wanted if job_id not in states]:
        states.update(_sacct(left))
    return {job_id: states.get(job_id, SlurmState("UNKNOWN")) for job_id in wanted}


def _run(*command: str) -> str | None:
    """Return a command's output; None if there is none of this name or it failed; empty if it does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout if done.returncode == 0 else None


def _squeue(job_ids: list[str]) -> dict[str, SlurmState] | None:
    # --states=all lists a job that just ended too; an unknown id among several is no error to it.
    options = ("--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N")
    text = _run("squeue", *options, f"--jobs={','.join(job_ids)}")
    if text is None:
        return None
    states: dict[str, SlurmState] = {}
    for line in text.splitlines():
        if line.count("|") != 3:
            continue
        job_id, state, reason, nodes = line.strip().split("|")
        waits = state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING")
        states[job_id] = SlurmState(state, reason if waits and reason != "None" else "", nodes)
    return states


def _scontrol(job_id: str) -> SlurmState | None:
    text = _run("scontrol", "--oneliner", "show", "job", job_id) or ""
    state = re.search(r"\bJobState=(\w+)", text)
    if state is None:
        return None
    nodes = re.search(r"\bNodeList=(\S+)", text)
    return SlurmState(state[1], "", nodes[1] if nodes and nodes[1] != "(null)" else "")


def _sacct(job_ids: list[str]) -> dict[str, SlurmState]:
    options = ("--noheader", "--allocations", "--parsable2", "--format=JobID,State,NodeList")
    states: dict[str, SlurmState] = {}
    for line in (_run("sacct", *options, f"--jobs={','.join(job_ids)}") or "").splitlines():
        # The last line is the last run of a requeued job; "CANCELLED by 1000" names a user too.
        if found := re.fullmatch(r"([^|]+)\|(\w+)[^|]*\|([^|]*)", line.strip()):
            states[found[1]] = SlurmState(found[2], "", found[3].replace("None assigned", ""))
    return states
