"""The interface of all schedulers, and the job states that they report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.cluster import Cluster, Description, Node
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Scalar, Site

# All schedulers name states as Slurm does (man squeue, "JOB STATE CODES").
# States after which a job does not run again by itself.
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
# States of a waiting job; Slurm's reason says why it waits.
WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
# All others (man squeue and man sacct).
ACTIVE = frozenset({"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED", "UNKNOWN"})
# Ends after which Slurm requeues most jobs. Accounting shows the requeue only seconds later.
REQUEUED = frozenset({"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REQUEUED"})

PATIENCE = 30.0  # timeout of a query in seconds: a busy controller takes its time


class JobState(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """The state of a job; times are Unix seconds."""

    state: str
    """One of Slurm's job states, or UNKNOWN."""
    reason: str = ""
    """Why it waits, or why its state can't be known here; empty once it runs."""
    nodelist: str = ""
    exit_code: int | None = None
    """As a shell sees it: 128 + number for a signal. Only accounting knows it."""
    submitted: float | None = None
    started: float | None = None
    """When it started; not known while it waits."""
    ended: float | None = None
    estimated_start: float | None = None
    """When Slurm expects to start it; None if Slurm has not worked that out."""
    name: str = ""
    """The job's name; empty if unknown. Another Slurm may have another job of the same number."""
    silent: bool = False
    """Whether a part of the scheduler that may know more did not answer: the state may be older than it seems."""
    job_id: str = ""


UNKNOWN = JobState("UNKNOWN")


def state_in_summary(run: RunFolder) -> JobState | None:
    """Return how a job ended, from its own summary; None if it has not written one."""
    if (ended := run.read_summary()) is None:
        return None
    return JobState(ended.state, exit_code=ended.exit_code, started=ended.started, ended=ended.ended, job_id=run.job_id)


class Told(NamedTuple):
    """What a scheduler says of a job that was told to end."""

    by: str
    """Why it was told to: ``time limit``, ``preemption``, or empty for anything else."""
    state: str
    """The state that the scheduler will give it, if its script exits with an error now; empty if unknown."""


class StrayJobError(UserError):
    """A job could be neither started nor cancelled. It may still exist, and then needs its run folder."""


class Scheduler(Protocol):
    """A scheduler. It knows jobs by their run folders; two objects that compare equal are one scheduler."""

    @property
    def template(self) -> str:
        """The template of the job script."""

    @property
    def one_machine(self) -> bool:
        """Whether all nodes of a job are this machine."""

    @property
    def pauses(self) -> tuple[float, float]:
        """Seconds between two questions for the state of a job, at first and at most."""

    def cluster_name(self) -> str:
        """Return the name of the cluster that answers here; empty if there is none.

        Raises:
            UserError: There is one, but it does not answer.
        """

    def describe(self, cluster: str, partition: str) -> Site:
        """Return a site made from the scheduler's description of a partition; empty: the default one.

        Raises:
            UserError: The scheduler does not answer, or has no such partition.
        """

    def description(self, cluster: str, partition: str) -> Description:
        """Return all that the scheduler knows for a site file.

        Raises:
            UserError: see `describe`.
        """

    def completed(self, site: Site) -> Site:
        """Return a site from a file, with the values that only the running machine knows filled in.

        Raises:
            UserError: The scheduler does not answer.
        """

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes of all partitions; none where the scheduler has none, or does not answer."""

    def cluster(self) -> Cluster | None:
        """Return partitions, nodes and limits; None if the scheduler has neither partitions nor limits."""

    def directives(self, job: JobSpec, site: Site, runs: Path, array: str = "") -> Mapping[str, Scalar]:
        """Return the options at the head of the script of a resolved job; True stands for an option without a value.

        Args:
            job: the job.
            site: its site.
            runs: the folder of the run folders.
            array: the numbers of the elements of an array, such as ``0-9%2``; empty: it is a single job.

        Raises:
            UserError: The scheduler can't write a log into a run folder in `runs`.
        """

    def ps_directives(self, job: JobSpec, site: Site) -> Mapping[str, Scalar]:
        """Return the options of the part of a resolved job that has the `ps_nodes`, as `directives` does.

        Args:
            job: the job.
            site: the site, as it is in the partition of these nodes.
        """

    def step_options(self, job: JobSpec, site: Site, tasks: int) -> Sequence[str]:
        """Return the options with which a step of a resolved job gets its GPUs and cores, besides the site's options.

        Args:
            job: the job.
            site: its site.
            tasks: how many tasks the step starts on each node.
        """

    def mpi_problem(self, kind: str) -> str:
        """Return why the scheduler's own launcher can't start ranks of a kind of MPI; empty if it can."""

    def ps_nodes_problem(self) -> str:
        """Return why the scheduler can't give a job `ps_nodes`; empty if it can."""

    def test(self, script: str) -> str:
        """Let the scheduler check a job script without submitting it, and return what it says.

        Raises:
            UserError: The scheduler would refuse it.
        """

    def submit(self, run: RunFolder, name: str) -> None:
        """Submit the job script in a run folder, and name the folder ``NAME-JOBID`` before the job starts.

        Raises:
            UserError: The scheduler refused the script.
            StrayJobError: The same, but the job may still exist.
        """

    def submit_array(self, runs: Sequence[RunFolder], name: str) -> None:
        """Submit the job script of the first run folder once for all, and name the folders as `submit` does.

        In Slurm they are the elements of an array, with the job ids ``12_0``, ``12_1`` and so on.

        Raises:
            UserError: The scheduler refused the script.
            StrayJobError: The same, but the jobs may still exist.
        """

    def states(self, runs: Sequence[RunFolder], patience: float) -> dict[Path, JobState]:
        """Return the states of jobs, by the paths of their run folders.

        Args:
            runs: the run folders.
            patience: timeout of each query in seconds.
        """

    def cancel(self, runs: Sequence[RunFolder]) -> None:
        """End jobs; one that has ended is left as it is.

        Raises:
            UserError: The scheduler refused.
        """

    def restarts(self) -> int:
        """Return how often the job around us was requeued."""

    def told_by(self) -> Told:
        """Return why the job around us was told to end, if it was."""

    def requeue(self) -> None:
        """Queue the job around us again; it is ended soon after.

        Raises:
            JobError: The scheduler did not queue it.
        """
