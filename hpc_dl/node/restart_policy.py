"""What follows the death of a process: the written policy of docs/explanation/failures.rst, as pure functions.

In a parameter-server mode the variables are on the parameter servers. So a worker or the chief can be started again
alone: the others can do without it for a while. After any other death all processes start again from the last
checkpoint, as a new attempt of the job.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from hpc_dl.errors import LOST
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import MODES

# Seconds before each new start; the last counts for all that follow. Other processes wait only for `restart_timeout`, a
# minute, and the start itself may need half of it.
_PAUSES = (1.0, 2.0, 4.0, 8.0)


class After(Enum):
    """What to do after a death."""

    AGAIN = "started again"
    WITHOUT = "given up, the training goes on without it"
    FAIL = "the attempt has failed"


class Policy(msgspec.Struct, frozen=True):
    """A job's restart policy. By default every failure ends the job."""

    mode: str = ""
    restarts: int = 0
    """How often one process may be started again alone; and how often all of them, in one run of the Slurm job."""
    own_script: bool = False
    chief: str = "worker:0"
    """The name of the process that writes the checkpoints."""
    hang_timeout: float = 0.0
    """Seconds without a sign of life after which a process counts as hung and is killed; 0: none does."""

    @classmethod
    def of(cls, job: JobSpec) -> Policy:
        """Return the policy of a resolved job."""
        chief = "chief:0" if job.chief else "worker:0"
        return cls(job.mode, job.restarts or 0, bool(job.script), chief, job.hang_timeout or 0)

    def curable(self, exit_code: int) -> bool:
        """Return whether a new start may help.

        It may help after a signal or a lost peer. Other exit codes of the built-in program mean errors that would come
        again. Exit codes of a user's own script are unknown to us: a user who sets `restarts` wants a new start.

        Args:
            exit_code: as a shell sees it: 128 + number for a signal.
        """
        return exit_code > 0 and (self.own_script or exit_code > 128 or exit_code == LOST)

    def after_death(self, process: str, exit_code: int, restarts: int) -> After:
        """Return what to do after the death of a process.

        Args:
            process: its name, such as ``worker:3``.
            exit_code: as a shell sees it.
            restarts: how often it was started again before.
        """
        role = process.partition(":")[0]
        mode = MODES.get(self.mode)
        if not mode or not mode.restarts_alone or role == "ps" or not self.restarts or not self.curable(exit_code):
            return After.FAIL
        if restarts < self.restarts:
            return After.AGAIN
        return After.WITHOUT if mode.goes_on_without and process != self.chief else After.FAIL


def pause(restarts: int) -> float:
    """Return the seconds between the death of a process and its new start: more each time, up to a limit.

    Args:
        restarts: how often it was started again before.
    """
    return _PAUSES[min(restarts, len(_PAUSES) - 1)]
