"""A submitit executor that submits our rendered script in place of submitit's own.

submitit (1.5) has no public hook for that. Its underscore methods that we override or call are all in this module, and
tests/unit/schedulers/slurm/test_sbatch.py holds them to what we expect.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from hpc_dl.errors import UserError
from hpc_dl.processes import for_slurms_commands, inheritable
from hpc_dl.spec.site import OTHER_CLUSTER


class StrayJobError(UserError):
    """A job could be neither released nor cancelled: it may still start, and needs its run folder then."""


class ScriptExecutor(submitit.SlurmExecutor):
    """Submits one script as it is, held, so that its run folder can get its name before it starts.

    Args:
        folder: where submitit keeps its copy of the script for a moment; it takes a ``%`` in it for its own.
        script: the sbatch script.
    """

    def __init__(self, folder: Path, script: str) -> None:
        try:
            super().__init__(folder)
        except RuntimeError as error:
            raise UserError(str(error)) from None
        self._script = script

    def submit_script(self) -> str:
        """Submit the script, held, and return the job id.

        Raises:
            UserError: sbatch refused it; the message is sbatch's own.
        """
        said = io.StringIO()  # submitit prints sbatch's words, which our error repeats
        with _outside_any_job(), contextlib.redirect_stderr(said):
            try:
                return str(self._submit_command("").job_id)
            except (FailedJobError, FailedSubmissionError) as error:
                raise UserError(f"sbatch refused the job: {_sbatch_message(error)}") from None

    def _make_submission_file_text(self, command: str, uid: str) -> str:  # noqa: ARG002 - submitit's signature
        return self._script

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["sbatch", "--hold", str(submission_file_path)]


def submit(script: str) -> str:
    """Submit a script, held, and return the job id.

    Raises:
        UserError: there is no Slurm here, or sbatch refused the script.
    """
    with tempfile.TemporaryDirectory(prefix="hpc_dl-") as folder:
        return ScriptExecutor(Path(folder), script).submit_script()


@contextlib.contextmanager
def held(script: str) -> Iterator[str]:
    """Submit a script and yield the job id; the job may start when the block ends, and is cancelled if that fails.

    Raises:
        UserError: see `submit` and `release`; or the block raises it.
    """
    job_id = submit(script)
    try:
        yield job_id
        release(job_id)
    except UserError as error:
        raise _given_up(job_id, error) from None
    except BaseException:
        cancel(job_id)
        raise


def _given_up(job_id: str, cause: UserError) -> UserError:
    """Cancel a job that must not start; return the error that says why, and what became of it."""
    try:
        cancel(job_id)
    except UserError as error:
        return StrayJobError(f"{cause}; job {job_id} may still exist: {error}")
    return UserError(f"{cause}; job {job_id} was cancelled")


def test_only(script: Path) -> str:
    """Let Slurm check a script without submitting it, and return what it says (man sbatch, --test-only).

    Raises:
        UserError: Slurm would refuse it.
    """
    with _outside_any_job():
        done = subprocess.run(["sbatch", "--test-only", str(script)], capture_output=True, text=True, check=False)
    said = done.stderr.replace("sbatch: ", "").strip()
    if done.returncode:
        raise UserError(f"sbatch refused the job: {said}")
    return said


def release(job_id: str) -> None:
    """Let a held job start.

    Raises:
        UserError: Slurm did not.
    """
    done = subprocess.run(["scontrol", "release", job_id], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"scontrol release {job_id}: {done.stderr.strip()}")


def cancel(*job_ids: str, environ: Mapping[str, str] | None = None) -> None:
    """Cancel jobs; one that has ended already is left as it is.

    Args:
        job_ids: the jobs.
        environ: the environment of scancel; default: this process's.

    Raises:
        UserError: Slurm refused.
    """
    done = subprocess.run(
        ["scancel", *job_ids],
        env=for_slurms_commands(os.environ if environ is None else environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"scancel {' '.join(job_ids)}: {done.stderr.strip()}")


@contextlib.contextmanager
def _outside_any_job() -> Iterator[None]:
    """Hide what is of a job around us, or of our command: sbatch would take it as options, or pass it on.

    Raises:
        UserError: SBATCH_CLUSTERS moves sbatch alone to another cluster.
    """
    passed = inheritable(os.environ)
    cluster = passed.get("SBATCH_CLUSTERS")
    if cluster and cluster != passed.get("SLURM_CLUSTERS"):
        raise UserError(
            f"SBATCH_CLUSTERS={cluster} moves sbatch alone to another cluster; unset it and {OTHER_CLUSTER}"
        )
    hidden = {k: v for k, v in os.environ.items() if k not in passed}
    for key in hidden:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _sbatch_message(error: Exception) -> str:
    found = re.findall(r"^sbatch: error: (.*)", str(error), re.MULTILINE)
    return "; ".join(found) or str(error)
