"""Submits, checks and cancels jobs. Jobs are submitted held, so that run folders have their names before jobs start."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.schedulers.protocol import PATIENCE, StrayJobError
from hpc_dl.schedulers.slurm.commands import TOO_LATE, Answer, ask, insist
from hpc_dl.schedulers.slurm.environment import for_sbatch
from hpc_dl.spec.site_checks import OTHER_CLUSTER

_PATIENCE = 120.0  # timeout of sbatch in seconds
# A wrapper for sbatch may say more, or leave out our --parsable.
_JOB_ID = re.compile(r"^(?:Submitted batch job )?(\d+)(?:;\S*| on cluster \S+)?\s*$", re.MULTILINE)
# Errors of sbatch after which slurmctld may have accepted the job nevertheless.
_UNSURE = re.compile(r"timed out|Zero Bytes", re.IGNORECASE)


@contextlib.contextmanager
def held(script: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """Submit a script and yield the job id; the job may start when the block ends, and is cancelled if that fails.

    Args:
        script: its file; no other job may have been submitted from a file of this name.
        environ: the environment of Slurm's commands. The job inherits it, without variables of a job around us.

    Raises:
        UserError: sbatch refused the script, Slurm did not let it start, or the block raised it.
        StrayJobError: the same, but the job may still exist.
    """
    job_id = _submit(script, environ)
    try:
        yield job_id
        release(job_id, environ)
    except UserError as error:
        raise _given_up(job_id, environ, error) from None
    except BaseException:
        cancel([job_id], environ)
        raise


def submit_text(text: str, environ: Mapping[str, str]) -> str:
    """Submit a script that has no file and return the job id.

    Raises:
        UserError: see `held`.
    """
    with _file(text) as script, held(script, environ) as job_id:
        return job_id


def _submit(script: Path, environ: Mapping[str, str]) -> str:
    answer = _sbatch(["--parsable", "--hold", str(script)], script.read_text(), environ, script)
    if answer.code == TOO_LATE or (answer.code and _UNSURE.search(answer.error)):
        raise _unsure(script, environ, _words(answer.error))
    if answer.code:
        raise _refused(answer)
    if not (found := _JOB_ID.findall(answer.out)):
        raise UserError(f"sbatch named no job; it said: {(answer.out + answer.error).strip() or 'nothing'}")
    return str(found[-1])


def _sbatch(options: list[str], text: str, environ: Mapping[str, str], script: Path | None = None) -> Answer:
    """Run sbatch; if we are interrupted meanwhile, cancel the job of the script that it may have submitted.

    Raises:
        UserError: there is no sbatch, or SBATCH_CLUSTERS moves sbatch alone to another cluster.
    """
    passed = for_sbatch(environ, text)
    cluster = passed.get("SBATCH_CLUSTERS")
    if cluster and cluster != passed.get("SLURM_CLUSTERS"):
        raise UserError(
            f"SBATCH_CLUSTERS={cluster} moves sbatch alone to another cluster; unset it and {OTHER_CLUSTER}"
        )
    pipe = subprocess.PIPE
    # Popen returns after sbatch has begun, maybe late: an interrupt in between would leave a job that nobody knows.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        # In a session of its own: Ctrl-C must not end an sbatch that has just asked for a job.
        process = subprocess.Popen(
            ["sbatch", *options],
            env=passed,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as failure:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if not isinstance(failure, FileNotFoundError):
            raise
        raise UserError("no sbatch on PATH: there is no Slurm here; SITE=local runs on this machine") from None
    with process:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            out, error = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            return Answer(TOO_LATE, error=f"no answer within {_PATIENCE:g} s")
        except BaseException:
            if script:
                _take_back(process, script, environ)
            raise
    return Answer(process.returncode, out, error)


def _take_back(process: subprocess.Popen[str], script: Path, environ: Mapping[str, str]) -> None:
    """Wait for sbatch's answer, and cancel the job that it names."""
    with contextlib.suppress(UserError, subprocess.TimeoutExpired):
        out, _ = process.communicate(timeout=PATIENCE)
        if found := _JOB_ID.findall(out) or _jobs_of(script, environ):
            cancel(found, environ)
    process.kill()


def _unsure(script: Path, environ: Mapping[str, str], said: str) -> UserError:
    """Cancel the job of a script that sbatch did not answer for, if there is one; return the error that says so."""
    found = _jobs_of(script, environ)
    if found is None:
        return StrayJobError(
            f"sbatch: {said}; Slurm may have taken the job all the same, and does not tell now: look for a held job"
            f" with `squeue --me` later, and end it with scancel; its files stay in {script.parent}"
        )
    if not found:
        return UserError(f"sbatch: {said}; Slurm has no such job: try again")
    cause = UserError(f"sbatch: {said}; Slurm has taken the job all the same")
    return _given_up(found[0], environ, cause)


def _jobs_of(script: Path, environ: Mapping[str, str]) -> list[str] | None:
    """Return the waiting jobs that were submitted from a file; None if Slurm does not answer."""
    me = f"--user={os.getuid()}"
    answer = ask(environ, "squeue", "--noheader", me, "--states=PENDING", "--format=%i|%o")
    if answer.code:
        return None
    rows = (line.strip().split("|", 1) for line in answer.out.splitlines() if "|" in line)
    return [job_id for job_id, command in rows if command == str(script)]


def _given_up(job_id: str, environ: Mapping[str, str], cause: UserError) -> UserError:
    """Cancel a job that must not start; return the error that says why, and what became of it."""
    try:
        cancel([job_id], environ)
    except UserError as error:
        return StrayJobError(f"{cause}; job {job_id} may still exist: {error}")
    return UserError(f"{cause}; job {job_id} was cancelled")


def test_only(text: str, environ: Mapping[str, str]) -> str:
    """Let Slurm check a script without submitting it, and return what it says (man sbatch, --test-only).

    Raises:
        UserError: Slurm would refuse it, or does not answer.
    """
    with _file(text) as script:
        answer = _sbatch(["--test-only", str(script)], text, environ)
    if answer.code:
        raise _refused(answer)
    return answer.error.replace("sbatch: ", "").strip()


def release(job_id: str, environ: Mapping[str, str]) -> None:
    """Let a held job start.

    Raises:
        UserError: Slurm did not release it.
    """
    insist(environ, "scontrol", "release", job_id)


def cancel(job_ids: list[str], environ: Mapping[str, str]) -> None:
    """Cancel jobs; one that has ended already is left as it is.

    Raises:
        UserError: Slurm refused.
    """
    insist(environ, "scancel", *job_ids)


@contextlib.contextmanager
def _file(text: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hpc_dl-") as folder:
        path = Path(folder, "job.sh")
        path.write_text(text)
        yield path


def _refused(answer: Answer) -> UserError:
    return UserError(f"sbatch refused the job: {_words(answer.error)}")


def _words(said: str) -> str:
    found = re.findall(r"^sbatch: error: (.*)", said, re.MULTILINE)
    return "; ".join(found) or said.replace("sbatch: ", "").strip()
