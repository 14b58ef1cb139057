"""Executor: an agent on each node starts the tasks there; on this machine a child process, else an srun step.

One step per node, not one per task: a step costs Slurm tens of milliseconds, an order to an agent far below one. And
cores and GPUs are ours to give out, whatever the version of Slurm makes of ``--exact`` and ``--gres``.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from hpc_dl.errors import JobError
from hpc_dl.processes import python_module
from hpc_dl.schedulers.slurm.environment import without_step
from hpc_dl.tasks.messages import Begin, Ended, Hello, Order, Ready, Stop, Stuck, decode_event, encode

T = TypeVar("T", Hello, Ready)
_PATIENCE = 5.0  # seconds in which an agent that is lost, told to end, does so

Event = Hello | Ready | Stuck | Ended


class Lost(msgspec.Struct, frozen=True):
    """The agent of a node is gone."""

    node: str


def agent_command(folder: Path, grace: float, node: str, step: bool = False) -> list[str]:
    """Return the command of the agent of a node, for this machine or, as a `step`, for srun."""
    words = ["hpc_dl.tasks.node_agent.agent", str(folder), str(grace), node]
    return [*python_module(sys.executable), *words, *(["step"] if step else [])]


class Agents:
    """The agents of a run.

    Args:
        commands: node name and the command of its agent.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        self._dropped: list[subprocess.Popen[bytes]] = []
        self._rest: dict[str, bytes] = {}
        self._unsent: dict[str, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ, "")
        environment = without_step(os.environ)
        for node, command in commands.items():
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for us to pass on
            )
            assert process.stdin is not None  # noqa: S101 - for mypy
            assert process.stdout is not None  # noqa: S101 - for mypy
            # An agent that waits for us to read what it says reads no orders.
            os.set_blocking(process.stdin.fileno(), False)
            self._agents[node] = process
            self._rest[node] = self._unsent[node] = b""
            self._selector.register(process.stdout, selectors.EVENT_READ, node)

    def greet(self, timeout: float) -> list[Hello]:
        """Wait until all agents are there; those that are not there in time are dropped.

        Raises:
            JobError: none came.
        """
        return self._answers(Hello, timeout)

    def begin(self, timeout: float) -> set[str]:
        """Let the agents open their journals; return the nodes where they have. Before that no task may start.

        Raises:
            JobError: no agent has.
        """
        for node in list(self._agents):
            self.order(node, [Begin()])
        return {ready.node for ready in self._answers(Ready, timeout)}

    def _answers(self, kind: type[T], timeout: float) -> list[T]:
        answers: dict[str, T] = {}
        deadline = time.monotonic() + timeout
        while answers.keys() != self._agents.keys() and time.monotonic() < deadline:
            for event in self.wait(1):
                if isinstance(event, kind):
                    answers[event.node] = event
                elif isinstance(event, Lost):
                    answers.pop(event.node, None)
        for node in self._agents.keys() - answers.keys():
            self._drop(node)
        if not answers:
            raise JobError("no agent came up on any node; what srun or the agent said is above")
        return list(answers.values())

    def order(self, node: str, orders: Sequence[Order | Stop | Begin]) -> None:
        """Send orders to the agent of a node; one that is gone is reported by `wait`."""
        if node in self._agents:
            self._unsent[node] += b"".join(encode(order) + b"\n" for order in orders)
            self._send(node)

    def _send(self, node: str) -> None:
        """Send what an agent takes now; `wait` goes on with the rest."""
        stdin = self._agents[node].stdin
        assert stdin is not None  # noqa: S101 - for mypy
        try:
            sent = stdin.write(self._unsent[node]) or 0
        except BrokenPipeError:
            sent = len(self._unsent[node])
        self._unsent[node] = self._unsent[node][sent:]
        waits = stdin.fileno() in self._selector.get_map()
        if self._unsent[node] and not waits:
            self._selector.register(stdin, selectors.EVENT_WRITE, node)
        elif not self._unsent[node] and waits:
            self._selector.unregister(stdin)

    def stop(self, grace: float) -> None:
        """Tell all agents to end their tasks."""
        for node in list(self._agents):
            self.order(node, [Stop(grace)])

    def wait(self, timeout: float | None) -> list[Event | Lost]:
        """Return what agents said; empty after the timeout (seconds) or after a signal."""
        events: list[Event | Lost] = []
        for key, ready in self._selector.select(timeout):
            if key.data == "":
                os.read(self._wake, 4096)
                continue
            if ready == selectors.EVENT_WRITE:
                if key.data in self._agents:
                    self._send(key.data)
                continue
            data = os.read(key.fd, 1 << 16)
            if not data:
                self._drop(key.data)
                events.append(Lost(key.data))
                continue
            *lines, self._rest[key.data] = (self._rest[key.data] + data).split(b"\n")
            # A login script on the node may print what it likes.
            events += [decode_event(line) for line in lines if line.startswith(b'{"type":')]
        return events

    def _drop(self, node: str) -> None:
        process = self._agents.pop(node)
        assert process.stdin is not None  # noqa: S101 - for mypy
        assert process.stdout is not None  # noqa: S101 - for mypy
        self._selector.unregister(process.stdout)
        if process.stdin.fileno() in self._selector.get_map():
            self._selector.unregister(process.stdin)
        process.stdin.close()
        process.stdout.close()
        process.terminate()
        self._dropped.append(process)

    def close(self) -> None:
        """Let the agents go and wait for them."""
        for process in self._agents.values():
            assert process.stdin is not None  # noqa: S101 - for mypy
            process.stdin.close()
        for process in self._agents.values():
            process.wait()
        self._agents.clear()
        for process in self._dropped:
            _await(process)
        signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._wake)
        os.close(self._waker)


def _await(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:  # the srun of a node that does not answer
        process.kill()
        process.wait()
