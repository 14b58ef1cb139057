"""Slurm, with the interface of all schedulers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from hpc_dl.errors import UserError
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers import Which
from hpc_dl.schedulers.cluster import Cluster, Description, Node
from hpc_dl.schedulers.protocol import JobState, Told
from hpc_dl.schedulers.slurm import (
    description,
    mpi,
    partitions,
    requeue,
    sbatch,
    sbatch_options,
    states,
    version,
    which,
)
from hpc_dl.schedulers.slurm.environment import for_cluster
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Scalar, Site


@dataclass(frozen=True)
class Slurm:
    """The Slurm that answers here, or the private cluster of this folder."""

    private: bool = False
    clusters: str = ""
    """The cluster that commands ask, where several share a login; empty: the one that answers."""
    conf: str = ""
    """The slurm.conf that commands read; empty: the usual one."""

    template = "sbatch.sh.j2"
    one_machine = False
    pauses = (0.5, 30.0)

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of Slurm's commands.

        Raises:
            UserError: the private cluster is meant, but does not run.
        """
        if self.private:
            return which.private_environ()
        return for_cluster(os.environ, self.clusters, self.conf)

    def cluster_name(self) -> str:
        return which.cluster_name()

    def describe(self, cluster: str, partition: str) -> Site:
        found = partitions.describe(scheduler(Which(cluster)).environ, cluster, partition)
        return replace(found, fake_gpus=which.is_private(cluster))

    def description(self, cluster: str, partition: str) -> Description:
        found = description.describe(scheduler(Which(cluster)).environ, cluster, partition)
        return replace(found, site=replace(found.site, fake_gpus=which.is_private(cluster)))

    def completed(self, site: Site) -> Site:
        if site.name != which.PRIVATE:
            return site
        # `make cluster NODES=… GPUS=…` decided its size.
        now = self.describe(site.name, site.partition)
        return replace(site, nodes=now.nodes, cores=now.cores, gpus=now.gpus)

    def nodes(self) -> tuple[Node, ...]:
        return partitions.nodes(self.environ)

    def cluster(self) -> Cluster:
        return partitions.cluster(self.environ)

    def directives(self, job: JobSpec, site: Site, runs: Path, array: str = "") -> Mapping[str, Scalar]:
        return sbatch_options.directives(job, site, runs, array)

    def ps_directives(self, job: JobSpec, site: Site) -> Mapping[str, Scalar]:
        return sbatch_options.ps_directives(job, site)

    def step_options(self, job: JobSpec, site: Site, tasks: int) -> Sequence[str]:
        return sbatch_options.step_options(job, site, tasks)

    def mpi_problem(self, kind: str) -> str:
        return mpi.why_not(self.environ, kind)

    def ps_nodes_problem(self) -> str:
        return version.heterogeneous_problem(self.environ)

    def test(self, script: str) -> str:
        return sbatch.test_only(script, self.environ)

    def submit(self, run: RunFolder, name: str) -> None:
        with sbatch.held(run.script, self.environ) as job_id:
            _rename(run, f"{name}-{job_id}")

    def submit_array(self, runs: Sequence[RunFolder], name: str) -> None:
        with sbatch.held(runs[0].script, self.environ) as job_id:
            for index, run in enumerate(runs):
                _rename(run, f"{name}-{job_id}_{index}")

    def states(self, runs: Sequence[RunFolder], patience: float) -> dict[Path, JobState]:
        try:
            environ = self.environ
        except UserError as error:
            return {run.path: JobState("UNKNOWN", str(error), silent=True, job_id=run.job_id) for run in runs}
        return states.of_runs(environ, runs, patience)

    def cancel(self, runs: Sequence[RunFolder]) -> None:
        sbatch.cancel([run.job_id for run in runs], self.environ)

    def restarts(self) -> int:
        return int(os.environ.get("SLURM_RESTART_COUNT") or 0)

    def told_by(self) -> Told:
        job_id = _own_job_id()
        return requeue.told_by(job_id) if job_id else Told("", "")

    def requeue(self) -> None:
        requeue.requeue(_own_job_id())


def _rename(run: RunFolder, name: str) -> None:
    try:
        run.rename(name)
    except OSError as error:
        # The name is taken if another cluster gave a job the same number.
        how = "choose another name, or other runs in the site file"
        raise UserError(f"{error.filename2}: {error.strerror}; {how}") from None


def _own_job_id() -> str:
    """Return the number of the job around us. That of an array's last element alone would mean the whole array."""
    array, element = (os.environ.get(f"SLURM_ARRAY_{key}", "") for key in ("JOB_ID", "TASK_ID"))
    return f"{array}_{element}" if array and element else os.environ.get("SLURM_JOB_ID", "")


def scheduler(wanted: Which) -> Slurm:
    """Return the Slurm of a site."""
    private = which.is_private(wanted.name) and not wanted.slurm_conf
    return Slurm(private, wanted.clusters, wanted.slurm_conf)
