"""The environment of each process that a launcher starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hpc_dl.node.process import ProcessLine
from hpc_dl.planning.process_env import RANK, rank_variables
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.slurm.environment import without_step
from hpc_dl.schedulers.slurm.task_numbers import numbers, without_numbers
from hpc_dl.spec.placement import tf_config

# Variables of the job, and of an MPI rank, that a container may not take over from the host.
_OF_JOB = ("HPC_DL_", "SLURM_JOB", "PMI", "OMPI_")


class Environment:
    """Makes the environments of the processes of one launcher.

    Args:
        run: the job's run folder.
        environ: the environment of the launcher.
        grace: seconds that processes have between SIGTERM and SIGKILL.
        kept: the variables in it that belong to the job: no rank changes them.
    """

    def __init__(self, run: RunFolder, environ: Mapping[str, str], grace: float, kept: Collection[str] = ()) -> None:
        self._environ = environ
        self._kept = kept
        self._job = {"HPC_DL_RUN": str(run.path), "HPC_DL_ATTEMPT": str(run.attempt), "HPC_DL_GRACE": f"{grace:g}"}
        self._cluster = run.read_cluster()
        # A task file that was made by hand comes without a placement.
        self._placement = run.read_placement() if run.placement.exists() else None
        self._ranks = rank_variables(self._placement) if self._placement else {}

    def of(self, line: ProcessLine) -> dict[str, str]:
        """Return the environment of a process."""
        return {**self._common(), **self.own(line)}

    def outside(self, line: ProcessLine) -> dict[str, str]:
        """Return the environment of the command that starts a process in a container, which may be srun."""
        return without_step(self.of(line))

    def inside(self, line: ProcessLine) -> dict[str, str]:
        """Return the variables of a process in a container, which may have none of the host's."""
        job = {key: value for key, value in self._environ.items() if key in self._kept or key.startswith(_OF_JOB)}
        return {**job, **self.own(line)}

    def _common(self) -> dict[str, str]:
        """Return what all processes have in common. What tells the launcher who it is does not belong to it."""
        foreign = RANK - set(self._kept) if self._placement else set()
        return {key: value for key, value in without_numbers(self._environ).items() if key not in foreign}

    def own(self, line: ProcessLine) -> dict[str, str]:
        """Return the variables that one process has for itself."""
        rank = self._ranks.get(line.name, {})
        return {
            **(numbers(self._environ, self._placement, line.name) if self._placement else {}),
            **{key: value for key, value in rank.items() if key not in self._kept},
            **line.env,
            **self._job,
            "TF_CONFIG": tf_config(self._cluster, line.role, line.index),
        }
