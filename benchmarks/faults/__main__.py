"""`python -m benchmarks.faults [--modes async,sync] [--faults worker,node] [--runs 10] [--results FILE]`.

Each fault comes at a random step. A job meets up to ten faults, which also shows that it survives several. A fault
takes a quarter of a minute. With a file of results, cells that have their runs already are not measured again. A run
is right if its job ends COMPLETED with exactly its steps, repeats at most one checkpoint's interval, and leaves no
process. If a run is not right or a job hangs, the exit code is 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.faults.cluster import bench
from benchmarks.faults.hurt import FAULTS, fits
from benchmarks.faults.jobs import EVERY, MODES
from benchmarks.faults.measure import hurt_job
from benchmarks.faults.network import enter_namespaces
from benchmarks.faults.table import Table
from hpc_dl.errors import UserError


def _names(text: str, known: dict[str, Any]) -> list[str]:
    names = text.split(",") if text else list(known)
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.faults", description="the fault table")
    parser.add_argument("--modes", type=lambda text: _names(text, MODES), default=list(MODES))
    parser.add_argument("--faults", type=lambda text: _names(text, FAULTS), default=list(FAULTS))
    parser.add_argument("--runs", type=int, default=1, help="how often each mode meets each fault")
    parser.add_argument("--results", type=Path, help="a file that keeps what was found")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    try:
        enter_namespaces([sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]])
    except UserError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 2
    rng = random.Random(options.seed)  # noqa: S311 - no secret
    print(f"the small network, a checkpoint every {EVERY} steps; {options.runs} faults of each kind in each mode")
    with tempfile.TemporaryDirectory() as folder:
        table = Table((options.results or Path(folder, "results.jsonl")).absolute())
        cells = [(fault, mode) for fault in options.faults for mode in options.modes if fits(mode, fault)]
        if any(len(table.cell(*cell)) < options.runs for cell in cells):
            with bench() as running:
                for fault, mode in cells:
                    while (missing := options.runs - len(table.cell(fault, mode))) > 0:
                        table.add(hurt_job(running, mode, fault, missing, rng))
                        running.heal()
                        print(table.line(fault, mode), flush=True)
        print("\n".join(["", *table.lines(), "", *table.grid(list(FAULTS), list(MODES))]))
        return 0 if table.right() else 1


if __name__ == "__main__":
    sys.exit(main())
