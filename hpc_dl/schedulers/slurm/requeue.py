"""Requeue, as a job sees it from inside: why Slurm has told it to end, and how it asks to be started again."""

from __future__ import annotations

import os
import re
import subprocess
import time
from typing import NamedTuple

from hpc_dl.errors import JobError
from hpc_dl.processes import for_slurms_commands

_PATIENCE = 300.0  # seconds for a controller that is away: nobody ends the job then, so it may wait
_PAUSE = 2.0
# What scontrol says after MessageTimeout, 10 s; asked again, as by a later call, the controller may be there.
_AWAY = re.compile(r"Unable to contact|timed out|Connection refused|Zero Bytes", re.IGNORECASE)


class Told(NamedTuple):
    """What Slurm says of a job that was told to end."""

    by: str
    """Why Slurm has told it: ``time limit``, ``preemption``, or empty for anything else."""
    state: str
    """How the job will have ended in Slurm's eyes, if its script exits with an error now; empty if nobody knows."""


def told_by(job_id: str) -> Told:
    """Ask Slurm why it has told a job to end, if it has.

    A preempted job runs on for the partition's GraceTime (man slurm.conf), in which it must not simply end: Slurm
    requeues only what is still there.
    """
    return parse_told_by(_scontrol("--oneliner", "show", "job", job_id).stdout)


def parse_told_by(text: str) -> Told:
    """Return the same from what ``scontrol --oneliner show job`` prints."""
    fields = dict(re.findall(r"\b(JobState|Reason|PreemptTime)=(\S+)", text))
    if fields.get("Reason") == "TimeLimit":
        return Told("time limit", "TIMEOUT")
    if fields.get("JobState") != "RUNNING":
        return Told("", "")
    preempted = fields.get("PreemptTime", "None") not in ("None", "N/A", "Unknown")
    return Told("preemption" if preempted else "", "FAILED")


def requeue(job_id: str) -> None:
    """Let Slurm end a job and queue it again; the caller, part of that job, is ended soon after.

    Raises:
        JobError: Slurm did not.
    """
    done = _scontrol("requeue", job_id)
    if done.returncode:
        raise JobError(f"scontrol requeue {job_id}: {done.stderr.strip()}")


def _scontrol(*words: str) -> subprocess.CompletedProcess[str]:
    deadline = time.monotonic() + _PATIENCE
    while True:
        done = _once(["scontrol", *words])
        if done.returncode == 0 or not _AWAY.search(done.stderr) or time.monotonic() > deadline:
            return done
        time.sleep(_PAUSE)


def _once(command: list[str]) -> subprocess.CompletedProcess[str]:
    environ = for_slurms_commands(os.environ)
    try:
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
