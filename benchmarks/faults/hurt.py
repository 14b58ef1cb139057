"""The faults."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

from benchmarks.faults.cluster import Bench, slurm
from benchmarks.faults.controller import pause, resume
from benchmarks.faults.jobs import HANG_TIMEOUT, PS_MODES, Run, parent
from hpc_dl.errors import JobError

_AWAY = 8.0  # seconds for which the disk or slurmctld is away


Fault = Callable[[Bench, Run, random.Random], None]


def _signal(pids: list[int], number: signal.Signals) -> None:
    if not pids:
        raise JobError("there is no such process to signal")
    for pid in pids:
        os.kill(pid, number)


def _to(role: str, index: int, number: signal.Signals) -> Fault:
    """Return the fault that a training process gets a signal."""
    return lambda _bench, run, _rng: _signal(run.process(role, index), number)


def _to_launcher(number: signal.Signals) -> Fault:
    def fault(_bench: Bench, run: Run, rng: random.Random) -> None:
        found = run.pids("-m\0hpc_dl\0launch\0") or run.pids("-m\0hpc_dl\0rank\0")
        # Each launcher has forked a guard of its processes, whose command line is the same.
        launchers = [pid for pid in found if parent(pid) not in found]
        _signal([rng.choice(launchers)] if launchers else [], number)

    return fault


def _node(_bench: Bench, run: Run, rng: random.Random) -> None:
    slurm("scontrol", "update", f"nodename={rng.choice(run.nodes())}", "state=DOWN", "reason=fault")


def _cut(bench: Bench, run: Run, rng: random.Random) -> None:
    """Cut a node off from slurmctld and the other nodes. Its processes go on."""
    bench.network.cut(rng.choice(run.nodes()))


def _preemption(bench: Bench, _run: Run, _rng: random.Random) -> None:
    count = len(bench.cluster.names)
    slurm("sbatch", f"-N{count}", "--exclusive", "-p", "high", "--output=/dev/null", "--wrap=sleep 2")


def _limit(_bench: Bench, run: Run, _rng: random.Random) -> None:
    """Send what `--signal=B:USR1@60` sends ahead of the time limit."""
    slurm("scancel", "--batch", "--signal=USR1", run.job.job_id)


def _controller(bench: Bench, _run: Run, _rng: random.Random) -> None:
    """End slurmctld for some seconds."""
    pause(bench.cluster)
    time.sleep(_AWAY)
    resume(bench.cluster)


def _full(_bench: Bench, run: Run, _rng: random.Random) -> None:
    """Fill the disk of the run folder for some seconds."""
    filling = run.job.run.path.parent / "filling"
    try:
        with filling.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
    except OSError:
        time.sleep(_AWAY)
    finally:
        filling.unlink()


def _readonly(_bench: Bench, run: Run, _rng: random.Random) -> None:
    """Make the run folder read-only for some seconds. Open files stay writable, as on a file server."""
    folder = run.job.run.path
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        time.sleep(_AWAY)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _suspend(_bench: Bench, run: Run, _rng: random.Random) -> None:
    """Suspend the job for longer than a process may give no sign of life."""
    slurm("scontrol", "suspend", run.job.job_id)
    time.sleep(HANG_TIMEOUT + _AWAY)
    slurm("scontrol", "resume", run.job.job_id)


FAULTS: dict[str, Fault] = {
    "worker": _to("worker", 1, signal.SIGKILL),
    "chief": _to("worker", 0, signal.SIGKILL),
    "ps": _to("ps", 0, signal.SIGKILL),
    "launcher": _to_launcher(signal.SIGKILL),
    "hung worker": _to("worker", 1, signal.SIGSTOP),
    "hung chief": _to("worker", 0, signal.SIGSTOP),
    "hung ps": _to("ps", 0, signal.SIGSTOP),
    "hung launcher": _to_launcher(signal.SIGSTOP),
    "suspended": _suspend,
    "node": _node,
    "cut": _cut,
    "preemption": _preemption,
    "limit": _limit,
    "controller": _controller,
    "full": _full,
    "readonly": _readonly,
}
# After these faults the job leaves its nodes and begins a new attempt. Its processes may report a step or two before.
LEAVES = ("node", "cut", "preemption", "limit")
# These faults last some seconds, in which the training goes on.
LASTS = ("controller", "full", "readonly", "suspended")


def fits(mode: str, fault: str) -> bool:
    """Return whether a mode has the process that the fault hits."""
    return (not fault.endswith("ps") or mode in PS_MODES) and (not fault.endswith("worker") or mode != "single")
