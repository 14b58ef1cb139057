"""Messages between the runner and its agents: one JSON object per line.

`Ended` is also a line of the journal, which the agent writes before it tells the runner.
"""

from __future__ import annotations

import msgspec

from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.pool import Share


class Order(msgspec.Struct, frozen=True, omit_defaults=True, tag="run"):
    """To an agent: start a task. The first share is this node's. `bind`: to its own cores only."""

    task: Task
    attempt: int
    shares: tuple[Share, ...]
    bind: bool = False


class Stop(msgspec.Struct, frozen=True, omit_defaults=True, tag="stop"):
    """To an agent: send SIGTERM to all tasks or to one `task`, and SIGKILL after `grace` seconds."""

    grace: float
    task: int | None = None


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """To an agent: the run begins; open the journal."""


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """From an agent: it has started. `cores` are those where it may run, `memory` is in MiB."""

    node: str
    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    memory: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From an agent: its journal is open and locked. A runner that resumes this run waits for that lock."""

    node: str


class Stuck(msgspec.Struct, frozen=True, tag="stuck"):
    """From an agent: it ends its tasks, because its journal or their outputs could not be written for too long."""

    node: str
    reason: str


class Ended(msgspec.Struct, frozen=True, omit_defaults=True, tag="ended"):
    """From an agent: an attempt has ended."""

    task: int
    key: str
    attempt: int
    node: str
    started: float
    """Unix seconds."""
    ended: float
    code: int = 0
    """Exit code; 128 + its number for a signal, as in a shell."""
    signal: int = 0
    reason: str = ""
    """Why it ended, if its exit code does not say it."""
    stopped: bool = False
    """It was ended with the run."""
    shares: tuple[Share, ...] = ()
    """What was reserved for it on each node."""
    cpu: float = 0
    """Core-seconds that its processes on this node used."""
    memory: int = 0
    """Most MiB that one of its processes on this node had (man wait4, ru_maxrss); 0: less than the agent itself."""

    @property
    def ok(self) -> bool:
        """Return whether the task ended well."""
        return not (self.code or self.reason or self.stopped)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return its nodes; its command ran on the first."""
        return tuple(share.node for share in self.shares) or (self.node,)

    @property
    def core_seconds(self) -> float:
        """Return the core-seconds that were reserved for it, used or not."""
        return (self.ended - self.started) * sum(len(share.cores) for share in self.shares)

    @property
    def gpu_seconds(self) -> float:
        """Return the GPU-seconds that were reserved for it, used or not."""
        return (self.ended - self.started) * sum(len(share.gpus) for share in self.shares)

    @property
    def how(self) -> str:
        """Return how it ended, in words."""
        if self.reason:
            return self.reason
        return f"was killed by signal {self.signal}" if self.signal else f"failed with exit code {self.code}"


encode = msgspec.json.Encoder().encode
decode_order = msgspec.json.Decoder(Order | Stop | Begin).decode
decode_event = msgspec.json.Decoder(Hello | Ready | Stuck | Ended).decode
