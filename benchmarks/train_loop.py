"""What does our training loop cost? Global steps/s of each mode against the shortest program with the bare API.

Both programs train the same network on the same images with the same optimizer. They have the same number of processes
and threads: 2 workers, and 1 ps where the mode has one (`single`: 1 process; `mixed`: 2 towers per worker). Both are
started, and run in turns of some seconds. The other program is stopped meanwhile (SIGSTOP), so that other load of the
machine meets both. The table has medians over the turns: steps/s, and the CPU time of a step in all processes together.
The ratio is the median over neighbouring turns. The bare programs are in benchmarks/bare. They print, but they save
nothing, trace nothing and survive no fault.

    python -m benchmarks train_loop --modes async,sync --runs 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LIMIT = 120.0  # seconds until a program has written its lines
_AWAKE = 0.3  # seconds after SIGCONT that don't count
_NEVER = "1000000000"  # steps


@dataclass(frozen=True)
class Layout:
    """The processes of a mode, and the module of `benchmarks.bare` that does the same."""

    bare: str
    workers: int = 2
    ps: int = 0
    towers: int = 1


MODES = {
    "single": Layout("function", workers=1),
    "async": Layout("parameter_server", ps=1),
    "mixed": Layout("parameter_server", ps=1, towers=2),
    "sync": Layout("sync_replicas", ps=1),
    "multiworker": Layout("mirrored"),
    "horovod": Layout("ranks"),
}
_MPIRUN = ["--bind-to", "none", "--oversubscribe", "--allow-run-as-root"]
_MPIRUN += ["--mca", "btl", "tcp,self", "--mca", "mpi_yield_when_idle", "1"]


class Program:
    """One of the two programs, with all its processes."""

    def __init__(self, name: str, mode: str, options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack):
        layout = MODES[mode]
        common = ["--model", options.model, "--data-dir", options.data_dir, "--batch", str(options.batch)]
        common += ["--log-every", str(options.log_every), "--towers", str(layout.towers)]
        if name == "ours":
            command = ["hpc_dl.train", "--mode", mode, "--run-dir", str(folder), "--steps", _NEVER, *common]
            command += ["--checkpoint-every", _NEVER, "--learning-rate", "0.01", "--lr-boundaries", ""]
        else:
            command = [f"benchmarks.bare.{layout.bare}", *common]
        self.folder = folder
        self._steps = folder / ("metrics/worker-0.jsonl" if name == "ours" else "worker-0.out")
        self._processes = stack.enter_context(running([sys.executable, "-m", *command], mode, folder))

    def wait_for(self, lines: int, since: float = 0.0) -> list[tuple[float, int]]:
        """Wait for `lines` lines of worker 0 written at or after `since`; return (time, global step) of each."""
        limit = time.monotonic() + _LIMIT
        while time.monotonic() < limit and all(process.poll() is None for process in self._processes):
            texts = self._steps.read_text().splitlines(keepends=True) if self._steps.exists() else []
            records = [json.loads(text) for text in texts if text.endswith("\n")]
            found = [(line["time"], line["step"]) for line in records if "step" in line and line["time"] >= since]
            if len(found) >= lines:
                return found
            time.sleep(0.05)
        errors = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.err"))
        raise SystemExit(f"{self._steps}: too few lines within {_LIMIT:g} s; its processes say:\n{errors}")

    def turn(self, seconds: float) -> tuple[float, float]:
        """Run for some seconds; return their steps/s, and the CPU time of all processes in ms per step."""
        self.signal(signal.SIGCONT)
        time.sleep(_AWAKE)
        begin, cpu_begin = time.time(), self.cpu_seconds()
        time.sleep(seconds)
        lines = self.wait_for(3, begin)
        end, cpu_end = time.time(), self.cpu_seconds()
        self.signal(signal.SIGSTOP)
        rate = (lines[-1][1] - lines[0][1]) / (lines[-1][0] - lines[0][0])
        return rate, 1000 * (cpu_end - cpu_begin) / (rate * (end - begin))

    def pids(self) -> list[int]:
        """Return all processes, including those that mpirun has started."""
        return [pid for process in self._processes for pid in (process.pid, *children(process.pid))]

    def signal(self, number: int) -> None:
        for pid in self.pids():
            os.kill(pid, number)

    def cpu_seconds(self) -> float:
        """Return the CPU time so far, of user and system (proc_pid_stat(5), fields 14 and 15)."""
        stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids()]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started (proc_pid_task_tid_children(5))."""
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


def compare(mode: str, options: argparse.Namespace) -> str:
    """Measure one mode and return its line of the table."""
    turns: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        programs = {}
        for name in turns:
            (Path(folder) / name).mkdir()
            programs[name] = Program(name, mode, options, Path(folder) / name, stack)
            # It is stopped only when it trains, so that none of its processes starts without its peers.
            programs[name].wait_for(2)
            programs[name].signal(signal.SIGSTOP)
        for number in range(options.runs):
            for name in ("ours", "bare") if number % 2 else ("bare", "ours"):
                turns[name].append(programs[name].turn(options.seconds))
    rates, cpu = ({name: [turn[part] for turn in of] for name, of in turns.items()} for part in (0, 1))
    ratio = statistics.median(ours / bare for ours, bare in zip(*rates.values(), strict=True))
    steps, work = (
        " ".join(f"{statistics.median(of):>{width}}" for of in table.values())
        for table, width in ((rates, "12.1f"), (cpu, "11.2f"))
    )
    runs = " / ".join(" ".join(f"{rate:.0f}" for rate in of) for of in rates.values())
    return f"{mode:<12} {steps} {ratio:>6.3f} {work}  {runs}"


@contextlib.contextmanager
def running(command: list[str], mode: str, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run the command once for each process of the mode; output goes to `<task>.out` and `.err` in `folder`."""
    layout = MODES[mode]
    addresses = free_addresses(layout.ps + layout.workers)
    cluster = {"ps": addresses[: layout.ps], "worker": addresses[layout.ps :]}
    if not layout.ps:
        del cluster["ps"]
    # One core for each process, as in a job that divides a node's cores.
    threads = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1")
    environ = {**os.environ, **threads, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "1"}
    commands = {
        f"{job}-{index}": [
            "env", "TF_CONFIG=" + json.dumps({"cluster": cluster, "task": {"type": job, "index": index}}), *command
        ]
        for job, members in cluster.items()
        for index in range(len(members))
    }  # fmt: skip
    if mode == "horovod":
        ranks = [word for rank in commands.values() for word in (":", "-n", "1", *rank)]
        commands = {"worker-0": ["mpirun", *_MPIRUN, *ranks[1:]]}
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    with contextlib.ExitStack() as stack:
        processes = []
        for task, words in commands.items():
            out, err = (stack.enter_context((folder / f"{task}.{kind}").open("wb")) for kind in ("out", "err"))
            processes.append(subprocess.Popen(words, env=environ, stdout=out, stderr=err))
            stack.callback(end, processes[-1])
        yield processes


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, such as the ranks of mpirun."""
    started = children(process.pid)
    for pid in (*started, process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def free_addresses(count: int) -> list[str]:
    """Return addresses of this machine whose ports nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default=",".join(MODES), help="(default: all)")
    parser.add_argument("--runs", type=int, default=8, help="turns of each program (default: 8)")
    parser.add_argument("--seconds", type=float, default=2, help="that a turn takes at least (default: 2)")
    parser.add_argument("--model", default="small", help="(default: small, where the loop's own cost shows most)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--log-every", type=int, default=50, help="steps between lines, of both programs")
    options = parser.parse_args()
    modes = options.modes.split(",")
    if unknown := set(modes) - set(MODES):
        parser.error(f"unknown mode {sorted(unknown)[0]!r}; known: {', '.join(MODES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an exit that ends the programs
    print(f"{options.model}, digits, batch {options.batch}; medians of {options.runs} turns of {options.seconds:g} s")
    print(
        f"{'mode':<12} {'ours steps/s':>12} {'bare steps/s':>12} {'ratio':>6} {'ours CPU ms':>11} {'bare CPU ms':>11}"
        "  steps/s of the turns: ours / bare",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as options.data_dir:
        prepare = [sys.executable, "-m", "hpc_dl.data", "prepare", "digits", "--data-dir", options.data_dir]
        subprocess.run(prepare, check=True, capture_output=True)
        for mode in modes:
            print(compare(mode, options), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
