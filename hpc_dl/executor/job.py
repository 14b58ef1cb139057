"""The handle of a job with a function: submitit's, with the results of the function in place of a script's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, JobPaths, UncompletedJobError

from hpc_dl.disk import look_anew
from hpc_dl.errors import JobError, UserError
from hpc_dl.executor.pickled import load, load_outcome, read_description
from hpc_dl.executor.watch import watch
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.runfolder.function import FunctionFiles
from hpc_dl.schedulers.protocol import ENDED
from hpc_dl.spec.job import JobSpec
from hpc_dl.submission import handle
from hpc_dl.submission.asking import Asking

R = TypeVar("R", covariant=True)

_LOOK = 0.1  # seconds between looks for a summary in the run folder


class FunctionFailedError(JobError, FailedJobError):
    """The function raised an exception; the message has its traceback."""


class NoResultError(JobError, UncompletedJobError):
    """The job ended, or was lost, before the function returned."""


# In this order, since submitit's DelayedJob, which stands for a job inside of `batch`, takes over the class of its job.
class FunctionJob(submitit.Job[R], handle.Job):
    """A submitted function, or one of its tasks.

    Args:
        run: the run folder of its job.
        tasks: the names of the processes that run the function, the chief first; empty: the run folder tells.
        task_id: the number of the task that is meant; None: all.
    """

    job_id = handle.Job.job_id

    def __init__(self, run: RunFolder | Path | str, tasks: Sequence[str] = (), task_id: int | None = None) -> None:
        handle.Job.__init__(self, run)
        self._names = tuple(tasks or task_names(self.run.read_job()))
        self._task_id = 0 if len(self._names) == 1 else task_id
        self._cancel_at_deletion = False
        watch.add(self.run)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.run.path)!r}, task_id={self._task_id})"

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and isinstance(other, FunctionJob) and self._task_id == other.task_id

    def __hash__(self) -> int:
        return hash((super().__hash__(), self._task_id))

    def __del__(self) -> None:
        if self.__dict__.get("_cancel_at_deletion"):
            with contextlib.suppress(Exception):  # the interpreter may be ending
                self.cancel(check=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        watch.add(self.run)

    @property
    def state(self) -> str:
        """Return the state in Slurm's words, at most a few seconds old; one question asks for all jobs."""
        return watch.state(self.run).state

    @property
    def num_tasks(self) -> int:
        """Return the number of processes that run the function."""
        return 1 if self._task_id is not None else len(self._names)

    @property
    def task_id(self) -> int | None:
        """Return the number of the task that is meant; None: all."""
        return self._task_id

    def task(self, task_id: int) -> FunctionJob[R]:
        """Return the handle of one task.

        Raises:
            ValueError: there is no such task.
        """
        if not 0 <= task_id < self.num_tasks:
            raise ValueError(f"task_id {task_id} must be between 0 and {self.num_tasks - 1}")
        return self if self._task_id is not None else FunctionJob(self.run, self._names, task_id)

    @property
    def paths(self) -> FunctionPaths:
        """Return the files of the job, by the names that submitit has for them."""
        return FunctionPaths(self.run, self._names[self._task_id or 0], self._task_id)

    def submission(self) -> DelayedSubmission:
        """Return the function and its arguments."""
        files = FunctionFiles(self.run.path)
        call = load(files.submitted(self.run.attempt), read_description(files.description))
        return DelayedSubmission(call.function, *call.args, **call.kwargs)

    def done(self, force_check: bool = False) -> bool:  # noqa: ARG002 - submitit's signature
        """Return whether the job has ended, well or not."""
        return self.run.summary.exists() or self.state in ENDED

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the job has ended.

        Args:
            timeout: seconds.

        Raises:
            NoResultError: nobody knows the job any more, or its run folder is gone.
            TimeoutError: the job has not ended by then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        asking = Asking(self.run)
        while not (self._has_summary() or asking.look().over):
            if not self.run.path.exists():
                raise NoResultError(
                    f"job {self.job_id}: its run folder {self.run.path} is gone, and its result with it"
                )
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"job {self.job_id} has not ended after {timeout} s")
            time.sleep(_LOOK)
        if not self.run.summary.exists() and asking.state.state not in ENDED:
            why = asking.state.reason or "Slurm no longer knows it"
            raise NoResultError(f"job {self.job_id}: {why}, and it left no summary in {self.run.path}")

    def _has_summary(self) -> bool:
        look_anew(self.run.path)
        return self.run.summary.exists()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and return what the function returned; of several tasks, the chief's.

        Raises:
            FunctionFailedError: the function raised an exception.
            NoResultError: the job ended badly without that.
            TimeoutError: the job has not ended after `timeout` seconds.
        """
        return self._results(timeout, [self._task_id or 0])[0]

    def results(self, timeout: float | None = None) -> list[Any]:
        """Wait for the end and return what the function returned in each task, the chief's first; see `result`.

        A worker that a separate chief directs serves until the chief has ended: its result is None.
        """
        return self._results(timeout, self._meant())

    def exception(self, timeout: float | None = None) -> FunctionFailedError | NoResultError | None:
        """Wait for the end and return why the job, or this task, ended badly; None if it ended well.

        Of several tasks whose function raised an exception, it is that of the first one.

        Raises:
            TimeoutError: the job has not ended after `timeout` seconds.
        """
        try:
            self._results(timeout, self._meant())
        except (FunctionFailedError, NoResultError) as error:
            return error
        return None

    def _meant(self) -> Sequence[int]:
        return range(len(self._names)) if self._task_id is None else (self._task_id,)

    def _results(self, timeout: float | None, tasks: Sequence[int]) -> list[Any]:
        self.wait(timeout)
        results = [self._outcome(task) for task in tasks]
        if why := self._why_badly():
            if self._task_id is None:
                self._results_of_all()
            raise NoResultError(f"job {self.job_id} ended {why}")
        missing = [self._names[task] for task, result in zip(tasks, results, strict=True) if not result]
        if missing and not (self._names[0] == "chief:0" != missing[0]):
            raise NoResultError(f"job {self.job_id}: {missing[0]} left no result in {self.run.path}")
        return [result[0] if result else None for result in results]

    def _results_of_all(self) -> None:
        """Raise the exception of the first task whose function raised one."""
        for task in range(len(self._names)):
            self._outcome(task)

    def _outcome(self, task: int) -> tuple[Any] | None:
        """Return what the function returned in a task, as a tuple; None if it did not return.

        Raises:
            FunctionFailedError: it raised an exception.
        """
        file = FunctionFiles(self.run.path).result(self.run.attempt, self._names[task])
        if not file.exists():
            return None
        outcome, value = load_outcome(file)
        if outcome == "success":
            return (value,)
        raise FunctionFailedError(
            f"job {self.job_id}: the function failed in {self._names[task]} (task {task}):\n{value.rstrip()}\n"
            f"Its log is {self.run.log_of(self._names[task])}"
        )

    def _why_badly(self) -> str:
        """Return how the job ended, and what failed first; empty if it ended well."""
        # Not Slurm's word: it takes a moment to see that the script has ended.
        if summary := self.run.read_summary():
            return (
                "" if summary.state == "COMPLETED" else f"{summary.state}: {summary.failure or f'see {self.run.log}'}"
            )
        state = self.query().state
        return "" if state == "COMPLETED" else f"{state}: see {self.run.log}"

    def cancel(self, check: bool = True) -> None:
        """Cancel the job; one that has ended is left as it is.

        Args:
            check: raise a `hpc_dl.UserError` if it can't be cancelled.
        """
        with contextlib.nullcontext() if check else contextlib.suppress(UserError):
            handle.cancel([self])

    def stdout(self) -> str | None:  # type: ignore[override]
        """Return what the function has written, of each task; None if it has not begun.

        A process has one log for both streams, in the order of time.
        """
        logs = [log for task in self._meant() if (log := self.run.log_of(self._names[task])).exists()]
        return "\n".join(log.read_text(errors="replace") for log in logs) if logs else None

    def stderr(self) -> str | None:
        """Return the same as `stdout`."""
        return self.stdout()

    def resume(self, *, site: str = "", from_start: bool = False, **settings: Any) -> FunctionJob[R]:
        """Submit a new job with the function as its last checkpoint has left it; see `hpc_dl.Job.resume`."""
        return FunctionJob(handle.Job.resume(self, site=site, from_start=from_start, **settings).run)

    def get_info(self, mode: str = "force") -> dict[str, str]:  # noqa: ARG002 - submitit's signature
        """Return what is known of the job, by the names of ``sacct``."""
        now = self.query()
        return {
            "JobID": self.job_id,
            "State": now.state,
            "NodeList": now.nodelist,
            "Reason": now.reason,
            "ExitCode": "" if now.exit_code is None else str(now.exit_code),
        }


class FunctionPaths(JobPaths):
    """The files of a job with a function, by submitit's names.

    Args:
        run: its run folder.
        process: the process that is meant.
        task_id: its number.
    """

    def __init__(self, run: RunFolder, process: str, task_id: int | None) -> None:
        super().__init__(run.path, run.job_id, task_id)
        self._run = run
        self._process = process

    @property
    def folder(self) -> Path:
        """Return the run folder."""
        return self._run.path

    @property
    def submission_file(self) -> Path:
        """Return the job script."""
        return self._run.script

    @property
    def submitted_pickle(self) -> Path:
        """Return the pickle of the function and its arguments."""
        return FunctionFiles(self._run.path).submitted(self._run.attempt)

    @property
    def result_pickle(self) -> Path:
        """Return the pickle of the result, which is there once the function has ended."""
        return FunctionFiles(self._run.path).result(self._run.attempt, self._process)

    @property
    def stdout(self) -> Path:
        """Return the log."""
        return self._run.log_of(self._process)

    @property
    def stderr(self) -> Path:
        """Return the same log."""
        return self.stdout


def task_names(job: JobSpec) -> Iterator[str]:
    """Yield the names of the processes of a resolved job that run its function, the chief first."""
    if job.chief:
        yield "chief:0"
    for index in range(job.nodes * job.per_node):
        yield f"worker:{index}"


def is_function_job(run: RunFolder) -> bool:
    """Return whether the job of a run folder runs a function."""
    return FunctionFiles(run.path).folder.exists()
