"""One process of a node: its part of a ``launch`` command line, and the process once it is started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.node.heartbeats import PipeSigns, Signs
from hpc_dl.processes import Guard, die_with_parent
from hpc_dl.spec.container import ENV

_TAIL = 8  # lines of a failed process's log that a message repeats


class ProcessLine(msgspec.Struct, frozen=True):
    """One process as the command line of ``launch`` writes it: ``worker:3 VARIABLE=VALUE … COMMAND …``."""

    role: str
    index: int
    env: dict[str, str]
    command: tuple[str, ...]

    def inside(self, env: Mapping[str, str]) -> tuple[str, ...]:
        """Return the command with variables that are set in its container: after the word ``/usr/bin/env``."""
        at = self.command.index(ENV) + 1
        return (*self.command[:at], *(f"{key}={value}" for key, value in env.items()), *self.command[at:])

    @property
    def name(self) -> str:
        """Return ``worker:3``."""
        return f"{self.role}:{self.index}"


def parse_processes(words: Sequence[str], separator: str = ":::") -> list[ProcessLine]:
    """Return the processes of a ``launch`` command line; a separator stands before each.

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


def check_env_inside(lines: Sequence[ProcessLine]) -> None:
    """Check that each command has a place for the variables that are set in its container.

    Raises:
        UserError: one has none.
    """
    if lost := [line.name for line in lines if ENV not in line.command]:
        raise UserError(f"launch: process {lost[0]!r} has no {ENV} in its command, which --env-inside wants")


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


class Child:
    """A started process. It leads a session of its own, which the guard of its launcher knows before it starts.

    Args:
        line: what it is.
        log: where its output goes.
        env: its environment.
        command: what is run.
        pipe: its signs of life.
        guard: the launcher's.
        mark: a variable that stands in the environment of the processes in its container; empty: it has none.
    """

    def __init__(
        self,
        line: ProcessLine,
        log: Path,
        env: dict[str, str],
        command: Sequence[str],
        pipe: PipeSigns | None,
        guard: Guard,
        mark: str = "",
    ) -> None:
        self.line = line
        self.mark = mark
        self.log = log
        self.signs: Signs | None = pipe
        self.heard = 0.0  # when it gave its last sign of life
        self.hung = ""  # why it was killed as hung; empty: it was not
        with self.log.open("ab") as file:
            self._begins = file.tell()  # earlier text is from earlier starts
            self.popen = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_child_setup(guard),
                pass_fds=(pipe.write,) if pipe else (),
            )

    def silent_for(self, now: float) -> float:
        """Return for how many seconds it has given no sign of life."""
        if self.signs is None or self.signs.given():
            self.heard = now
        return now - self.heard

    def tail(self) -> tuple[str, ...]:
        """Return its last lines; none if they can't be read."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._begins, self.log.stat().st_size - 8192))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ()
        return tuple([line for line in lines if line.strip()][-_TAIL:])


def _child_setup(guard: Guard) -> Callable[[], None]:
    """Return a ``preexec_fn``: the child dies with the launcher, and its signals are not blocked."""
    ask = die_with_parent()

    def setup() -> None:
        ask()
        guard.add(os.getpid())  # here: a launcher that is killed now can't tell any more
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    return setup
