"""A job that is interrupted again and again: preempted, and told ahead of its time limit, five times at random steps.

`python -m benchmarks.interrupted [MODE]`: two runs of 1,000 steps, one undisturbed; some three minutes. It ends with
exit code 1 unless both make exactly their steps and their accuracies are within 0.03 of each other.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import hpc_dl
from benchmarks.faults import CONFIG, FAULTS, MODES, Healer, Run, prepare, work_folder
from hpc_dl.launch.attempts import events
from hpc_dl.minicluster import MiniCluster
from hpc_dl.progress import Progress

_STEPS, _TIMES, _LIMIT = 1000, 5, 120.0


def train(mode: str, at_steps: list[tuple[int, str]]) -> dict[str, Any]:
    """Run a job that meets a fault at each of the steps; return its result and print how it went on."""
    job = hpc_dl.submit(
        "train", site="minicluster", cores=4, steps=_STEPS, log_every=1, checkpoint_every=100,
        requeues=len(at_steps), **MODES[mode],
    )  # fmt: skip
    progress = Progress(job.run)
    for attempt, (at_step, fault) in enumerate(at_steps):
        begin = time.monotonic()
        while job.run.latest_attempt() < attempt or progress.look().step < at_step:
            if time.monotonic() - begin > _LIMIT:
                raise SystemExit(f"attempt {attempt} did not reach step {at_step}: {job.stdout()}")
            time.sleep(0.02)
        FAULTS[fault](Run(job))
    result = job.result(timeout=_LIMIT)
    ends = [event.then or "end" for event in events(job.run) if event.event == "ended"]
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
    rng = random.Random(0)  # noqa: S311 - no secret
    at_steps = sorted(rng.sample(range(50, _STEPS - 50), _TIMES))
    faults = list(zip(at_steps, itertools.cycle(["preemption", "limit"]), strict=False))
    print(f"told to end at about {', '.join(f'step {step} ({fault})' for step, fault in faults)}")
    with (
        tempfile.TemporaryDirectory(prefix="hf", dir="/tmp") as root,
        work_folder(own_disk=False) as folder,
        MiniCluster(Path(root), CONFIG) as cluster,
    ):
        os.environ.update(cluster.env())
        os.chdir(folder)
        prepare()
        healer = Healer(cluster)
        undisturbed = train(mode, [])
        healer.heal()
        disturbed = train(mode, faults)
    apart = abs(undisturbed["test_accuracy"] - disturbed["test_accuracy"])
    return 0 if undisturbed["steps"] == disturbed["steps"] == _STEPS and apart <= 0.03 else 1


if __name__ == "__main__":
    sys.exit(main())
