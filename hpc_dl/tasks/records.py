"""Records: the folder with the outputs of tasks, and with journals that are only ever appended to.

The runner writes ``journal``: runs and starts. The agent of each node writes ``NODE.jsonl``: how attempts ended. An
agent writes an end before it tells the runner, so a killed runner loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.gpus import VARIABLES, counted_after
from hpc_dl.tasks.journal import Journal, Run, Started
from hpc_dl.tasks.journal_file import JournalFile
from hpc_dl.tasks.locks import LEASE, Lease, lock
from hpc_dl.tasks.messages import encode
from hpc_dl.tasks.node_agent.environment import BIN, HOSTS, PROLOG
from hpc_dl.tasks.scheduler import Start

_TRIES = 10  # to lock the records


def records_folder(file: Path) -> Path:
    """Return where the records of a task file are by default: next to it."""
    return file.with_name(f"{file.name}.records")


def newest_records(file: Path) -> Path:
    """Return the records of a task file that a run or a job has written to last; if there are none, the default."""
    names = re.compile(rf"{re.escape(file.name)}(-\d+)?\.records")
    found = [path / "journal" for path in file.parent.glob("*.records") if names.fullmatch(path.name)]
    written = {path.parent: path.stat().st_mtime for path in found if path.exists()}
    return max(written, key=lambda path: written[path], default=records_folder(file))


class Records:
    """The records of one task file, open for a run.

    Args:
        path: the folder.
        restart: the restart file's run, as in `TaskFile`.
        resume: continue the last run of the folder, if it was of the same restart file. Else `begin` moves it aside.
        grace: seconds that agents of a killed run take to end their tasks.

    Raises:
        UserError: another run uses the folder now.
    """

    def __init__(self, path: Path, restart: str, resume: bool, grace: float = 20.0) -> None:
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._journal = JournalFile(path / "journal")
        self._moved: JournalFile | None = None
        self._lease: Lease | None = None
        self._unwritten = b""
        try:
            if not self._lock():
                self._lease = Lease(path, grace)
        except (BlockingIOError, FileExistsError):
            self._journal.close()
            raise UserError(f"{path}: another run uses it now; wait for its end, or choose --records") from None
        _await_agents(path)
        runs = Journal(path).runs
        self._aside = bool(runs) and not (resume and runs[-1].restart == restart)

    def _lock(self) -> bool:
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):
                return lock(self._journal.file, wait=False)
            time.sleep(0.05)  # somebody may have locked it just to ask, see `in_use`
        raise BlockingIOError

    @property
    def warning(self) -> str:
        """Return a warning for the user; empty if the folder has file locks."""
        if self._lease is None:
            return ""
        return f"{self.path}: no file locks here; a run that is killed counts as running for {LEASE:.0f} s more"

    def begin(self, run: Run) -> None:
        """Move aside records that this run does not continue, and write that it begins.

        Raises:
            UserError: the folder can't be written.
        """
        self.keep_up()  # the agents may have taken a minute to come up, and may take another
        new = self.path.with_name(f".{self.path.name}-{os.getpid()}") if self._aside else self.path
        try:
            new.mkdir(mode=0o700, exist_ok=True)
            (new / "output").mkdir(exist_ok=True)
            if self._aside:
                # The old journal stays locked until the end: another runner may have opened it, and wait for its lock.
                self._moved, self._journal = self._journal, JournalFile(new / "journal")
                lock(self._journal.file, wait=True)
            self._journal.append(encode(run) + b"\n")
            self._journal.sync()
            if self._aside:
                self.path.rename(_free_name(self.path))
                new.rename(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: can't be written: {error.strerror}") from error
        finally:
            if new != self.path:
                shutil.rmtree(new, ignore_errors=True)

    def started(self, starts: Sequence[Start]) -> None:
        """Note which tasks have started; `keep_up` writes it."""
        now = time.time()
        lines = [encode(Started(one.task.number, one.attempt, one.shares, now)) for one in starts]
        self._unwritten += b"".join(line + b"\n" for line in lines)

    def keep_up(self) -> None:
        """Write the noted starts, and renew the lease. What the disk does not take now is written the next time.

        Only `status` needs the starts, so the run goes on if they can't be written.
        """
        with contextlib.suppress(OSError):
            if self._lease is not None:
                self._lease.renew()
            if self._unwritten:
                self._journal.append(self._unwritten)
                self._unwritten = b""

    def allow_steps(self, gpu_vendor: str) -> None:
        """Write what tasks inside a Slurm job need to start steps of their own.

        See `hpc_dl.tasks.node_agent.environment`.
        """
        from hpc_dl.templates import Renderer

        for folder in (HOSTS, BIN):
            (self.path / folder).mkdir(exist_ok=True)
        values = {
            "srun": shutil.which("srun") or "srun",
            "gpu_variable": VARIABLES[gpu_vendor],
            "hiding": counted_after(gpu_vendor),
        }
        scripts = {self.path / PROLOG: "prolog.sh.j2", self.path / BIN / "srun": "srun.sh.j2"}
        for path, template in scripts.items():
            path.write_text(Renderer([]).render(template, values))
            path.chmod(0o700)

    def close(self) -> None:
        """Let others use the folder."""
        self.keep_up()
        with contextlib.suppress(OSError):
            self._journal.sync()
        self._journal.close()
        if self._moved is not None:
            self._moved.close()
        if self._lease is not None:
            self._lease.release()


def _await_agents(path: Path) -> None:
    """Wait for the agents of a killed runner: they still end their tasks, and write how those ended."""
    for journal in path.glob("*.jsonl"):
        with journal.open("rb+") as file:
            lock(file.fileno(), wait=True)


def _free_name(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return name
