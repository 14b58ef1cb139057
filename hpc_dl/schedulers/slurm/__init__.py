"""Slurm: every command of Slurm that hpc_dl runs is run here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

# The modules of this folder are imported when they are needed: a plan needs none of them.
if TYPE_CHECKING:
    from hpc_dl.runfolder.folder import RunFolder
    from hpc_dl.schedulers.cluster import Cluster, Node
    from hpc_dl.schedulers.protocol import JobState, Told
    from hpc_dl.spec.job import JobSpec
    from hpc_dl.spec.site import Scalar, Site


@dataclass(frozen=True)
class Slurm:
    """The Slurm that answers here, or the private cluster of this folder."""

    private: bool = False

    template = "sbatch.sh.j2"
    one_machine = False
    pauses = (0.5, 30.0)

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of Slurm's commands.

        Raises:
            UserError: the private cluster is meant, and does not run.
        """
        from hpc_dl.schedulers.slurm.which import private_environ

        return private_environ() if self.private else os.environ

    def cluster_name(self) -> str:
        from hpc_dl.schedulers.slurm.which import cluster_name

        return cluster_name()

    def describe(self, cluster: str, partition: str) -> Site:
        from hpc_dl.schedulers.slurm.partitions import describe

        return describe(scheduler(cluster).environ, cluster, partition)

    def completed(self, site: Site) -> Site:
        from msgspec.structs import replace

        from hpc_dl.schedulers.slurm.which import PRIVATE

        if site.name != PRIVATE:
            return site
        # `make cluster NODES=… GPUS=…` made it as large as it is.
        now = self.describe(site.name, site.partition)
        return replace(site, nodes=now.nodes, cores=now.cores, gpus=now.gpus)

    def nodes(self) -> tuple[Node, ...]:
        from hpc_dl.schedulers.slurm import partitions

        return partitions.nodes(self.environ)

    def cluster(self) -> Cluster:
        from hpc_dl.schedulers.slurm import partitions

        return partitions.cluster(self.environ)

    def directives(self, job: JobSpec, site: Site, runs: Path) -> Mapping[str, Scalar]:
        from hpc_dl.schedulers.slurm.sbatch_options import directives

        return directives(job, site, runs)

    def mpi_problem(self) -> str:
        from hpc_dl.schedulers.slurm.pmix import why_not

        return why_not(self.environ)

    def test(self, script: str) -> str:
        from hpc_dl.schedulers.slurm import sbatch

        return sbatch.test_only(script, self.environ)

    def submit(self, run: RunFolder, name: str) -> None:
        from hpc_dl.errors import UserError
        from hpc_dl.schedulers.slurm import sbatch

        with sbatch.held(run.script, self.environ) as job_id:
            try:
                run.rename(f"{name}-{job_id}")
            except OSError as error:
                # The name is taken where an earlier cluster gave the same number.
                raise UserError(f"{error.filename2}: {error.strerror}") from None

    def states(self, runs: Sequence[RunFolder], patience: float) -> dict[Path, JobState]:
        from hpc_dl.errors import UserError
        from hpc_dl.schedulers.protocol import JobState
        from hpc_dl.schedulers.slurm.states import of_runs

        try:
            environ = self.environ
        except UserError as error:
            return {run.path: JobState("UNKNOWN", str(error), silent=True, job_id=run.job_id) for run in runs}
        return of_runs(environ, runs, patience)

    def cancel(self, runs: Sequence[RunFolder]) -> None:
        from hpc_dl.schedulers.slurm import sbatch

        sbatch.cancel([run.job_id for run in runs], self.environ)

    def restarts(self) -> int:
        return int(os.environ.get("SLURM_RESTART_COUNT") or 0)

    def told_by(self) -> Told:
        from hpc_dl.schedulers.protocol import Told
        from hpc_dl.schedulers.slurm import requeue

        job_id = os.environ.get("SLURM_JOB_ID", "")
        return requeue.told_by(job_id) if job_id else Told("", "")

    def requeue(self) -> None:
        from hpc_dl.schedulers.slurm import requeue

        requeue.requeue(os.environ["SLURM_JOB_ID"])


def scheduler(site_name: str) -> Slurm:
    """Return the Slurm of a site."""
    from hpc_dl.schedulers.slurm.which import is_private

    return Slurm(is_private(site_name))
