"""Agent: starts and ends tasks on one node as the runner orders, and writes how they ended to a journal.

It reads `Begin`, `Order` and `Stop` on stdin and says `Hello`, `Ready`, `Ended` and `Stuck` on stdout. When the runner
is gone, the agent ends its tasks and exits.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hpc_dl.disk import PATIENCE, TROUBLE
from hpc_dl.errors import DISK, UserError
from hpc_dl.tasks.gpu_rule import GpuRule
from hpc_dl.tasks.journal_file import JournalFile
from hpc_dl.tasks.locks import lock
from hpc_dl.tasks.messages import Begin, Ended, Hello, Order, Ready, Stop, Stuck, decode_order, encode
from hpc_dl.tasks.node_agent.running import RunningTasks

_LOOK = 1.0  # seconds between two syncs of the journal: a crash of the machine loses at most the entries of this time
_HANG_TIMEOUT = 120.0  # seconds without a sign of life after which the guard kills an agent; the node is then lost
_BEAT = 1.0  # seconds between two signs of life
_MIB = 1024 * 1024


class Agent:
    """The agent of one node.

    Args:
        node: its name.
        folder: the records folder. The journal is ``NODE.jsonl`` in it.
        grace: seconds between SIGTERM and SIGKILL for a task whose time is up, or whose runner is gone.
        step: the agent is a Slurm step, so its tasks may start steps of their own.
        gpu_rule: how its GPUs are found, and given to a task.
    """

    def __init__(self, node: str, folder: Path, grace: float, step: bool, gpu_rule: GpuRule) -> None:
        self._gpu_rule = gpu_rule
        self._node = node
        self._grace = grace
        self._step = step
        self._tasks = RunningTasks(node, folder, grace, step, _HANG_TIMEOUT, gpu_rule.vendor)
        self._path = folder / f"{node}.jsonl"
        self._journal: JournalFile | None = None  # until `Begin`
        self._stopping = False
        self._untold = b""  # ends that neither the journal nor the runner has
        self._unwritten = b""  # ends that the runner has, but not the journal
        self._delayed: list[Order] = []  # tasks whose output file can't be made now
        self._trouble = ""  # why something waits for the disk, and since when
        self._trouble_since = 0.0
        self._look_at: float | None = None  # when to look at the disk
        self._beat_at = 0.0  # when to give the next sign of life
        self._wake, write = os.pipe()
        for end in (self._wake, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda *_: None)

    def serve(self) -> None:
        """Work until the runner closes our stdin, and then until all tasks have ended."""
        gpus = self._gpu_rule.found(self._step)
        cores = tuple(sorted(os.sched_getaffinity(0)))
        self._say(encode(Hello(self._node, cores, gpus, _total_memory())) + b"\n")
        rest = b""
        inputs = [0, self._wake]
        while self._tasks or 0 in inputs:
            ready, _, _ = select.select(inputs, [], [], self._timeout())
            self._beat()
            if self._wake in ready and _ends(os.read(self._wake, 4096)):
                self._stop(self._grace)
            self._note(self._tasks.reap())
            self._note(self._tasks.end_late())
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    inputs.remove(0)
                    self._stop(self._grace)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._obey(decode_order(line))
            if self._look_at is not None and time.monotonic() >= self._look_at:
                self._look_at_disk()
        self._finish()

    def _timeout(self) -> float:
        times = [when for when in (self._tasks.next_deadline(), self._look_at) if when is not None]
        return max(0.0, min([*times, self._beat_at]) - time.monotonic())

    def _beat(self) -> None:
        """Tell the guard that this agent does not hang."""
        if (now := time.monotonic()) >= self._beat_at:
            self._beat_at = now + _BEAT
            self._tasks.beat()

    def _obey(self, order: Order | Stop | Begin) -> None:
        if isinstance(order, Order):
            self._start(order)
        elif isinstance(order, Begin):
            self._begin()
        else:
            self._stop(order.grace, order.task)

    def _begin(self) -> None:
        try:
            self._journal = JournalFile(self._path)
        except OSError as error:  # the runner says that no agent came up here
            print(f"hpc-dl: {self._path}: {error.strerror}", file=sys.stderr, flush=True)
            sys.exit(DISK)
        lock(self._journal.file, wait=True)  # a run that resumes this one waits until this agent has ended
        self._say(encode(Ready(self._node)) + b"\n")

    def _start(self, order: Order) -> None:
        if self._stopping:
            self._note([self._tasks.stopped(order)])
            return
        try:
            end = self._tasks.start(order)
        except OSError as error:
            self._delayed.append(order)
            self._wait_for_disk(self._tasks.output(order), error)
            return
        if end is not None:
            self._note([end])

    def _stop(self, grace: float, task: int | None = None) -> None:
        """End all tasks, or one. First note the tasks that have ended by themselves."""
        self._note(self._tasks.reap())
        self._stopping = self._stopping or task is None
        self._tasks.stop(grace, task)
        stopped = [order for order in self._delayed if task in (None, order.task.number)]
        self._delayed = [order for order in self._delayed if order not in stopped]
        self._note([self._tasks.stopped(order) for order in stopped])
        self._write()

    def _note(self, ends: Sequence[Ended]) -> None:
        if ends:
            self._untold += b"".join(encode(end) + b"\n" for end in ends)
            self._write()

    def _write(self) -> None:
        """Write ends to the journal, and then tell the runner.

        The runner starts dependents, and reports an end, only after the journal has the end: else a resumed run would
        run the task again. Only a run that is ending does not wait for the disk.
        """
        if not (self._untold or self._unwritten) or self._journal is None:
            return
        try:
            self._journal.append(self._unwritten + self._untold)
            self._unwritten = b""
            self._look_soon()
        except OSError as error:
            self._wait_for_disk(self._path, error)
            if not self._stopping:
                return
            self._unwritten += self._untold
        self._say(self._untold)
        self._untold = b""

    def _say(self, lines: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # the runner is gone; the journal has the lines
            while lines:
                lines = lines[os.write(1, lines) :]

    def _look_soon(self) -> None:
        if self._look_at is None:
            self._look_at = time.monotonic() + _LOOK

    def _wait_for_disk(self, path: str | Path, error: OSError) -> None:
        """Note that the disk does not take something now.

        Raises:
            OSError: the error is not a passing one.
        """
        if error.errno not in TROUBLE:
            raise error
        if not self._trouble:
            self._trouble_since = time.monotonic()
            with contextlib.suppress(OSError):
                print(f"hpc-dl: {path} can't be written: {error.strerror}; trying again", file=sys.stderr, flush=True)
        self._trouble = f"{path} can't be written: {error.strerror}"
        self._look_soon()

    def _look_at_disk(self) -> None:
        """Sync the journal, and try again what waits for the disk. Give up if the disk has been in trouble for long."""
        self._look_at = None
        self._write()
        self._sync()
        delayed, self._delayed = self._delayed, []
        for order in delayed:
            self._start(order)
        if not (self._delayed or self._untold or self._unwritten):
            self._trouble = ""
        elif time.monotonic() > self._trouble_since + PATIENCE:
            self._give_up(self._trouble)

    def _sync(self) -> None:
        if self._journal is not None:
            try:
                self._journal.sync()
            except OSError as error:
                if error.errno not in TROUBLE:  # a file system without fsync
                    return
                # The kernel has dropped what it could not write, so there is nothing to try again.
                self._give_up(f"{self._path}: {error.strerror}; its last lines may be lost")

    def _give_up(self, reason: str) -> None:
        if not self._stopping:
            self._say(encode(Stuck(self._node, reason)) + b"\n")
            self._stop(self._grace)

    def _finish(self) -> None:
        """Try for the grace to write the ends that the journal lacks."""
        deadline = time.monotonic() + self._grace
        while self._unwritten and time.monotonic() < deadline:
            time.sleep(_LOOK)
            self._beat()
            self._write()
        self._sync()
        self._tasks.close()


def _ends(numbers: bytes) -> bool:
    """Return whether one of these signals ends the agent: any but SIGCHLD."""
    return bool(set(numbers) - {signal.SIGCHLD})


def _total_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB


def main() -> None:
    """Serve: ``agent FOLDER GRACE NODE GPU-RULE [step]``."""
    folder, grace, node, rule = sys.argv[1:5]
    try:
        Agent(node, Path(folder), float(grace), "step" in sys.argv[5:], GpuRule.read(rule)).serve()
    except UserError as error:  # the runner says that no agent came up here
        sys.exit(f"hpc-dl: {error}")


if __name__ == "__main__":
    main()
