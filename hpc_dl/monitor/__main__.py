"""Writes a line a second on this node and the job's processes on it, until it is killed. The launcher starts it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec

from hpc_dl.disk import LineFile


def main() -> None:
    """Run the monitor."""
    parser = argparse.ArgumentParser(prog="python -m hpc_dl.monitor", description=__doc__)
    parser.add_argument("file", type=Path, help="what the lines are appended to")
    parser.add_argument("names", nargs="*", help="the job's processes on this node, such as worker:3")
    parser.add_argument("--node", required=True, help="name of this node in the job")
    parser.add_argument("--run", type=Path, required=True, help="the job's run folder")
    parser.add_argument("--attempt", type=int, required=True, help="the attempt of these processes")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between lines")
    given = parser.parse_args()
    try:
        from hpc_dl.monitor.sampling import Sampler
    except ImportError as error:
        sys.exit(f"hpc-dl: no monitor on node {given.node}: {error}")
    lines = LineFile(given.file, f"the monitor of node {given.node}")
    sampler = Sampler(given.node, given.run, given.attempt, given.names)
    due, started = time.monotonic(), False
    while True:
        started = started or lines.append(msgspec.json.encode(sampler.start()))
        lines.append(msgspec.json.encode(sampler.sample()))
        # After a suspension, the looks that were missed are left out.
        due = max(due + given.every, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
