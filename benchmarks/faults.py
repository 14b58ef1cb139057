"""The fault table: what a fault costs each mode, on a private cluster.

`python -m benchmarks.faults [--modes async,sync] [--faults worker,node] [--runs 10]`; about half a minute a run. Each
fault comes at a random step. A run is right if the job ends COMPLETED with exactly its steps; else, or where a job
hangs, the command ends with exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hpc_dl
from hpc_dl.errors import JobError
from hpc_dl.job import Job
from hpc_dl.launch.attempts import events
from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup, Partition
from hpc_dl.progress import Progress

_STEPS = 1500
_EVERY = 100  # steps between checkpoints: the most that may be lost
_LIMIT = 240.0  # seconds after which a job counts as hanging
MODES: dict[str, dict[str, Any]] = {
    "async": {"mode": "async", "nodes": 2, "gpus": 1},
    "mixed": {"mode": "mixed", "nodes": 2, "gpus": 2},
    "sync": {"mode": "sync", "nodes": 2, "gpus": 1},
    "sync+1": {"mode": "sync", "nodes": 3, "gpus": 1, "backup_workers": 1},
    "multiworker": {"mode": "multiworker", "nodes": 2, "gpus": 1},
    "horovod": {"mode": "horovod", "nodes": 2, "gpus": 1},
    "single": {"mode": "single", "nodes": 1, "gpus": 1},
}
CONFIG = ClusterConfig(
    groups=(NodeGroup(count=4),),
    partitions=(Partition("main"), Partition("high")),
    extra=("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE", "KillWait=20"),
)


@dataclass
class Run:
    """A job of the table, with the means to hurt it."""

    job: Job

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield all lines of metrics that its processes have written."""
        for path in self.job.run.metrics.glob("*.jsonl"):
            for line in path.read_bytes().split(b"\n")[:-1]:
                yield json.loads(line)

    def nodes(self) -> list[str]:
        """Return the nodes of its placement, in order."""
        return re.findall(r"^#@ node=(\S+)", self.job.run.tasks.read_text(), re.MULTILINE) or ["mini1", "mini2"]

    def pids(self, *words: str) -> list[int]:
        """Return its processes whose command line or environment has all of the words."""
        return [pid for pid, text in _processes() if str(self.job.run.path) in text and all(w in text for w in words)]

    def process(self, role: str, index: int) -> list[int]:
        """Return the training process of a role and index, not its launcher."""
        return self.pids("hpc_dl.train\0--mode", f'"task":{{"type":"{role}","index":{index}}}')


def _processes() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
            except OSError:
                continue
            yield int(folder.name), text.decode(errors="replace")


def _slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _worker(run: Run) -> None:
    _kill(run.process("worker", 1))


def _chief(run: Run) -> None:
    _kill(run.process("worker", 0))


def _ps(run: Run) -> None:
    _kill(run.process("ps", 0))


def _launcher(run: Run) -> None:
    _kill((run.pids("-m\0hpc_dl\0launch\0") or run.pids("-m\0hpc_dl\0rank\0"))[:1])


def _node(run: Run) -> None:
    _slurm("scontrol", "update", f"nodename={run.nodes()[-1]}", "state=DOWN", "reason=fault")


def _cut(run: Run) -> None:
    """Kill slurmd and slurmstepd of a node: Slurm gives the node up, and the job's processes on it go on."""
    node = run.nodes()[-1]
    _kill([slurmd(node), *(pid for pid in map(_stepd, run.pids(f"\0SLURMD_NODENAME={node}\0")) if pid)])


def _stepd(pid: int) -> int:
    """Return the slurmstepd that a process descends from; 0 without one."""
    while pid > 1:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return 0
        if status.split()[1] == "slurmstepd":
            return pid
        pid = int(re.findall(r"^PPid:\s*(\d+)", status, re.MULTILINE)[0])
    return 0


def slurmd(node: str) -> int:
    """Return the slurmd of a node; 0 if it does not run."""
    ours = f"\0{os.environ['SLURM_CONF']}\0"
    found = (pid for pid, text in _processes() if ours in text and re.match(rf"\S*slurmd\0(.*\0)?-N\0{node}\0", text))
    return next(found, 0)


def _preemption(_run: Run) -> None:
    _slurm("sbatch", "-N4", "--exclusive", "-p", "high", "--output=/dev/null", "--wrap=sleep 2")


def _limit(run: Run) -> None:
    """Send what `--signal=B:USR1@60` sends ahead of the time limit."""
    _slurm("scancel", "--batch", "--signal=USR1", run.job.job_id)


def _controller(_run: Run) -> None:
    """End slurmctld for some seconds."""
    cluster = MiniCluster(Path(os.environ["SLURM_CONF"]).parent, CONFIG)
    cluster.pause()
    time.sleep(5)
    cluster.resume()


def _disk(run: Run) -> None:
    """Fill the disk of the run folder for some seconds."""
    filling = run.job.run.path / "filling"
    try:
        with filling.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
    except OSError:
        time.sleep(10)
    finally:
        filling.unlink()


FAULTS: dict[str, Callable[[Run], None]] = {
    "worker": _worker,
    "chief": _chief,
    "ps": _ps,
    "launcher": _launcher,
    "node": _node,
    "cut": _cut,
    "preemption": _preemption,
    "limit": _limit,
    "controller": _controller,
    "disk": _disk,
}
_PS_MODES = ("async", "mixed", "sync", "sync+1")


def fits(mode: str, fault: str) -> bool:
    """Return whether a mode has what the fault hits."""
    if fault == "ps":
        return mode in _PS_MODES
    return not (mode == "single" and fault in ("worker", "launcher"))


@dataclass
class Found:
    """What one run has shown."""

    then: str
    seconds: float
    lost: int
    code: int
    steps: int
    accuracy: float
    message: str

    @property
    def right(self) -> bool:
        # Workers of async and mixed take their last steps at once: there may be one more for each but the last.
        return self.code == 0 and _STEPS <= self.steps <= _STEPS + 1 and self.lost <= _EVERY and self.accuracy > 0.9


def measure(mode: str, fault: str, at_step: int) -> Found:
    settings = MODES[mode]
    job = hpc_dl.submit(
        "train",
        site="minicluster",
        cores=4,
        steps=_STEPS,
        log_every=5,
        checkpoint_every=_EVERY,
        restarts=3,
        requeues=3,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        **settings,
    )
    run, progress = Run(job), Progress(job.run)
    begin = time.monotonic()
    while progress.look().step < at_step:
        if time.monotonic() - begin > _LIMIT or job.run.summary.exists():
            raise JobError(f"job {job.job_id} did not reach step {at_step}: {job.stdout()}")
        time.sleep(0.05)
    hurt, step = time.time(), progress.look().step
    FAULTS[fault](run)
    try:
        job.wait(timeout=_LIMIT)
    except TimeoutError:
        job.cancel()
        return Found("HANGS", float("nan"), 0, -1, 0, 0.0, job.stdout()[-300:])
    history = events(job.run)
    then = [event.then for event in history if event.then]
    starts = sum(event.event == "started" for event in history)
    again = re.findall(r"^hpc-dl: .*(?:start again|started again|requeued|given up).*", job.stdout(), re.MULTILINE)
    if starts == 1:
        what = "goes on" if not again else "process restarts"
    else:
        what = "all restart" if then == ["restart"] else "requeued"
    summary = job.summary()
    result = (summary.result if summary else None) or {}
    lost = max(0, step - result.get("start_step", 0)) if starts > 1 else 0
    failure = str(summary.failure).partition("\n")[0] if summary and summary.failure else ""
    return Found(
        what,
        _longest_pause(sorted(r["time"] for r in run.records() if "event" not in r and r["time"] > hurt - 0.5)),
        lost,
        summary.exit_code if summary else -1,
        result.get("steps", 0),
        result.get("test_accuracy", 0.0),
        failure or (again[-1].removeprefix("hpc-dl: ") if again else ""),
    )


def _longest_pause(times: list[float]) -> float:
    """Return the seconds in which nobody reported a step: how long it took until they trained again."""
    return max((after - before for before, after in itertools.pairwise(times)), default=float("nan"))


def prepare() -> None:
    """Let jobs of the partition high drive out those of main, with a time of grace."""
    _slurm("scontrol", "update", "partitionname=high", "PriorityTier=10")
    _slurm("scontrol", "update", "partitionname=main", "PriorityTier=1", "GraceTime=20")


class Healer:
    """Brings nodes back: a slurmd that was killed is started again."""

    def __init__(self, cluster: MiniCluster) -> None:
        self._commands = {
            node: Path(f"/proc/{slurmd(node)}/cmdline").read_bytes().split(b"\0")[:-1] for node in cluster.names
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def heal(self) -> None:
        for node, command in self._commands.items():
            if not slurmd(node):
                self._started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        begin = time.monotonic()
        while (states := _slurm("sinfo", "--noheader", "--Node", "--format=%T").split()) and set(states) != {"idle"}:
            if time.monotonic() - begin > 60:
                raise SystemExit(f"nodes do not come back: {states}")
            time.sleep(0.5)

    def end(self) -> None:
        for process in self._started:
            process.terminate()
            process.wait(20)


def row(healer: Healer, mode: str, fault: str, runs: int, rng: random.Random) -> bool:
    found: list[Found] = []
    for _ in range(runs):
        try:
            found.append(measure(mode, fault, rng.randrange(_EVERY, _STEPS * 2 // 3)))
        except JobError as error:
            found.append(Found("NO RUN", float("nan"), 0, -1, 0, 0.0, str(error).partition("\n")[0]))
        healer.heal()
    right = sum(one.right for one in found)
    worst = next((one for one in found if not one.right), found[-1])
    print(
        f"{fault:<11} {mode:<12} {'/'.join(sorted({one.then for one in found})):<17}"
        f" {statistics.median(one.seconds for one in found):>6.1f} {max(one.seconds for one in found):>6.1f}"
        f" {max(one.lost for one in found):>5} {worst.code:>5} {min(one.accuracy for one in found):>9.4f}"
        f" {right:>3}/{runs:<3} {worst.message[:90]}",
        flush=True,
    )
    return right == runs


@contextlib.contextmanager
def work_folder(own_disk: bool) -> Iterator[str]:
    """Yield a folder to work in, perhaps with a disk of its own."""
    with tempfile.TemporaryDirectory() as folder:
        if own_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", folder], check=True)
        try:
            yield folder
        finally:
            os.chdir("/")
            if own_disk:
                subprocess.run(["umount", "--lazy", folder], check=True)


def _names(text: str, known: dict[str, Any]) -> list[str]:
    names = text.split(",") if text else list(known)
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.faults", description="the fault table")
    parser.add_argument("--modes", type=lambda text: _names(text, MODES), default=list(MODES))
    parser.add_argument("--faults", type=lambda text: _names(text, FAULTS), default=list(FAULTS))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)  # noqa: S311 - no secret
    print(f"{_STEPS} steps of the small network, a checkpoint every {_EVERY}; {options.runs} runs of each")
    print(
        f"{'fault':<11} {'mode':<12} {'then':<17} {'s med':>6} {'s max':>6} {'lost':>5} {'code':>5} {'accuracy':>9}"
        f" {'right':<7} message",
        flush=True,
    )
    right = True
    # Only root can have a disk of its own to fill.
    own_disk = os.getuid() == 0
    if not own_disk and "disk" in options.faults:
        options.faults.remove("disk")
        print("disk: only root can have a disk of its own to fill, so this fault is left out")
    with (
        tempfile.TemporaryDirectory(prefix="hf", dir="/tmp") as root,
        work_folder(own_disk) as folder,
        MiniCluster(Path(root), CONFIG) as cluster,
    ):
        os.environ.update(cluster.env())
        os.chdir(folder)
        prepare()
        healer = Healer(cluster)
        for fault in options.faults:
            for mode in options.modes:
                if fits(mode, fault):
                    right &= row(healer, mode, fault, options.runs, rng)
        healer.end()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
