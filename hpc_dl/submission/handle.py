"""Job: the handle of a submitted job, whether Slurm runs it or this machine."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_dl.errors import JobError, UserError
from hpc_dl.runfolder.folder import RunFolder, Summary
from hpc_dl.schedulers.local import processes
from hpc_dl.schedulers.slurm.states import ENDED, REQUEUED, SlurmState
from hpc_dl.schedulers.slurm.which import is_private, private_environ
from hpc_dl.spec.layers import is_file
from hpc_dl.submission.states import slurm_states, states, summary_of

_ASK_LOCAL = 0.5  # seconds between questions for the state
_ASK_SLURM = (2.0, 30.0)  # the same for Slurm, at first and at most
FORGOTTEN = 60.0  # seconds of UNKNOWN after which a job counts as forgotten: a busy controller answers by then


class Job:
    """A submitted job, with the names that submitit's handle has.

    Args:
        run: its run folder.
    """

    def __init__(self, run: RunFolder | Path | str) -> None:
        self.run = run if isinstance(run, RunFolder) else RunFolder(run)
        self._local = processes.load(self.run)

    def __repr__(self) -> str:
        return f"Job({str(self.run.path)!r})"

    @property
    def job_id(self) -> str:
        """Return the number that Slurm gave it, or ``L1`` and so on for a local run."""
        return self.run.job_id

    @property
    def state(self) -> str:
        """Return the state in Slurm's words: PENDING, RUNNING, COMPLETED, FAILED, …; UNKNOWN where nobody knows."""
        return self.query().state

    def query(self) -> SlurmState:
        """Return the state, why it waits, where and when it runs.

        Slurm comes first; the records in the run folder count where Slurm has forgotten the job or does not answer.
        """
        return states([self.run])[0]

    def done(self) -> bool:
        """Return whether it has ended, well or not."""
        return self.state in ENDED

    def wait(self, timeout: float | None = None) -> None:
        """Return when it has ended.

        Args:
            timeout: seconds.

        Raises:
            JobError: nobody knows the job any more, and it left no summary.
            TimeoutError: it has not ended by then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause, known = 0.2, time.monotonic()
        while (now := self.query()).state not in ENDED:
            # Where Slurm does not answer, it may know the job all the same.
            if now.state != "UNKNOWN" or (now.silent and not now.reason):
                known = time.monotonic()
            elif time.monotonic() - known > FORGOTTEN:
                why = now.reason or "Slurm no longer knows it"
                raise JobError(f"job {self.job_id}: {why}, and it left no summary in {self.run.path}")
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"job {self.job_id} has not ended after {timeout} s")
            time.sleep(pause)
            # Many handles may wait on one slurmctld.
            pause = min(pause * 1.5, 0.5 if self._local else 10)

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the end and return what the training program reported, such as ``test_accuracy``.

        A script of the user's own reports by writing ``result.json`` into the folder that HPC_DL_RUN names.

        Raises:
            JobError: it ended badly; the message names the first process that failed, with its last lines.
            TimeoutError: it has not ended after `timeout` seconds.
        """
        self.wait(timeout)
        if error := self.exception():
            raise error
        return self.run.read_result() or {}

    def exception(self) -> JobError | None:
        """Return why it ended badly; None if it ended well or has not ended."""
        final = self.query()
        if final.state == "COMPLETED" or final.state not in ENDED:
            return None
        summary = summary_of(self.run, final)
        cause = summary.failure if summary and summary.failure else f"see {self.run.log}"
        return JobError(f"job {self.job_id} ended {final.state}: {cause}")

    def summary(self) -> Summary | None:
        """Return how it ended, from its own record; None before the end, or if it could not write one."""
        return self.run.read_summary()

    def cancel(self) -> None:
        """End it; what trains saves a last checkpoint. One that has ended is left as it is."""
        cancel([self])

    def resume(self, *, site: str = "", from_start: bool = False, **settings: Any) -> Job:
        """Submit a new job that goes on from the last checkpoint of this one, which has ended; return its handle.

        Args:
            site: name or path of a site file; empty: where we are.
            from_start: begin at step 0, without its checkpoints.
            **settings: keys of a job file that change, such as ``nodes``, ``mode`` and ``steps``.

        Raises:
            UserError: this job has not ended, it has no whole checkpoint, or something is not valid.
        """
        from hpc_dl.spec.layers import Layer
        from hpc_dl.submission.choose_site import choose_site
        from hpc_dl.submission.resume import plan_resumption
        from hpc_dl.submission.submit import submit_plan

        layers = [Layer(settings, "keyword {key}")]
        plan, notes = plan_resumption(self, lambda: choose_site(site), layers, from_start)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return submit_plan(plan)

    def stdout(self) -> str:
        """Return the log of the job script, with what Slurm says of the job."""
        return self.run.log.read_text(errors="replace") if self.run.log.exists() else ""

    def logs(self) -> dict[str, Path]:
        """Return each process's log file by its name, such as ``worker:0``."""
        return {name: self.run.log_of(name) for name in self.run.processes()}


def cancel(jobs: Sequence[Job]) -> list[Job]:
    """End jobs; those of a Slurm with one command. Return those that were told; one that has ended is left as it is.

    Raises:
        UserError: Slurm does not know one, or it runs on another machine: none is told then. Slurm refused, or the
            private cluster is away.
    """
    from hpc_dl.schedulers.slurm import sbatch  # not before: it imports submitit

    remote = [job for job in jobs if not job.run.local.exists()]
    for job in jobs:
        if job not in remote and (found := processes.load(job.run)):
            processes.check(job.run, found)
    said = slurm_states([job.run for job in remote]) if remote else {}
    told = [job for job in remote if _may_go_on(job, said[job.run.path])]
    if own := [job.job_id for job in told if is_private(job.run)]:
        sbatch.cancel(*own, environ=private_environ())
    if others := [job.job_id for job in told if not is_private(job.run)]:
        sbatch.cancel(*others)
    return [job for job in jobs if job in told or (job not in remote and _end_local(job))]


def _end_local(job: Job) -> bool:
    found = processes.load(job.run)
    return found is not None and processes.cancel(job.run, found)


def _may_go_on(job: Job, said: SlurmState) -> bool:
    """Return whether a job is to be cancelled, by what Slurm says of it.

    Raises:
        UserError: Slurm answers, and neither it nor the run folder knows of the job.
    """
    if said.state == "UNKNOWN" and not said.silent:
        if job.done():
            return False
        raise UserError(f"job {job.job_id}: Slurm knows no such job; see {job.run.path}")
    # After some ends a job is in the queue again a moment later.
    return said.state not in ENDED - REQUEUED


class Asking:
    """Asks where a job is now and then, the more rarely the longer it takes: many may ask one slurmctld."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._pause, self._longest = (_ASK_LOCAL, _ASK_LOCAL) if job.run.local.exists() else _ASK_SLURM
        self._ask_at, self._known, self._ends = 0.0, time.monotonic(), False
        self.state = SlurmState("")

    def look(self) -> Asking:
        """Ask, if it is time to; `state` and `over` say what is known."""
        now = time.monotonic()
        # The summary is the last thing that a job writes: then the state is worth a question out of turn.
        ends, before = self._job.run.summary.exists(), self._ends
        if now >= self._ask_at or (ends and not before):
            self.state = self._job.query()
            self._ends = ends
            self._pause = _ASK_SLURM[0] if ends and not before else min(self._pause * 1.2, self._longest)
            self._ask_at = time.monotonic() + min(self._pause, self._longest)
            if self.state.state != "UNKNOWN" or (self.state.silent and not self.state.reason):
                self._known = time.monotonic()
        return self

    @property
    def over(self) -> bool:
        """Whether it has ended, or nobody has known it for `FORGOTTEN` seconds."""
        return self.state.state in ENDED or time.monotonic() - self._known > FORGOTTEN


def runs_in(folder: Path) -> Iterator[RunFolder]:
    """Yield the run folders in `folder` that we may see, oldest first; none twice that a link gives another name."""
    found = []
    for path in folder.glob("*-*"):
        # Another user's, one that is being removed, a link in a circle.
        with contextlib.suppress(OSError, RuntimeError):
            if path.name.startswith(".") or (path.is_symlink() and path.resolve().name != path.name):
                continue
            found.append(((path / "job.toml").stat().st_mtime, path))
    yield from (RunFolder(path) for _, path in sorted(found))


def find_job(name: str, folder: Path) -> Job:
    """Return the job with a job id, run folder name or run folder path; the newest one for an empty name.

    Raises:
        UserError: there is none.
    """
    return find_jobs([name], folder)[0]


def find_jobs(names: Sequence[str], folder: Path) -> list[Job]:
    """Return a job for each name, as `find_job` does; the folder is looked through once.

    Raises:
        UserError: there is none for one of them.
    """
    runs = [] if all("/" in name for name in names) else list(runs_in(folder))
    known = {key: run for run in runs for key in (run.job_id, run.path.name, "")}
    return [_find(name, known, runs, folder) for name in names]


def _find(name: str, known: Mapping[str, RunFolder], runs: Sequence[RunFolder], folder: Path) -> Job:
    if "/" in name:
        path = Path(name)
        if not is_file(path / "job.toml"):
            raise UserError(f"{name}: no run folder (it has no job.toml)")
        # The job id is in the folder's own name.
        return Job(path.resolve() if path.is_symlink() or path.name in ("", "..") else path)
    if name not in known:
        newest = ", ".join(run.job_id for run in runs[-5:]) or "none"
        raise UserError(f"no job{f' {name!r}' if name else ''} in {folder}; newest jobs there: {newest}")
    return Job(known[name])
