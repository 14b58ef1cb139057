"""The jobs that meet faults, and what can be observed of them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hpc_dl
from hpc_dl.errors import JobError
from hpc_dl.node.attempts import Event, events
from hpc_dl.runfolder.progress import Progress
from hpc_dl.submission.handle import Job

EVERY = 100  # steps between checkpoints: the most that may be lost
HANG_TIMEOUT = 10  # seconds without a sign of life after which a process counts as hung
LIMIT = 240.0  # seconds after which a job counts as hanging
MODES: dict[str, dict[str, Any]] = {
    "async": {"mode": "async", "nodes": 2, "gpus": 1},
    "mixed": {"mode": "mixed", "nodes": 2, "gpus": 2},
    "sync": {"mode": "sync", "nodes": 2, "gpus": 1},
    "sync+1": {"mode": "sync", "nodes": 3, "gpus": 1, "backup_workers": 1},
    "multiworker": {"mode": "multiworker", "nodes": 2, "gpus": 1},
    "horovod": {"mode": "horovod", "nodes": 2, "gpus": 1},
    "single": {"mode": "single", "nodes": 1, "gpus": 1},
}
PS_MODES = ("async", "mixed", "sync", "sync+1")
# Modes whose workers go on while one of them is away: their jobs need more steps for the same time.
GOES_ON = ("async", "mixed", "sync+1")
# Steps per second on two cores: they determine how many steps a job gets.
RATES = {"async": 110, "mixed": 110, "sync": 60, "sync+1": 60, "multiworker": 60, "horovod": 60, "single": 200}


@dataclass
class Run:
    """A job that meets faults."""

    job: Job
    mode: str

    @classmethod
    def submit(cls, mode: str, site: str, steps: int, **settings: Any) -> Run:
        """Submit the built-in program."""
        job = hpc_dl.submit(
            "train",
            site=site,
            cores=4,
            steps=steps,
            checkpoint_every=EVERY,
            env={"PYTHONPATH": str(Path(hpc_dl.__file__).parents[1])},
            hang_timeout=HANG_TIMEOUT,
            **{"log_every": 5, **MODES[mode], **settings},
        )
        return cls(job, mode)

    @property
    def over(self) -> bool:
        """Whether the job has ended for good. A summary alone does not tell: a requeued job has left one too."""
        return self.job.run.summary.exists() and self.job.done()

    def step(self) -> int:
        """Return the highest global step that its latest attempt has reported."""
        return Progress(self.job.run).look().step

    def records(self, event: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield process and values of each reported step, or of each event of this name."""
        for path in self.job.run.metrics.glob("*.jsonl"):
            for line in path.read_bytes().split(b"\n")[:-1]:
                record = json.loads(line)
                if record.get("event", "") == event:
                    yield path.stem, record

    def events(self) -> list[Event]:
        """Return the starts and ends of its attempts."""
        return events(self.job.run)

    def workers(self) -> int:
        """Return how many processes report steps."""
        cluster = self.job.run.read_cluster()
        return sum(len(addresses) for role, addresses in cluster.items() if role != "ps")

    def all_trained_since(self, moment: float) -> bool:
        """Return whether each worker has reported a step of the latest attempt after `moment` (Unix seconds)."""
        begun = self._imported()
        last = dict(self._last_times())
        return sum(last.get(name, 0.0) > max(moment, time) for name, time in begun.items()) >= self.workers()

    def _imported(self) -> dict[str, float]:
        """Return when each process of the latest attempt has begun. Processes on a cut-off node may go on beside it."""
        attempt = self.job.run.latest_attempt()
        return {
            path.stem: record["time"]
            for path in self.job.run.metrics.glob("*.jsonl")
            for line in path.read_bytes().split(b"\n")[:-1]
            if b'"imported"' in line and (record := json.loads(line))["attempt"] == attempt
        }

    def _last_times(self) -> Iterator[tuple[str, float]]:
        """Yield when each process last reported a step."""
        for path in self.job.run.metrics.glob("*.jsonl"):
            records = map(json.loads, reversed(path.read_bytes()[-4096:].split(b"\n")[1:-1]))
            yield path.stem, next((record["time"] for record in records if "event" not in record), 0.0)

    def wait_for(self, condition: Callable[[], bool], what: str) -> bool:
        """Wait until `condition` is true and return True, or False if the job ends before.

        Raises:
            JobError: it takes longer than `LIMIT`.
        """
        deadline = time.monotonic() + LIMIT
        while not condition():
            if self.over:
                return False
            if time.monotonic() > deadline:
                raise JobError(f"job {self.job.job_id} hangs: {what} is not so after {LIMIT:g} s")
            time.sleep(0.05)
        return True

    def wait_for_step(self, step: int) -> bool:
        """Wait, as `wait_for` does, until the latest attempt has reached a step."""
        return self.wait_for(lambda: self.step() >= step, f"step {step}")

    def nodes(self) -> list[str]:
        """Return the nodes on which the job runs."""
        addresses = itertools.chain.from_iterable(self.job.run.read_cluster().values())
        return sorted({address.partition(":")[0] for address in addresses})

    def pids(self, *words: str) -> list[int]:
        """Return the job's processes whose command line or environment has all of the words."""
        return [pid for pid, text in _processes() if str(self.job.run.path) in text and all(w in text for w in words)]

    def process(self, role: str, index: int) -> list[int]:
        """Return the training process of a role and index, not its launcher."""
        return self.pids("hpc_dl.train\0--", f'"task":{{"type":"{role}","index":{index}}}')


def _processes() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "cmdline").read_bytes() + b"\0" + (folder / "environ").read_bytes()
            except OSError:
                continue
            yield int(folder.name), text.decode(errors="replace")


def parent(pid: int) -> int:
    """Return the parent of a process; 0 if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def command(pid: int) -> str:
    """Return the command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "ended since"
