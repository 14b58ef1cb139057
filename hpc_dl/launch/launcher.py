"""Launcher: starts the processes of one node, watches them and ends them. It runs once on each node.

Launchers of one job know of one another through the run folder alone: a marker per worker that is done, and the first
failure. So the same line works under srun, under Greasy and by hand.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.launch.outcome import all_workers_done, mark_done, report_failure
from hpc_dl.placement import classic_flags, tf_config
from hpc_dl.process import Guard, adopt_orphans, die_with_parent, kill_group
from hpc_dl.runfolder import Failure, RunFolder

_TOLD = 0.5  # seconds in which a SIGTERM that has ended a process reaches the launcher too, if it was meant for all
_POLL = 1.0  # seconds between looks at the run folder, on a disk that many nodes share
_TAIL = 8  # lines of a failed process's log that a message repeats


class ProcessLine(msgspec.Struct, frozen=True):
    """One process as the command line of ``launch`` writes it: ``worker:3 VARIABLE=VALUE … COMMAND …``."""

    role: str
    index: int
    env: dict[str, str]
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return ``worker:3``."""
        return f"{self.role}:{self.index}"


def parse_processes(words: Sequence[str], separator: str = ":::") -> list[ProcessLine]:
    """Return the processes that follow a separator each.

    Raises:
        UserError: a process without name or command.
    """
    groups: list[list[str]] = []
    for word in words:
        if word == separator:
            groups.append([])
        elif groups:
            groups[-1].append(word)
        else:
            raise UserError(f"launch: found {word!r}; expected {separator!r} before each process")
    return [_parse_process(group) for group in groups]


def _parse_process(words: Sequence[str]) -> ProcessLine:
    name = re.fullmatch(r"([a-z]+):(\d+)", words[0]) if words else None
    if name is None:
        raise UserError(f"launch: found {' '.join(words[:1])!r}; expected a process name such as 'worker:0'")
    env: dict[str, str] = {}
    rest = list(words[1:])
    while rest and (setting := re.match(r"([A-Za-z_]\w*)=", rest[0])):
        env[setting[1]] = rest.pop(0)[setting.end() :]
    if not rest:
        raise UserError(f"launch: process {words[0]!r} has no command")
    return ProcessLine(name[1], int(name[2]), env, tuple(rest))


class _Child:
    """A started process, leader of a process group of its own."""

    def __init__(self, line: ProcessLine, run: RunFolder, env: dict[str, str], command: Sequence[str]) -> None:
        self.line = line
        self.log = run.log_of(line.name)
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_child_setup(),
            )

    def signal(self, number: int) -> bool:
        """Send a signal to the whole process group, also when its leader is gone; return whether anyone is left."""
        return kill_group(self.popen.pid, number)

    def tail(self) -> tuple[str, ...]:
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - 8192))
            lines = log.read().decode(errors="replace").splitlines()
        return tuple([line for line in lines if line.strip()][-_TAIL:])


def _child_setup() -> Callable[[], None]:
    """Return a ``preexec_fn``: the child dies with the launcher and gets its signals again."""
    ask = die_with_parent()

    def setup() -> None:
        ask()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    return setup


class Launcher:
    """The processes of one node from start to end.

    Args:
        run: the job's run folder.
        node: this node's name.
        grace: seconds that processes have between SIGTERM and SIGKILL.
    """

    # SIGUSR1 is how mpirun tells its ranks to end (mpirun.py).
    _SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self, run: RunFolder, node: str, grace: float) -> None:
        self._run = run
        self._node = node
        self._grace = grace
        self._cluster = run.read_cluster()
        self._children: dict[int, _Child] = {}
        self._exit_code = 0
        self._kill_at: float | None = None  # set once the processes have been told to end
        self._ps_until: float | None = None  # set once all workers are done

    def launch(self, lines: Sequence[ProcessLine], flags: bool = False) -> int:
        """Start the processes and return when all have ended.

        Args:
            lines: the processes.
            flags: add the classic flags to each command.

        Returns:
            0, or the exit code of the first process of the job that failed, or 143 after SIGTERM.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, self._SIGNALS)
        adopt_orphans()
        self._guard = Guard()
        self._run.logs.mkdir(exist_ok=True)
        try:
            for line in lines:
                self._start(line, flags)
            while self._children:
                received = signal.sigtimedwait(self._SIGNALS, _POLL)
                if received is not None and received.si_signo != signal.SIGCHLD:
                    self._end(128 + (signal.SIGINT if received.si_signo == signal.SIGINT else signal.SIGTERM))
                self._reap()
                self._look_around()
        finally:
            self._guard.close()
        return self._exit_code

    def _start(self, line: ProcessLine, flags: bool) -> None:
        if self._kill_at is not None:
            return
        env = {**os.environ, **line.env, "HPC_DL_RUN": str(self._run.path)}
        env["TF_CONFIG"] = tf_config(self._cluster, line.role, line.index)
        command = [*line.command, *(classic_flags(self._cluster, line.role, line.index) if flags else ())]
        try:
            child = _Child(line, self._run, env, command)
        except OSError as error:
            # As shells say it; a closed folder on PATH does not make a missing command a forbidden one.
            code = 126 if shutil.which(command[0], os.F_OK) else 127
            self._fail(Failure(line.name, self._node, code, 0, time.time(), (f"{command[0]}: {error.strerror}",)))
            return
        self._guard.add(child.popen.pid)
        self._children[child.popen.pid] = child

    def _reap(self) -> None:
        """Take note of every process that has ended, our own and the orphans that they left."""
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if child := self._children.get(pid):
                child.popen.returncode = os.waitstatus_to_exitcode(status)
                self._ended(child, child.popen.returncode)
        for pid, child in list(self._children.items()):
            # What a process has started has the grace too.
            if child.popen.returncode is not None and not (self._kill_at is not None and child.signal(0)):
                child.signal(signal.SIGKILL)
                self._guard.drop(pid)
                del self._children[pid]

    def _ended(self, child: _Child, status: int) -> None:
        if self._kill_at is not None:
            return
        if child.line.role == "ps" and (self._ps_until is not None or all_workers_done(self._run, self._cluster)):
            return
        if status == 0:
            if child.line.role != "ps":
                mark_done(self._run, child.line.name)
            return
        code, number = (status, 0) if status > 0 else (128 - status, -status)
        if code == 128 + signal.SIGTERM and (told := signal.sigtimedwait((signal.SIGTERM, signal.SIGINT), _TOLD)):
            # scancel signals every process of a step: nobody has failed.
            self._end(128 + told.si_signo)
            return
        self._fail(Failure(child.line.name, self._node, code, number, time.time(), child.tail()))

    def _fail(self, failure: Failure) -> None:
        print(f"hpc-dl: {failure}", flush=True)
        self._end(report_failure(self._run, failure).exit_code)

    def _look_around(self) -> None:
        """See what happened on the other nodes, and how long is left."""
        now = time.monotonic()
        if self._kill_at is not None:
            if now > self._kill_at:
                for child in self._children.values():
                    child.signal(signal.SIGKILL)
        elif failure := self._run.read_failure():
            self._end(failure.exit_code)
        elif self._ps_until is not None:
            if now > self._ps_until:
                self._end(0)
        elif all(child.line.role == "ps" for child in self._children.values()) and all_workers_done(
            self._run, self._cluster
        ):
            # A ps of the built-in program leaves by itself; server.join() of a user's script never does.
            self._ps_until = now + _POLL * 2

    def _end(self, code: int) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace
            self._exit_code = code
            for child in self._children.values():
                child.signal(signal.SIGTERM)
