"""Local runs: the job script as a background process of this machine, where there is no Slurm."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import msgspec

from hpc_dl.disk import write_whole
from hpc_dl.processes import start_time
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.protocol import JobState, state_in_summary
from hpc_dl.schedulers.slurm.environment import inheritable


class LocalProcess(msgspec.Struct, frozen=True):
    """The process that runs a job script; leader of its own session."""

    pid: int
    started: str
    """Its start time in clock ticks since boot, so that a reused number is not taken for it."""
    host: str = ""
    """The machine that it is a process of."""
    cancelled: bool = False
    """Whether it was told to end; counts if its script could not yet write a summary."""

    @property
    def elsewhere(self) -> bool:
        """Return whether it is a process of another machine, of which nothing can be seen here."""
        return self.host not in ("", os.uname().nodename)

    @property
    def alive(self) -> bool:
        """Return whether it still runs, on this machine."""
        return bool(self.started) and not self.elsewhere and start_time(self.pid) == self.started


def start(run: RunFolder, job_id: str) -> LocalProcess:
    """Start the job script of a run folder in the background; it outlives this process."""
    with run.log.open("ab") as log:
        process = subprocess.Popen(
            ["bash", str(run.script)],
            env={**inheritable(os.environ), "HPC_DL_JOB_ID": job_id},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    local = LocalProcess(process.pid, start_time(process.pid), os.uname().nodename)
    _detached.append(process)
    return local


# Keeps Popen objects, which would otherwise warn when they are collected before their process has ended.
_detached: list[subprocess.Popen[bytes]] = []


def cancel(run: RunFolder, local: LocalProcess) -> bool:
    """End a local run as Slurm would: its script passes SIGTERM on and writes the summary. Return whether it ran."""
    if not local.alive:
        return False
    save(run, msgspec.structs.replace(local, cancelled=True))
    with contextlib.suppress(ProcessLookupError):
        os.kill(local.pid, signal.SIGTERM)
    return True


def save(run: RunFolder, local: LocalProcess) -> None:
    """Remember a local run in its run folder."""
    write_whole(run.local, msgspec.json.encode(local))


def load(run: RunFolder) -> LocalProcess | None:
    """Return the remembered local run; None if the folder is not one of a local run."""
    try:
        return msgspec.json.decode(run.local.read_bytes(), type=LocalProcess)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def state(run: RunFolder) -> JobState:
    """Return the state of the job of a run folder."""
    # Look at the process before the summary: its script writes the summary last.
    process = load(run)
    alive = process is not None and process.alive
    if ended := state_in_summary(run):
        return ended
    if alive:
        return JobState("RUNNING", started=run.script.stat().st_mtime, job_id=run.job_id)
    if process is None:
        return JobState("UNKNOWN", job_id=run.job_id)
    if process.elsewhere:
        where = f"it was started on {process.host}, and can be seen and ended there alone"
        return JobState("UNKNOWN", where, silent=True, job_id=run.job_id)
    # The script was killed, or told to end, before it could write a summary.
    last = load(run)
    return JobState("CANCELLED" if last and last.cancelled else "FAILED", job_id=run.job_id)
