"""Runs Slurm's commands."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.schedulers.slurm.environment import for_slurms_commands

_PATIENCE = 30.0  # default timeout of a command in seconds
NO_COMMAND, TOO_LATE = 127, 124  # the exit codes of a shell, and of timeout(1)


class Answer(msgspec.Struct, frozen=True):
    """The exit code and output of a command."""

    code: int
    out: str = ""
    error: str = ""


def ask(environ: Mapping[str, str], *command: str, patience: float = _PATIENCE) -> Answer:
    """Run a command of Slurm and return its answer.

    Args:
        environ: its environment.
        command: the command line.
        patience: timeout in seconds. The command itself asks a controller that is away for up to a minute.
    """
    try:
        done = subprocess.run(
            command,
            env=for_slurms_commands(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=patience,
        )
    except FileNotFoundError:
        return Answer(NO_COMMAND, error=f"{command[0]}: no such command")
    except subprocess.TimeoutExpired:
        return Answer(TOO_LATE, error=f"no answer within {patience:g} s")
    return Answer(done.returncode, done.stdout, done.stderr)


def insist(environ: Mapping[str, str], *command: str, what: str = "") -> str:
    """Run a command of Slurm and return its output.

    Args:
        environ: its environment.
        command: the command line.
        what: how a message calls it; empty: the command line.

    Raises:
        UserError: the command failed; the message has its error output.
    """
    answer = ask(environ, *command)
    if answer.code:
        said = answer.error.strip() or f"exit code {answer.code}, and it said nothing"
        raise UserError(f"{what or ' '.join(command)}: {said}")
    return answer.out
