"""A job that is interrupted at five random steps: it is preempted, or gets the signal ahead of its time limit.

`python -m benchmarks.interrupted [MODE]` makes two runs of 1,000 steps, one of them undisturbed. It takes some three
minutes. The exit code is 1 unless both make exactly their steps and their accuracies are within 0.03 of each other.
"""

from __future__ import annotations

import itertools
import random
import sys
from typing import Any

from benchmarks.faults.cluster import Bench, bench
from benchmarks.faults.hurt import FAULTS
from benchmarks.faults.jobs import LIMIT, MODES, Run
from benchmarks.faults.network import enter_namespaces

_STEPS, _TIMES = 1000, 5


def train(running: Bench, mode: str, at_steps: list[tuple[int, str]], rng: random.Random) -> dict[str, Any]:
    """Run a job that meets a fault at each of the steps; return its result and print how its attempts ended."""
    run = Run.submit(mode, running.site, _STEPS, log_every=1, requeues=len(at_steps))
    for attempt, (at_step, fault) in enumerate(at_steps):
        if not run.wait_for(lambda: run.job.run.latest_attempt() >= attempt, f"attempt {attempt}"):  # noqa: B023
            raise SystemExit(f"the job is over before attempt {attempt}: {run.job.stdout()}")
        if not run.wait_for_step(at_step):
            raise SystemExit(f"the job is over before step {at_step}: {run.job.stdout()}")
        FAULTS[fault](running, run, rng)
    result = run.job.result(timeout=LIMIT)
    ends = [event.then or "end" for event in run.events() if event.event == "ended"]
    print(
        f"{mode}: {result['steps']} steps, accuracy {result['test_accuracy']:.4f}, {len(ends)} attempts:"
        f" {', '.join(ends)}",
        flush=True,
    )
    return result


def main() -> int:
    mode = sys.argv[1] if len(sys.argv) > 1 else "multiworker"
    if mode not in MODES:
        print(f"unknown mode {mode!r}; known: {', '.join(MODES)}", file=sys.stderr)
        return 2
    enter_namespaces([sys.executable, "-m", "benchmarks.interrupted", *sys.argv[1:]])
    rng = random.Random(0)  # noqa: S311 - no secret
    at_steps = sorted(rng.sample(range(50, _STEPS - 50), _TIMES))
    faults = list(zip(at_steps, itertools.cycle(["preemption", "limit"]), strict=False))
    print(f"told to end at about {', '.join(f'step {step} ({fault})' for step, fault in faults)}")
    with bench() as running:
        undisturbed = train(running, mode, [], rng)
        running.heal()
        disturbed = train(running, mode, faults, rng)
    apart = abs(undisturbed["test_accuracy"] - disturbed["test_accuracy"])
    return 0 if undisturbed["steps"] == disturbed["steps"] == _STEPS and apart <= 0.03 else 1


if __name__ == "__main__":
    sys.exit(main())
