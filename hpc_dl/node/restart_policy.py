"""What follows the death of a process: the written policy of docs/explanation/failures.rst, as pure functions.

A process can be started again alone where the others get on without it for a while: a worker or the chief of a
parameter-server mode, whose variables lie on the parameter servers. Any other death breaks all of them: they start
again from the last checkpoint, as a new attempt of the job.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from hpc_dl.errors import LOST
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import MODES

# Seconds before each new start; the last counts for all that follow. Others wait for `restart_timeout`, a minute, of
# which the start itself may need half.
_PAUSES = (1.0, 2.0, 4.0, 8.0)


class After(Enum):
    """What to do after a death."""

    AGAIN = "started again"
    WITHOUT = "given up, the training goes on without it"
    FAIL = "the attempt has failed"


class Policy(msgspec.Struct, frozen=True):
    """A job's policy. The default is that of a job whose every failure is its end."""

    mode: str = ""
    restarts: int = 0
    """How often a process may be started again alone; and how often all of them, in one run of the Slurm job."""
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

        The built-in program says by its exit code that it would not: what a signal has ended, or lost contact, may do
        better. Of a script of the user's own nothing is known; who sets `restarts` wants them.

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
    """Return for how many seconds a process that has died waits for its new start: longer each time, up to a limit.

    Args:
        restarts: how often it was started again before.
    """
    return _PAUSES[min(restarts, len(_PAUSES) - 1)]
