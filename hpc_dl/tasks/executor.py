"""Executor: starts an agent on each node, sends it the runner's orders, and returns what it says.

On a node of a Slurm job the agent is an srun step. Elsewhere it is a child process. A step for each task would be slow:
a step costs Slurm tens of milliseconds, an order costs less than one. The runner assigns cores and GPUs itself, so it
does not depend on how a version of Slurm treats ``--exact`` and ``--gres``.

One step for all nodes would save memory on the first node, where each srun takes 3 MiB. But srun would send its input
to every node, which takes 20 times as long. Agents that connect to a port of the runner would depend on the network.
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
from hpc_dl.tasks.gpu_rule import GpuRule
from hpc_dl.tasks.messages import Begin, Ended, Hello, Order, Ready, Stop, Stuck, decode_event, encode

_DROPPED = 5.0  # seconds between SIGTERM and SIGKILL for an agent that was dropped, or for its srun

T = TypeVar("T", Hello, Ready)
Event = Hello | Ready | Stuck | Ended


class Lost(msgspec.Struct, frozen=True):
    """The agent of a node is gone."""

    node: str


def agent_command(
    folder: Path, grace: float, node: str, step: bool = False, gpu_rule: GpuRule | None = None
) -> list[str]:
    """Return the command of the agent of a node, for this machine or, as a `step`, for srun."""
    rule = (gpu_rule or GpuRule()).text
    words = ["hpc_dl.tasks.node_agent.agent", str(folder), str(grace), node, rule]
    return [*python_module(sys.executable), *words, *(["step"] if step else [])]


class _Agent:
    """The process of an agent, its unsent orders, and the line that is being read from it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only us; we tell the agents
        )
        assert self.process.stdin is not None  # noqa: S101 - for mypy
        assert self.process.stdout is not None  # noqa: S101 - for mypy
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        # We must not wait: an agent reads no orders while it waits for us to read its output.
        os.set_blocking(self.stdin.fileno(), False)
        self.unsent = b""
        self.line = b""
        """The beginning of a line whose rest has not come yet."""


class Agents:
    """The agents of a run.

    Args:
        commands: node name and the command of its agent.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]]) -> None:
        self._dropped: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ, "")
        environment = without_step(os.environ)
        self._agents = {node: _Agent(command, environment) for node, command in commands.items()}
        for node, agent in self._agents.items():
            self._selector.register(agent.stdout, selectors.EVENT_READ, node)

    def greet(self, timeout: float) -> list[Hello]:
        """Wait until all agents have said hello; drop those that have not after the timeout.

        Raises:
            JobError: no agent has.
        """
        return self._answers(Hello, timeout)

    def begin(self, timeout: float) -> set[str]:
        """Let the agents open their journals; return the nodes where they have. No task may start before.

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
        """Send orders to the agent of a node. `wait` reports an agent that is gone."""
        if agent := self._agents.get(node):
            agent.unsent += b"".join(encode(order) + b"\n" for order in orders)
            self._send(node, agent)

    def _send(self, node: str, agent: _Agent) -> None:
        """Send what the pipe to an agent takes now; `wait` sends the rest."""
        try:
            sent = agent.stdin.write(agent.unsent) or 0
        except BrokenPipeError:
            sent = len(agent.unsent)
        agent.unsent = agent.unsent[sent:]
        waits = agent.stdin.fileno() in self._selector.get_map()
        if agent.unsent and not waits:
            self._selector.register(agent.stdin, selectors.EVENT_WRITE, node)
        elif not agent.unsent and waits:
            self._selector.unregister(agent.stdin)

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
            agent = self._agents.get(key.data)
            if agent is None:  # dropped a moment ago
                continue
            if ready == selectors.EVENT_WRITE:
                self._send(key.data, agent)
                continue
            data = os.read(key.fd, 1 << 16)
            if not data:
                self._drop(key.data)
                events.append(Lost(key.data))
                continue
            *lines, agent.line = (agent.line + data).split(b"\n")
            # A login script on the node may print other lines.
            events += [decode_event(line) for line in lines if line.startswith(b'{"type":')]
        return events

    def _drop(self, node: str) -> None:
        agent = self._agents.pop(node)
        for pipe in (agent.stdin, agent.stdout):
            if pipe.fileno() in self._selector.get_map():
                self._selector.unregister(pipe)
            pipe.close()
        agent.process.terminate()
        self._dropped.append(agent.process)

    def close(self) -> None:
        """Close the input of the agents, which ends them, and wait."""
        for agent in self._agents.values():
            agent.stdin.close()
        for agent in self._agents.values():
            agent.process.wait()
        for process in self._dropped:
            _wait_or_kill(process)
        self._agents.clear()
        signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._wake)
        os.close(self._waker)


def _wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was sent SIGTERM."""
    try:
        process.wait(_DROPPED)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
