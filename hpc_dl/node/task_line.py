"""Per-node task files of training jobs: this node's line inside a Slurm step, or every line at once here."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from hpc_dl.errors import UserError, near_match
from hpc_dl.processes import die_with_parent, end_with_parent, kill_group
from hpc_dl.tasks.file.task import Task

# Not sh: bash replaces itself by a single command, so that signals reach the launcher without a shell in between.
_SHELL = "/bin/bash"


def become_node_task(tasks: Sequence[Task], node: str) -> NoReturn:
    """Replace this process by the command of `node`'s task: signals reach it, and its exit code is ours.

    Raises:
        UserError: the file has no task for the node, or several.
    """
    here = [task for task in tasks if task.node == node]
    if len(here) != 1:
        nodes = [task.node for task in tasks]
        raise UserError(f"{len(here)} tasks for node {node!r}{near_match(node, nodes)}; expected one")
    if here[0].workdir:
        os.chdir(here[0].workdir)
    os.execv(_SHELL, [_SHELL, "-c", here[0].command])  # noqa: S606 - a task is a shell command by definition


def run_all(tasks: Sequence[Task]) -> int:
    """Run all tasks at once as processes of this machine; return the exit code of the first that failed, else 0.

    When one fails the others get SIGTERM, as under ``srun --kill-on-bad-exit``. SIGTERM and SIGINT are passed on, and
    the end of the job script that started this process counts as SIGTERM.
    """
    running: dict[int, subprocess.Popen[bytes]] = {}
    told = False
    received = 0

    def end(number: int = 0, _frame: FrameType | None = None) -> None:
        nonlocal told, received
        told, received = True, received or number
        for pid in running:
            kill_group(pid, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    end_with_parent()
    for task in tasks:
        process = subprocess.Popen(
            [_SHELL, "-c", task.command],
            cwd=task.workdir or None,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        running[process.pid] = process
    if told:  # before all of them had started
        end()
    first = 0
    while running:
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        running.pop(pid).returncode = code
        if code and not first:
            # mpirun ends with 1 when it was told to end.
            first = 128 + received if received else code if code > 0 else 128 - code
            end()
    return first
