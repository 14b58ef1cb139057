"""What a fault has done to a job."""

from __future__ import annotations

import itertools
import math
import operator
import random
import re
import statistics
import time
from typing import Any

import msgspec

from benchmarks.faults.cluster import Bench
from benchmarks.faults.hurt import FAULTS, LASTS, LEAVES
from benchmarks.faults.jobs import EVERY, GOES_ON, HANG_TIMEOUT, LIMIT, PS_MODES, RATES, Run, command
from hpc_dl.errors import JobError

PER_JOB = 10  # faults that a job meets at most
_RESTARTS = 3  # how often a process is restarted alone by default; each time it waits longer
_SAYS = re.compile(r"hpc-dl: (.*(?:start again|started again|requeued|given up).*)", re.MULTILINE)


class Found(msgspec.Struct, forbid_unknown_fields=True):
    """What one fault has shown."""

    fault: str
    mode: str
    at_step: int
    then: str = "NO END"
    seconds: float | None = None
    """The longest time without a step of any worker, until all train again. None if no step followed."""
    lost: int = 0
    """Steps that were done twice."""
    message: str = ""
    code: int = -1
    """The job's exit code."""
    steps: int = 0
    """The steps that the job has made in the end."""
    of: int = 0
    """The steps that it was to make."""
    accuracy: float = 0.0
    left: int = 0
    """Processes of the job that were still there five seconds after its end."""

    @property
    def right(self) -> bool:
        # Workers of async and mixed take their last steps at the same time. All but the last may make one too many.
        done = self.code == 0 and self.of <= self.steps <= self.of + 1 and self.accuracy > 0.9
        return done and self.lost <= EVERY and not self.left and self.then != "NO END"


def hurt_job(bench: Bench, mode: str, fault: str, count: int, rng: random.Random) -> list[Found]:
    """Run a job that meets faults at random steps. Return what each has shown; the list has at least one."""
    starts_alone = fault.removeprefix("hung ") in ("worker", "chief") and mode in PS_MODES
    count = min(count, _RESTARTS if starts_alone else PER_JOB)
    each = _steps_meanwhile(mode, fault)
    steps = count * each + 300
    often = max(_RESTARTS, count)
    run = Run.submit(mode, bench.site, steps, restarts=often, requeues=often)
    found: list[Found] = []
    try:
        started = run.wait_for(
            lambda: run.job.run.cluster.exists() and run.all_trained_since(0.0), "that all workers train"
        )
        while started and len(found) < count:
            at = run.step() + rng.randrange(20, 200)
            if (found and at + each > steps) or not run.wait_for_step(at):
                break
            found.append(Found(fault, mode, run.step(), of=steps))
            _hurt(bench, run, found[-1], rng)
            # A node that was cut off comes back when the job is over: its slurmstepd tries for a minute to report the
            # end of its step. If the job got the node again meanwhile, Slurm would hold the job ("Duplicate jobid").
            if fault != "cut":
                bench.heal()
        run.job.wait(timeout=3 * LIMIT)  # it may still have most of its steps to make
    except (JobError, TimeoutError) as error:
        run.job.cancel()
        found = found or [Found(fault, mode, 0, of=steps)]
        found[-1].message = f"{error}; {run.job.stdout()[-300:]}"
        found[-1].then = "NO END"
        return found
    _look_at_end(run, found)
    return found


def _steps_meanwhile(mode: str, fault: str) -> int:
    """Return how many steps a job makes from one fault to the next, and some more."""
    return 150 + round(_seconds_of_steps(mode, fault) * RATES[mode])


def _seconds_of_steps(mode: str, fault: str) -> float:
    """Return for how many seconds workers make steps in spite of a fault."""
    if fault == "suspended":
        return 4  # Slurm first announces it to the job, and waits 2 s
    if fault in LASTS:
        return 9
    if fault == "hung launcher":
        return 2 * (HANG_TIMEOUT + 3)  # its processes train on until it is killed, some modes twice as fast
    if mode == "single":
        return 40 if fault == "cut" else 0  # the node has all that the job needs
    if mode not in GOES_ON:
        return 0
    # Mode sync needs the chief. After a restart the first worker is seconds ahead of the last.
    alone = {"cut": 25, "worker": 7} if mode == "sync+1" else {"cut": 25, "worker": 7, "chief": 7}
    hangs = HANG_TIMEOUT + 2 if fault in ("hung worker", "hung chief") and fault.removeprefix("hung ") in alone else 0
    return alone.get(fault.removeprefix("hung "), 3) + hangs


def _hurt(bench: Bench, run: Run, one: Found, rng: random.Random) -> None:
    attempt, said, begin = run.job.run.latest_attempt(), len(run.job.stdout()), time.time()
    FAULTS[one.fault](bench, run, rng)
    # By then a killed process has reported its last step, and a fault that lasts is over.
    settled = time.time() if one.fault in LASTS else begin + 0.5
    again = one.fault in (*LEAVES, "hung launcher")  # its processes train on until it is killed
    run.wait_for(
        lambda: (not again or run.job.run.latest_attempt() > attempt) and run.all_trained_since(settled),
        "that all workers train again",
    )
    end = time.time()
    same = run.job.run.latest_attempt() == attempt
    # Steps that were made but not reported, on a full disk, are not a pause.
    rate = statistics.median([r["global_steps_per_s"] for _, r in run.records() if r["time"] < begin])
    one.seconds = _pause([r for _, r in run.records() if begin - 0.5 < r["time"] <= end], rate if same else math.inf)
    messages = _SAYS.findall(run.job.stdout()[said:])
    one.message = messages[-1] if messages else ""
    ends = [event.then for event in run.events() if event.event == "ended" and event.time > begin]
    if same:
        one.then = "process restarts" if messages else "goes on"
        return
    one.then = "all restart" if "restart" in ends else "requeued"
    first_steps = [record for _, record in run.records("first_step") if begin < record["time"] <= end]
    starts = [record["after"] for record in first_steps]
    if one.fault == "hung launcher" and first_steps:
        begun = min(record["time"] for record in first_steps)
        one.at_step = max(record["step"] for _, record in run.records() if record["time"] < begun)
    # Without a first step nothing was left to do: the node that was cut off had made all steps.
    one.lost = max(0, one.at_step - min(starts, default=one.at_step))


def _pause(records: list[dict[str, Any]], rate: float) -> float | None:
    """Return the longest time without a step.

    Args:
        records: the reported steps.
        rate: steps per second. The steps between two reports took time at this rate, which is not a pause.
    """
    records.sort(key=operator.itemgetter("time"))
    return max(
        (b["time"] - a["time"] - max(0, b["step"] - a["step"]) / rate for a, b in itertools.pairwise(records)),
        default=None,
    )


def _look_at_end(run: Run, found: list[Found]) -> None:
    summary = run.job.summary()
    result = (summary.result if summary else None) or {}
    deadline = time.monotonic() + 5
    # The srun of a node that was cut off stays until Slurm reaches it again.
    while (left := [pid for pid in run.pids("hpc_dl") if "srun" not in command(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for one in found:
        one.code = summary.exit_code if summary else -1
        one.steps, one.accuracy = result.get("steps", 0), result.get("test_accuracy", 0.0)
        one.left = len(left)
        if left:
            one.message = f"left: {'; '.join(map(command, left))}"
        elif summary and summary.failure:
            one.message = str(summary.failure).partition("\n")[0]
