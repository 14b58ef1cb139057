"""From submission to the first step, split into its parts, on a private cluster and as a local run."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import hpc_dl
from hpc_dl.errors import UserError
from hpc_dl.minicluster import MiniCluster

_RUNS = 5
_PARTS = ("submission", "queue", "environment", "import", "rendezvous", "first step", "total")


def parts(job: hpc_dl.Job, before: float, after: float) -> list[float]:
    """Return the seconds of each part of a finished job, from its own records."""
    events: dict[str, float] = {}
    for path in job.run.metrics.glob("worker-*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if "event" in record:
                # The slowest worker counts: before it the job is not at full size.
                events[record["event"]] = max(record["time"], events.get(record["event"], 0.0))
    summary = job.summary()
    assert summary is not None
    placed = job.run.tasks.stat().st_mtime
    marks = [before, after, summary.started, placed, events["imported"], events["session"], events["first_step"]]
    # A job may start before the submitting call has returned.
    return [*(max(0.0, b - a) for a, b in itertools.pairwise(marks)), marks[-1] - marks[0]]


def measure(site: str) -> None:
    rows = []
    for _ in range(_RUNS):
        before = time.time()
        job = hpc_dl.submit("train", site=site, nodes=2, gpus=0, steps=20)
        after = time.time()
        job.result()
        rows.append(parts(job, before, after))
    print(f"\n{site}: 2 nodes, 1 ps, 2 workers; seconds, {_RUNS} runs")
    print(f"{'part':<12} {'median':>7} {'min':>7} {'max':>7}")
    for name, column in zip(_PARTS, zip(*rows, strict=True), strict=True):
        print(f"{name:<12} {statistics.median(column):>7.2f} {min(column):>7.2f} {max(column):>7.2f}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hd") as folder:
        os.chdir(folder)
        hpc_dl.submit("train", site="local", nodes=1, gpus=0, steps=20).result()  # makes the data set ready
        measure("local")
        try:
            with MiniCluster(Path(folder) / "c") as cluster:
                os.environ.update(cluster.env())
                measure("minicluster")
        except UserError as error:
            print(f"no private cluster: {error}")


if __name__ == "__main__":
    main()
