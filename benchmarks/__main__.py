"""Run the benchmarks by name; all of them without a name. Options after a name go to that benchmark."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

NAMES = ("start", "rendering", "submission", "train_loop", "modes", "tasks", "status", "faults", "interrupted")


def main() -> int:
    words = sys.argv[1:]
    first_option = next((number for number, word in enumerate(words) if word.startswith("-")), len(words))
    names, options = words[:first_option] or NAMES, words[first_option:]
    if options and len(names) != 1:
        print(f"{options[0]}: options need one benchmark's name before them", file=sys.stderr)
        return 2
    if unknown := set(names) - set(NAMES):
        print(f"unknown benchmark {sorted(unknown)}; known: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores", flush=True)
    codes = []
    for name in names:
        print(f"\n== {name} ==", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=False).returncode)
    return max(codes)


sys.exit(main())
