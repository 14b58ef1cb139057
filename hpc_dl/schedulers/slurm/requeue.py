"""Requeue, as a job sees it from inside: why Slurm has told it to end, and how it asks to be started again."""

from __future__ import annotations

import os
import re
import time

from hpc_dl.errors import JobError
from hpc_dl.schedulers.protocol import Told
from hpc_dl.schedulers.slurm.commands import Answer, ask

_PATIENCE = 300.0  # seconds to wait for a controller that is away: nobody ends the job meanwhile
_PAUSE = 2.0
# Errors of scontrol after MessageTimeout (10 s). A later call may reach the controller.
_AWAY = re.compile(r"Unable to contact|timed out|Connection refused|Zero Bytes", re.IGNORECASE)


def told_by(job_id: str) -> Told:
    """Ask Slurm why it has told a job to end, if it has.

    A preempted job runs on for the partition's GraceTime (man slurm.conf), in which it must not simply end: Slurm
    requeues only what is still there.
    """
    return parse_told_by(_scontrol("--oneliner", "show", "job", job_id).out)


def parse_told_by(text: str) -> Told:
    """Return the result of `told_by` from the output of ``scontrol --oneliner show job``."""
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
        JobError: Slurm did not queue it.
    """
    answer = _scontrol("requeue", job_id)
    if answer.code:
        raise JobError(f"scontrol requeue {job_id}: {answer.error.strip()}")


def _scontrol(*words: str) -> Answer:
    deadline = time.monotonic() + _PATIENCE
    while True:
        answer = ask(os.environ, "scontrol", *words, patience=_PATIENCE)
        if answer.code == 0 or not _AWAY.search(answer.error) or time.monotonic() > deadline:
            return answer
        time.sleep(_PAUSE)
