"""Run the benchmarks by name; all of them without a name."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

NAMES = ("start", "rendering", "submission", "train_loop", "modes", "tasks", "status")


def main() -> int:
    names = sys.argv[1:] or NAMES
    if unknown := set(names) - set(NAMES):
        print(f"unknown benchmark {sorted(unknown)}; known: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores", flush=True)
    codes = []
    for name in names:
        print(f"\n== {name} ==", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode)
    return max(codes)


sys.exit(main())
