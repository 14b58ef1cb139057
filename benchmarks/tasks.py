"""What a task of a task file costs: tasks that do nothing, from 100 to 100,000, against others; memory; fuzzed files.

Arguments choose parts: ``local slurm fuzz``; without one, ``local slurm``. ``fuzz`` reads 100,000 mutated files.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_COUNTS = (100, 1_000, 10_000, 100_000)
_COMPARED = 10_000
_RUN = [sys.executable, "-m", "hpc_dl", "tasks", "run", "tasks.txt", "--log-level=2"]
_STEPS = 100
_NODES = 2


def _measure(command: list[str], folder: Path, text: str) -> tuple[float, float]:
    """Return the seconds that a command took and the core-seconds that it and its children used."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, input=text, cwd=folder, check=True, stdout=subprocess.DEVNULL, text=True)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _row(name: str, count: int, seconds: float, cpu: float, note: str = "") -> None:
    each, used = seconds / count * 1e3, cpu / count * 1e3
    print(f"{name:<34} {count:>7} {seconds:>8.2f} {each:>9.3f} {used:>9.3f}  {note}", flush=True)


def local() -> None:
    """Measure on this machine."""
    workers = os.cpu_count() or 1
    print(f"{workers} tasks at once; one run each\n{'':<34} {'tasks':>7} {'s':>8} {'ms/task':>9} {'cpu ms':>9}")
    rivals = {f"xargs -P{workers} -I{{}} sh -c {{}}": ["xargs", f"-P{workers}", "-I{}", "sh", "-c", "{}"]}
    if shutil.which("parallel"):
        rivals[f"parallel -j{workers}"] = ["parallel", f"-j{workers}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = 0.0
        for rival, command in rivals.items():
            seconds, cpu = _measure(command, folder, "true\n" * _COMPARED)
            theirs = theirs or cpu / _COMPARED
            _row(rival, _COMPARED, seconds, cpu)
        for count in _COUNTS:
            (folder / "tasks.txt").write_text("true\n" * count)
            seconds, cpu = _measure([*_RUN, f"--workers={workers}"], folder, "")
            _row("hpc-dl tasks run", count, seconds, cpu, f"ours: {(cpu / count - theirs) * 1e3:.3f} ms cpu a task")
            shutil.rmtree(folder / "tasks.txt.records")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"largest process: {memory:.0f} MiB, the runner of {_COUNTS[-1]} tasks")


def slurm() -> None:
    """Measure inside a job of a private Slurm: all tasks through agents, against an srun for each."""
    from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup

    root = Path(tempfile.mkdtemp(prefix="hd", dir="/tmp"))  # unix sockets need a short path
    try:
        with MiniCluster(root, ClusterConfig(groups=(NodeGroup(count=_NODES),))) as cluster:
            environ = cluster.env() | {"PYTHONPATH": str(Path(__file__).parents[1])}
            loop = f"for i in $(seq {_STEPS}); do srun --nodes=1 --ntasks=1 --overlap true; done"
            print(f"\nin a job of {_NODES} nodes: wall time\n{'':<34} {'tasks':>7} {'s':>8} {'ms/task':>9}")
            for label, count, command in (
                ("one srun per task in a loop", _STEPS, loop),
                ("hpc-dl tasks run", _COMPARED, " ".join(_RUN)),
            ):
                (root / "tasks.txt").write_text("true\n" * count)
                start = time.perf_counter()
                words = ["salloc", f"--nodes={_NODES}", "--ntasks-per-node=1", "--cpus-per-task=2", "sh", "-c", command]
                subprocess.run(words, cwd=root, env=environ, check=True, capture_output=True)
                seconds = time.perf_counter() - start
                print(f"{label:<34} {count:>7} {seconds:>8.2f} {seconds / count * 1e3:>9.3f}", flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def fuzz() -> None:
    """Read 100,000 mutated task files."""
    test = "tests/unit/test_tasks_parser.py"
    command = [sys.executable, "-m", "pytest", "-q", test, "-k", "mutated", "--timeout=3000"]
    subprocess.run(command, check=True, env=os.environ | {"HPC_DL_FUZZ": "25000"})


def main() -> None:
    """Run the parts that the arguments name."""
    for part in sys.argv[1:] or ["local", "slurm"]:
        {"local": local, "slurm": slurm, "fuzz": fuzz}[part]()


if __name__ == "__main__":
    main()
