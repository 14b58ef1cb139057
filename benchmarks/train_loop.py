"""What does our training loop cost? Global steps/s of each mode against the shortest program with the bare API.

Both train the same network on the same images with the same optimizer, in as many processes of as many threads:
2 workers, and 1 ps where the mode has one (`single`: 1 process; `mixed`: 2 towers per worker). They take turns; the
table has their medians. The bare programs are in benchmarks/bare; they print, but save, trace and survive nothing.

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

_START_LIMIT = 120.0  # seconds until the first step


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
_MPIRUN = "--bind-to none --oversubscribe --allow-run-as-root --mca btl tcp,self --mca mpi_yield_when_idle 1".split()


def rate(who: str, mode: str, options: argparse.Namespace) -> float:
    """Start one of the two programs, let it run for a while, end it; return its steps/s."""
    layout = MODES[mode]
    common = ["--model", options.model, "--data-dir", options.data_dir, "--batch", str(options.batch)]
    common += ["--log-every", str(options.log_every), "--towers", str(layout.towers)]
    with tempfile.TemporaryDirectory() as folder:
        if who == "ours":
            command = [sys.executable, "-m", "hpc_dl.train", "--mode", mode, "--run-dir", folder, *common]
            command += ["--steps", "1000000000", "--checkpoint-every", "1000000000", "--learning-rate", "0.01"]
            lines = Path(folder) / "metrics" / "worker-0.jsonl"
        else:
            command = [sys.executable, "-m", f"benchmarks.bare.{layout.bare}", *common]
            lines = Path(folder) / "worker-0.out"
        with running(command, mode, Path(folder)) as processes:
            return measured(lines, processes, options.skip, options.seconds)


@contextlib.contextmanager
def running(command: list[str], mode: str, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run the command once for each process of the mode; output goes to `<task>.out` and `.err` in `folder`."""
    layout = MODES[mode]
    addresses = free_addresses(layout.ps + layout.workers)
    cluster = {"ps": addresses[: layout.ps], "worker": addresses[layout.ps :]}
    if not layout.ps:
        del cluster["ps"]
    # One core for each process, as in a job that shares out a node's cores.
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
            processes.append(subprocess.Popen(words, env=environ, stdout=out, stderr=err, start_new_session=True))
            stack.callback(end, processes[-1])
        yield processes


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those that it started; mpirun ends its ranks by itself, which have sessions of their own."""
    if process.poll() is None and "mpirun" in process.args:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measured(path: Path, processes: list[subprocess.Popen[bytes]], skip: float, seconds: float) -> float:
    """Return steps/s from the lines that a running worker writes, over `seconds` that begin `skip` after the first."""
    limit = time.monotonic() + _START_LIMIT + skip + seconds
    while time.monotonic() < limit and all(process.poll() is None for process in processes):
        time.sleep(0.2)
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        steps = [(line["time"], line["step"]) for line in map(json.loads, (text for text in lines if text[-1] == "\n"))
                 if "step" in line]
        kept = [(moment, step) for moment, step in steps if moment >= steps[0][0] + skip]
        if kept and kept[-1][0] - kept[0][0] >= seconds:
            return float((kept[-1][1] - kept[0][1]) / (kept[-1][0] - kept[0][0]))
    errors = "\n".join(file.read_text()[-2000:] for file in path.parents[0].rglob("*.err"))
    raise SystemExit(f"{path.name} has not come to an end of its measurement; its processes say:\n{errors}")


def free_addresses(count: int) -> list[str]:
    """Return addresses of this machine whose ports nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default=",".join(MODES), help="(default: all)")
    parser.add_argument("--runs", type=int, default=3, help="of each program (default: 3)")
    parser.add_argument("--seconds", type=float, default=6, help="that a run is measured (default: 6)")
    parser.add_argument("--skip", type=float, default=2, help="seconds after the first step that don't count")
    parser.add_argument("--model", default="small", help="(default: small, where the loop's own cost shows most)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--log-every", type=int, default=50, help="steps between lines, of both programs")
    options = parser.parse_args()
    modes = options.modes.split(",")
    if unknown := set(modes) - set(MODES):
        parser.error(f"unknown mode {sorted(unknown)[0]!r}; known: {', '.join(MODES)}")
    print(f"{options.model}, digits, batch {options.batch}; medians of {options.runs} runs of {options.seconds:g} s")
    print(f"{'mode':<12} {'ours steps/s':>12} {'bare steps/s':>12} {'ratio':>6}  runs (ours / bare)", flush=True)
    with tempfile.TemporaryDirectory() as options.data_dir:
        prepare = [sys.executable, "-m", "hpc_dl.data", "prepare", "digits", "--data-dir", options.data_dir]
        subprocess.run(prepare, check=True, capture_output=True)
        for mode in modes:
            rates: dict[str, list[float]] = {"ours": [], "bare": []}
            for number in range(options.runs):
                # Whoever comes second may find the machine warmer or busier: take turns.
                for who in ("ours", "bare") if number % 2 else ("bare", "ours"):
                    rates[who].append(rate(who, mode, options))
            ours, bare = (statistics.median(rates[who]) for who in ("ours", "bare"))
            runs = " / ".join(" ".join(f"{value:.1f}" for value in rates[who]) for who in ("ours", "bare"))
            print(f"{mode:<12} {ours:>12.1f} {bare:>12.1f} {ours / bare:>6.3f}  {runs}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
