"""How long the command takes to start, compared with ``python -c pass``: medians of whole processes, run in turn."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

_RUNS = 15
_COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import hpc_dl": ["-c", "import hpc_dl; hpc_dl.submit"],
    "hpc-dl --version": ["-m", "hpc_dl", "--version"],
    "hpc-dl --help": ["-m", "hpc_dl", "--help"],
    "hpc-dl render, 2 nodes": ["-m", "hpc_dl", "render", "--site", "minotauro", "--nodelist", "nvb[19-20]"],
    "hpc-dl render, table alone": ["-m", "hpc_dl", "render", "--site", "minotauro", "--nodes", "2", "--table"],
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for run in range(_RUNS + 1):
        for name, arguments in _COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if run:  # the first round warms the disk cache
                seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["python -c pass"])
    print(f"{'command':<28} {'median ms':>10} {'min':>7} {'max':>7} {'ratio':>7}   ({_RUNS} runs in turn)")
    for name, values in seconds.items():
        median = statistics.median(values)
        ms = f"{median * 1e3:>10.0f} {min(values) * 1e3:>7.0f} {max(values) * 1e3:>7.0f}"
        print(f"{name:<28} {ms} {median / base:>7.1f}")


if __name__ == "__main__":
    main()
