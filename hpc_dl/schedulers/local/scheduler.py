"""This machine, with the interface of all schedulers."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from hpc_dl.gpus import local_gpus
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers import Which
from hpc_dl.schedulers.cluster import Description, Node
from hpc_dl.schedulers.local import processes
from hpc_dl.schedulers.protocol import JobState, Told
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Scalar, Site


@dataclass(frozen=True)
class Local:
    """This machine, without a scheduler."""

    template = "local.sh.j2"
    one_machine = True
    pauses = (0.5, 0.5)

    def cluster_name(self) -> str:
        return ""

    def describe(self, cluster: str, partition: str) -> Site:
        raise NotImplementedError("this machine is no cluster")

    def description(self, cluster: str, partition: str) -> Description:
        raise NotImplementedError("this machine is no cluster")

    def completed(self, site: Site) -> Site:
        return replace(site, cores=os.cpu_count() or 1, gpus=len(local_gpus(site.gpu_vendor)), launcher="mpirun")

    def nodes(self) -> tuple[Node, ...]:
        return ()

    def cluster(self) -> None:
        return None

    def directives(self, job: JobSpec, site: Site, runs: Path, array: str = "") -> Mapping[str, Scalar]:  # noqa: ARG002
        return {}

    def ps_directives(self, job: JobSpec, site: Site) -> Mapping[str, Scalar]:  # noqa: ARG002
        return {}

    def step_options(self, job: JobSpec, site: Site, tasks: int) -> Sequence[str]:  # noqa: ARG002
        return ()

    def mpi_problem(self, kind: str) -> str:  # noqa: ARG002
        return "this machine has no srun"

    def ps_nodes_problem(self) -> str:
        return "all nodes are this machine"

    def test(self, script: str) -> str:  # noqa: ARG002 - the protocol's signature
        return "local run: nothing for Slurm to check"

    def submit(self, run: RunFolder, name: str) -> None:
        runs = run.path.parent
        number = 1 + max((_number(path) for path in runs.glob("*-L*")), default=0)
        # Several jobs may be submitted at once: only the process that renames its folder to .L7 may give number 7.
        while not _renamed(run, f".L{number}") or any(runs.glob(f"*-L{number}")):
            number += 1
        run.rename(f"{name}-L{number}")
        processes.save(run, processes.start(run, f"L{number}"))

    def submit_array(self, runs: Sequence[RunFolder], name: str) -> None:
        for run in runs:
            self.submit(run, name)

    def states(self, runs: Sequence[RunFolder], patience: float) -> dict[Path, JobState]:  # noqa: ARG002
        return {run.path: processes.state(run) for run in runs}

    def cancel(self, runs: Sequence[RunFolder]) -> None:
        for run in runs:
            if found := processes.load(run):
                processes.cancel(run, found)

    def restarts(self) -> int:
        return 0

    def told_by(self) -> Told:
        return Told("", "")

    def requeue(self) -> None:
        raise NotImplementedError("nobody tells a local run to start again")


def scheduler(wanted: Which) -> Local:  # noqa: ARG001 - all schedulers have this function
    """Return the local scheduler."""
    return Local()


def _renamed(run: RunFolder, name: str) -> bool:
    """Give the folder a name; return False if the name is taken."""
    try:
        run.rename(name)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def _number(path: Path) -> int:
    match = re.search(r"-L(\d+)$", path.name)
    return int(match[1]) if match else 0
