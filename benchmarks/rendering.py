"""Placement and rendering for 10 to 10,000 nodes with 8 GPUs each: the time must be short and grow linearly."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

_NODES = (10, 100, 1_000, 10_000)
_RUNS = 5


def measure(nodes: int) -> tuple[float, float, float, int]:
    """Return seconds for the plan with its script, the placement and the task file, and the task file's size."""
    import msgspec

    from hpc_dl.planning.plan import make_plan
    from hpc_dl.spec.layers import Layer
    from hpc_dl.spec.site_files import load_site, site_file

    path = site_file("minotauro")
    site = msgspec.structs.replace(load_site(path), gpus=8, cores=64, nodes="nvb[1-10000]")
    start = time.perf_counter()
    plan = make_plan("train", site, path, [Layer({"nodes": nodes}, "benchmark")])
    plan.script()
    planned = time.perf_counter()
    placement = plan.placement()
    placed = time.perf_counter()
    text = plan.task_file(placement, "/runs/train-1")
    return planned - start, placed - planned, time.perf_counter() - placed, len(text)


def main() -> None:
    if len(sys.argv) > 1:
        print(*measure(int(sys.argv[1])))
        return
    headings = ("plan s", "place s", "tasks s", "total s")
    print(f"{'nodes':>6} {'processes':>10} {' '.join(f'{h:>8}' for h in headings)} {'us/process':>11} {'MB':>6}")
    for nodes in _NODES:
        rows = []
        for _ in range(_RUNS):  # each in a fresh process, without the caches of an earlier run
            command = [sys.executable, "-m", "benchmarks.rendering", str(nodes)]
            rows.append([float(word) for word in subprocess.check_output(command, text=True).split()])
        plan, place, tasks, size = (statistics.median(column) for column in zip(*rows, strict=True))
        total = statistics.median(sum(row[:3]) for row in rows)
        processes = nodes * 8 + 1
        print(
            f"{nodes:>6} {processes:>10} {plan:>8.3f} {place:>8.3f} {tasks:>8.3f} {total:>8.3f}"
            f" {total / processes * 1e6:>11.1f} {size / 1e6:>6.1f}"
        )
    print(f"(medians of {_RUNS} runs, each in a fresh process after its imports)")


if __name__ == "__main__":
    main()
