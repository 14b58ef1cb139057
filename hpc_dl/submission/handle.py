"""Job: the handle of a submitted job, whichever scheduler has it."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_dl.errors import JobError, UserError
from hpc_dl.runfolder.folder import RunFolder, Summary
from hpc_dl.schedulers.protocol import ENDED, REQUEUED, WAITING, JobState
from hpc_dl.spec.layers import is_file
from hpc_dl.submission.asking import Asking
from hpc_dl.submission.states import ask, by_scheduler, forgotten_at_once, states, summary_of

_LOOK = 0.2  # seconds between looks for a summary in the run folder


class Job:
    """A submitted job, with the names that submitit's handle has.

    Args:
        run: its run folder.
    """

    def __init__(self, run: RunFolder | Path | str) -> None:
        self.run = run if isinstance(run, RunFolder) else RunFolder(run)

    def __repr__(self) -> str:
        return f"Job({str(self.run.path)!r})"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Return what a notebook shows: a table with the state."""
        from hpc_dl.submission.table import table

        return table([self.run], [self.query()])._repr_mimebundle_(include or (), exclude or ())  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.run.path.absolute() == other.run.path.absolute()

    def __hash__(self) -> int:
        return hash(self.run.path.absolute())

    @property
    def job_id(self) -> str:
        """Return the job's number in Slurm, or ``L1`` and so on for a local run."""
        return self.run.job_id

    @property
    def state(self) -> str:
        """Return the state in Slurm's words: PENDING, RUNNING, COMPLETED, FAILED, …; UNKNOWN if nobody knows."""
        return self.query().state

    def query(self) -> JobState:
        """Return the state, with the reason why the job waits, its nodes and its times.

        Slurm comes first; the records in the run folder count if Slurm has forgotten the job or does not answer.
        """
        return states([self.run])[0]

    def done(self) -> bool:
        """Return whether the job has ended, well or not."""
        return self.state in ENDED

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the job has ended.

        Args:
            timeout: seconds.

        Raises:
            JobError: nobody knows the job any more, and it left no summary.
            TimeoutError: the job has not ended by then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        asking = Asking(self.run)
        while not asking.look().over:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"job {self.job_id} has not ended after {timeout} s")
            time.sleep(_LOOK)
        if asking.state.state not in ENDED:
            why = asking.state.reason or "Slurm no longer knows it"
            raise JobError(f"job {self.job_id}: {why}, and it left no summary in {self.run.path}")

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the end and return the results that the training program reported, such as ``test_accuracy``.

        A script of the user's own reports by writing ``result.json`` into the folder that HPC_DL_RUN names.

        Raises:
            JobError: the job ended badly; the message names the first process that failed, with its last lines.
            TimeoutError: the job has not ended after `timeout` seconds.
        """
        self.wait(timeout)
        if error := self.exception():
            raise error
        return self.run.read_result() or {}

    def exception(self) -> JobError | None:
        """Return why the job ended badly; None if it ended well or has not ended."""
        final = self.query()
        if final.state == "COMPLETED" or final.state not in ENDED:
            return None
        summary = summary_of(self.run, final)
        cause = summary.failure if summary and summary.failure else f"see {self.run.log}"
        return JobError(f"job {self.job_id} ended {final.state}: {cause}")

    def summary(self) -> Summary | None:
        """Return the summary that the job wrote at its end; None before the end, or if it could not write one."""
        return self.run.read_summary()

    def cancel(self) -> None:
        """Cancel the job; the training saves a last checkpoint. A job that has ended is left as it is."""
        cancel([self])

    def resume(self, *, site: str = "", from_start: bool = False, **settings: Any) -> Job:
        """Submit a new job that goes on from the last checkpoint of this ended job; return its handle.

        Args:
            site: name or path of a site file; empty: the site that this machine belongs to.
            from_start: begin at step 0, without this job's checkpoints.
            **settings: keys of a job file that change, such as ``nodes``, ``mode`` and ``steps``.

        Raises:
            UserError: this job has not ended, it has no whole checkpoint, or something is not valid.
        """
        from hpc_dl.spec.layers import Layer
        from hpc_dl.submission.resume import plan_resumption
        from hpc_dl.submission.submit import submit_plan

        layers = [Layer(settings, "keyword {key}")]
        plan, notes = plan_resumption(self.run, self.query(), site, layers, from_start)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return Job(submit_plan(plan))

    def stdout(self) -> str:
        """Return the log of the job script, with what Slurm says of the job."""
        return self.run.log.read_text(errors="replace") if self.run.log.exists() else ""

    def logs(self) -> dict[str, Path]:
        """Return each process's log file by its name, such as ``worker:0``."""
        return {name: self.run.log_of(name) for name in self.run.processes()}


def cancel(jobs: Sequence[Job]) -> list[Job]:
    """Cancel jobs, with one command for each scheduler; return the jobs that had not ended.

    Raises:
        UserError: a job is not known, or can't be cancelled from here; then none is cancelled. Or a scheduler refused.
    """
    said = ask([job.run for job in jobs])
    told = [job for job in jobs if _may_go_on(job, said[job.run.path])]
    for scheduler, runs in by_scheduler([job.run for job in told]).items():
        scheduler.cancel(runs)
    forgotten_at_once([job.run for job in told if said[job.run.path].state in WAITING])
    return told


def _may_go_on(job: Job, said: JobState) -> bool:
    """Return whether a job may still run, from the state that its scheduler reports.

    Raises:
        UserError: neither the scheduler nor the run folder knows the state, or it can't be asked from here.
    """
    if said.state == "UNKNOWN" and (said.reason or not said.silent):
        if job.query().state in ENDED:
            return False
        raise UserError(f"job {job.job_id}: {said.reason or f'Slurm knows no such job; see {job.run.path}'}")
    # In some of these states a job may be queued again a moment later.
    return said.state not in ENDED - REQUEUED


def runs_in(folder: Path) -> Iterator[RunFolder]:
    """Yield the run folders in `folder` that we may see, oldest first. A link that renames its folder is left out."""
    found = []
    for path in folder.glob("*-*"):
        # The folder may be another user's, or is just being removed; a link may lead to itself.
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
    jobs = find_jobs([name], folder)
    if len(jobs) > 1:
        raise UserError(f"job {name} is an array of {len(jobs)} jobs; name one, such as {jobs[0].job_id}")
    return jobs[0]


def find_jobs(names: Sequence[str], folder: Path) -> list[Job]:
    """Return a job for each name, as `find_job` does; all elements for that of an array.

    The folder is looked through once.

    Raises:
        UserError: there is none for one of them.
    """
    runs = [] if all("/" in name for name in names) else list(runs_in(folder))
    known = {key: run for run in runs for key in (run.job_id, run.path.name, "")}
    arrays: dict[str, list[RunFolder]] = {}
    for run in runs:
        array, _, _ = run.job_id.partition("_")
        if array not in known:
            arrays.setdefault(array, []).append(run)
    found = [
        [Job(run) for run in sorted(arrays[name], key=_element)]
        if name in arrays
        else [_find(name, known, runs, folder)]
        for name in names
    ]
    return [job for jobs in found for job in jobs]


def _element(run: RunFolder) -> int:
    number = run.job_id.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0


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
