"""Runs mpirun so that it does not kill its ranks before they have saved.

When Open MPI's mpirun is told to end, it sends SIGTERM to its ranks, and SIGKILL 0.5 to 1 second later. Version 5 has
no setting for that (version 4: odls_base_sigkill_timeout). Its daemons on other nodes do the same when Slurm signals
them. So mpirun and its daemons run with SIGTERM and SIGINT blocked; Open MPI unblocks all signals for the ranks.
Instead mpirun gets SIGUSR1 and passes it on to all ranks, which end in their own time. MPICH's mpirun passes it on
too, and its daemons end only with their ranks. Another mpirun may die of SIGUSR1: there, ranks learn from the run
folder that they are told to end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_dl.processes import Guard, die_with_parent, next_signal

if TYPE_CHECKING:  # this module also starts the daemons of other nodes, without a run folder
    from hpc_dl.runfolder.folder import RunFolder

_ENDINGS = (signal.SIGTERM, signal.SIGINT)
_MORE = 10.0  # seconds beyond the ranks' grace after which mpirun itself counts as hung


def run_mpirun(
    command: Sequence[str], grace: float, run: RunFolder | None = None, hang_timeout: float = 0, *, signals: bool = True
) -> int:
    """Run mpirun and return its exit code; when told to end, 128 + the signal.

    On a node that was cut off, mpirun would wait for its daemons for ever. It is killed once a later attempt has begun.

    Args:
        command: mpirun and its arguments.
        grace: seconds that ranks have to end once they are told.
        run: the job's run folder, with the attempt of these ranks.
        hang_timeout: seconds after which this process counts as hung and is killed, and mpirun with it; 0: never.
        signals: mpirun passes SIGUSR1 on to its ranks.
    """
    guard = Guard(hang_timeout)
    signal.pthread_sigmask(signal.SIG_BLOCK, (*_ENDINGS, signal.SIGCHLD))
    # With -m a select.py in the user's folder would hide Python's own. But Open MPI splits a path at blanks.
    program = "-m hpc_dl.node.mpirun" if " " in __file__ else __file__
    agent = f"{Path(sys.executable).name} {program}"
    process = subprocess.Popen(
        command,
        # The command that starts on other nodes in place of the daemon, for Open MPI 5 and 4.
        env={
            **os.environ,
            "PRTE_MCA_prte_launch_agent": f"{agent} prted",
            "OMPI_MCA_orte_launch_agent": f"{agent} orted",
        },
        preexec_fn=_child_setup(),
    )
    told, kill_at = 0, float("inf")
    while process.poll() is None:
        guard.beat()
        number = next_signal((*_ENDINGS, signal.SIGCHLD), 1.0)
        if number in _ENDINGS and not told:
            told, kill_at = number, time.monotonic() + grace + _MORE
            if signals:
                process.send_signal(signal.SIGUSR1)
        if time.monotonic() > kill_at or (run and _superseded(run)):
            process.kill()
    guard.close()
    if told:
        return 128 + told
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _superseded(run: RunFolder) -> bool:
    with contextlib.suppress(OSError):  # the disk is away for a moment
        return run.superseded
    return False


def _child_setup() -> Callable[[], None]:
    ask = die_with_parent()

    def setup() -> None:
        ask()
        signal.pthread_sigmask(signal.SIG_SETMASK, _ENDINGS)

    return setup


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the daemon takes this process's place
