"""One process of a node: its part of a ``launch`` command line, and the process once it is started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.node.heartbeats import PipeSigns, Signs
from hpc_dl.processes import Guard, die_with_parent

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
    """A started process. It leads a session of its own, which the guard of its launcher knows before it starts."""

    def __init__(
        self,
        line: ProcessLine,
        log: Path,
        env: dict[str, str],
        command: Sequence[str],
        pipe: PipeSigns | None,
        guard: Guard,
    ) -> None:
        self.line = line
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
