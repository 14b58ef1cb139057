"""What a task of a task file costs: time and memory for 100 to 100,000 empty tasks, compared with other programs.

Arguments choose parts: ``local log slurm fuzz``; without one, all of them. ``log`` measures what a log of every task
costs, and GREASY with its own log if ``greasy`` is on PATH. ``fuzz`` reads 100,000 mutated files.

Each row is the median of several runs. A run that takes more than a minute is not repeated. Own time is the CPU time of
our processes without the CPU time of the tasks (the shell and its command), which is in the records.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_COUNTS = (100, 1_000, 10_000, 100_000)
_COMPARED = 10_000
_RUNS = 3
_LONG = 60.0  # seconds
_PAIRS = 5
_TASKS_RUN = [sys.executable, "-m", "hpc_dl", "tasks", "run", "tasks.txt"]
_RUN = [*_TASKS_RUN, "--log-level=2"]
_STEPS = 100
_NODES = 4


class _Result:
    """One run: wall time, CPU time of all processes, own CPU time (None: not known), memory of the largest process."""

    def __init__(self, seconds: float, cpu: float, memory: float, own: float | None = None) -> None:
        self.seconds, self.cpu, self.memory, self.own = seconds, cpu, memory, own


def _measure(command: list[str], folder: Path, source: Path | None = None) -> _Result:
    """Run a command and wait for it and all of its processes."""
    start = time.perf_counter()
    with Path(source or os.devnull).open() as text:
        process = subprocess.Popen(command, stdin=text, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return _Result(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _ours(folder: Path, command: list[str]) -> _Result:
    records = folder / "tasks.txt.records"
    shutil.rmtree(records, ignore_errors=True)
    result = _measure(command, folder)
    ends = [json.loads(line) for file in records.glob("*.jsonl") for line in file.open()]
    result.own = result.cpu - sum(end["cpu"] for end in ends)
    return result


def _row(name: str, count: int, run: Callable[[], _Result], cpu: bool = True) -> None:
    results = [run()]
    while len(results) < _RUNS and results[0].seconds < _LONG:
        results.append(run())

    def median(value: Callable[[_Result], float]) -> float:
        return statistics.median(map(value, results))

    seconds = median(lambda one: one.seconds)
    text = (
        f"{name:<30} {count:>7} {len(results):>5} {seconds:>8.2f} {count / seconds:>9.0f} {seconds / count * 1e3:>8.2f}"
    )
    if cpu:
        text += f" {median(lambda one: one.cpu) / count * 1e3:>8.2f}"
        own = f"{median(lambda one: one.own or 0) / count * 1e3:.3f}" if results[0].own is not None else ""
        text += f" {own:>8} {median(lambda one: one.memory):>6.0f}"
    print(text, flush=True)


def _heading(title: str) -> None:
    print(f"{title}\n{'':<30} {'tasks':>7} {'runs':>5} {'s':>8} {'tasks/s':>9} {'ms/task':>8}", end="")


def local() -> None:
    """Measure on this machine."""
    workers = os.cpu_count() or 1
    _heading(f"{workers} tasks at once on this machine; cpu and own are ms of processor time per task")
    print(f" {'cpu':>8} {'own':>8} {'MiB':>6}")
    rivals = {f"xargs -P{workers}, a shell per line": ["xargs", f"-P{workers}", "-I{}", "sh", "-c", "{}"]}
    if shutil.which("parallel"):
        rivals[f"parallel -j{workers}"] = ["parallel", f"-j{workers}"]
    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name), Path(name, "tasks.txt")
        file.write_text("true\n" * _COMPARED)
        for rival, command in rivals.items():
            _row(rival, _COMPARED, lambda command=command: _measure(command, folder, file))  # type: ignore[misc]
        for count in _COUNTS:
            file.write_text("true\n" * count)
            _row("hpc-dl tasks run", count, lambda: _ours(folder, [*_RUN, f"--workers={workers}"]))
    if len(rivals) == 1:
        print("GNU parallel is not installed here")


def log() -> None:
    """Measure what a log of every task costs. The kinds take turns, since the machine may be busy."""
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tasks.txt").write_text("true\n" * _COMPARED)
        (folder / "greasy.conf").write_text(f"Engine=basic\nNWorkers={workers}\nLogFile=log\nLogLevel=3\n")
        ours = [*_TASKS_RUN, f"--workers={workers}"]
        commands = {"hpc-dl, no log": [*ours, "--log-level=2"], "hpc-dl, two lines per task": ours}
        if shutil.which("greasy"):
            commands["greasy, two lines per task"] = ["greasy", "tasks.txt"]
        results: dict[str, list[_Result]] = {kind: [] for kind in commands}
        for _ in range(_PAIRS):
            for kind, command in commands.items():
                shutil.rmtree(folder / "tasks.txt.records", ignore_errors=True)
                results[kind].append(_measure(command, folder))
    _heading(f"{workers} tasks at once on this machine, {_PAIRS} runs of each kind in turn")
    print(f" {'cpu':>8}")
    for kind, runs in results.items():
        seconds, cpu = (statistics.median(getattr(one, what) for one in runs) for what in ("seconds", "cpu"))
        each = f"{seconds / _COMPARED * 1e3:>8.2f} {cpu / _COMPARED * 1e3:>8.2f}"
        print(f"{kind:<30} {_COMPARED:>7} {_PAIRS:>5} {seconds:>8.2f} {_COMPARED / seconds:>9.0f} {each}", flush=True)


def slurm() -> None:
    """Measure inside a job of a private Slurm: all tasks through agents, compared with one srun per task."""
    from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup

    root = Path(tempfile.mkdtemp(prefix="hd", dir="/tmp"))  # unix sockets need a short path
    try:
        with MiniCluster(root, ClusterConfig(groups=(NodeGroup(count=_NODES),))) as cluster:
            environ = cluster.env() | {"PYTHONPATH": str(Path(__file__).parents[1])}
            step = "srun --nodes=1 --ntasks=1 --overlap true"
            together = f"seq {_STEPS} | xargs -P16 -I[] {step}"
            _heading(f"\nin a job of {_NODES} nodes of a private Slurm")
            print()
            for label, count, command in (
                ("an srun per task in a loop", _STEPS, f"for i in $(seq {_STEPS}); do {step}; done"),
                ("an srun per task, 16 at once", _STEPS, together),
                ("hpc-dl tasks run", _STEPS, " ".join(_RUN)),
                ("hpc-dl tasks run", _COMPARED, " ".join(_RUN)),
            ):
                (root / "tasks.txt").write_text("true\n" * count)
                words = ["salloc", f"--nodes={_NODES}", "--ntasks-per-node=1", "--cpus-per-task=2", "sh", "-c", command]

                def run(words: list[str] = words) -> _Result:
                    start = time.perf_counter()
                    subprocess.run(words, cwd=root, env=environ, check=True, capture_output=True)
                    return _Result(time.perf_counter() - start, 0, 0)

                _row(label, count, run, cpu=False)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def fuzz() -> None:
    """Read 100,000 mutated task files."""
    test = "tests/unit/tasks/file/test_parser.py"
    command = [sys.executable, "-m", "pytest", "-q", test, "-k", "mutated", "--timeout=3000"]
    print("\n100,000 mutated task files", flush=True)
    subprocess.run(command, check=True, env=os.environ | {"HPC_DL_FUZZ": "25000"})


def main() -> None:
    """Run the parts that the arguments name."""
    parts = {"local": local, "log": log, "slurm": slurm, "fuzz": fuzz}
    for part in sys.argv[1:] or parts:
        parts[part]()


if __name__ == "__main__":
    main()
