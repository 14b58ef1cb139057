"""A submitit executor that submits our rendered script in place of submitit's own.

submitit (1.5) has no public hook for that. Its underscore methods that we override or call are all in this module, and
tests/unit/test_executor.py holds them to what we expect.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from hpc_dl.errors import UserError

# Set inside jobs; sbatch would take them as options of the new job.
_INHERITED = ("SLURM_", "SBATCH_", "SRUN_", "PMI_", "PMIX_")
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")


class ScriptExecutor(submitit.SlurmExecutor):
    """Submits one script as it is, held, so that its run folder can get its name before it starts.

    Args:
        folder: where submitit keeps its copy of the script.
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
        self.folder.mkdir(parents=True)
        with _outside_any_job():
            try:
                return str(self._submit_command("").job_id)
            except (FailedJobError, FailedSubmissionError) as error:
                raise UserError(f"sbatch refused the job: {_sbatch_message(error)}") from None

    def _make_submission_file_text(self, command: str, uid: str) -> str:  # noqa: ARG002 - submitit's signature
        return self._script

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["sbatch", "--hold", str(submission_file_path)]


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
        UserError: Slurm did not; the job is cancelled then.
    """
    done = subprocess.run(["scontrol", "release", job_id], capture_output=True, text=True, check=False)
    if done.returncode:
        cancel(job_id)
        raise UserError(f"scontrol release {job_id}: {done.stderr.strip()}; the job was cancelled")


def cancel(job_id: str) -> None:
    """Cancel a job; one that has ended already is left as it is.

    Raises:
        UserError: Slurm refused.
    """
    done = subprocess.run(["scancel", job_id], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"scancel {job_id}: {done.stderr.strip()}")


@contextmanager
def _outside_any_job() -> Iterator[None]:
    """Hide the variables of a job around us, which sbatch would pass on to the new one."""
    hidden = {k: v for k, v in os.environ.items() if k.startswith(_INHERITED) and k not in _KEPT}
    for key in hidden:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _sbatch_message(error: Exception) -> str:
    lines = [line.replace("sbatch: ", "").strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line.startswith("error:")) or str(error)
