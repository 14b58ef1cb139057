"""Submission through submitit: what we expect of its hooks, and of sbatch."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
from pathlib import Path

import pytest
import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from hpc_dl.errors import UserError
from hpc_dl.schedulers.slurm import sbatch
from tests.unit.fakes.slurm import FakeSlurm

SCRIPT = "#!/bin/bash\n#SBATCH --job-name='a b'\necho \"$1\" '\\' é %j\n\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "fake", monkeypatch)


def test_the_version_is_the_one_whose_hooks_we_know() -> None:
    assert importlib.metadata.version("submitit").startswith("1.5.")


@pytest.mark.parametrize(
    ("hook", "parameters"),
    [
        ("_make_submission_file_text", ["self", "command", "uid"]),
        ("_make_submission_command", ["self", "submission_file_path"]),
        ("_submit_command", ["self", "command"]),
    ],
)
def test_submitit_has_the_hooks_that_we_use(hook: str, parameters: list[str]) -> None:
    theirs = inspect.signature(getattr(submitit.SlurmExecutor, hook))
    assert list(theirs.parameters) == parameters
    assert inspect.signature(getattr(sbatch.ScriptExecutor, hook)).parameters.keys() == theirs.parameters.keys()


def test_submitit_reads_the_job_id_and_says_when_there_is_none() -> None:
    read = submitit.SlurmExecutor._get_job_id_from_submission_command
    assert read("Submitted batch job 4711 on cluster mini\n") == "4711"
    with pytest.raises(FailedSubmissionError):
        read("sbatch: what?")
    assert not issubclass(FailedSubmissionError, FailedJobError)  # both are caught


def test_sbatch_gets_our_script_held_and_unchanged(slurm: FakeSlurm) -> None:
    assert sbatch.submit(SCRIPT) == "4711"
    assert slurm.script() == SCRIPT
    ((_, *options, script),) = slurm.calls()
    assert options == ["--hold"]
    assert not Path(script).exists()  # submitit's copy is gone


def test_the_variables_of_a_job_around_us_do_not_reach_sbatch(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = {
        "SLURM_JOB_ID": "1",
        "SLURM_NNODES": "9",
        "SBATCH_PARTITION": "x",
        "SRUN_CPUS_PER_TASK": "3",
        "PMIX_RANK": "0",
        "PMI_FD": "3",
        "SLURM_CONF": "/conf",
        "SLURM_CONF_SERVER": "controller",
        "SLURM_CLUSTERS": "c",
        "OTHER": "kept",
    }
    for key, value in around.items():
        monkeypatch.setenv(key, value)
    before = dict(os.environ)
    sbatch.submit(SCRIPT)
    (slurm.folder / "test.sh").write_text(SCRIPT)
    seen = [slurm.environment("sbatch")]
    sbatch.test_only(slurm.folder / "test.sh")
    seen.append(slurm.environment("sbatch"))
    for environment in seen:
        passed = {key for key in around if key in environment}
        assert passed == {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "OTHER"}
    assert dict(os.environ) == before


def test_the_variables_come_back_after_a_refusal(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    slurm.answer("sbatch", err="sbatch: error: no\n", code=1)
    with pytest.raises(UserError):
        sbatch.submit(SCRIPT)
    assert os.environ["SLURM_JOB_ID"] == "1"


def test_a_refusal_is_one_error_in_sbatchs_words(slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["warning: hm", "error: invalid partition specified: x", "error: Batch job submission failed"]
    slurm.answer("sbatch", err="".join(f"sbatch: {line}\n" for line in words), code=1)
    with pytest.raises(UserError) as caught:
        sbatch.submit(SCRIPT)
    assert str(caught.value) == ("sbatch refused the job: invalid partition specified: x; Batch job submission failed")
    assert capfd.readouterr().err == ""  # the words are not printed a second time


def test_an_answer_without_a_number_is_an_error_that_shows_it(slurm: FakeSlurm) -> None:
    slurm.answer("sbatch", "Hello\n")
    with pytest.raises(UserError, match="Hello"):
        sbatch.submit(SCRIPT)


def test_without_slurm_there_is_one_error(slurm: FakeSlurm) -> None:
    for name in ("srun", "sbatch"):
        slurm.remove(name)
    with pytest.raises(UserError, match="srun"):
        sbatch.submit(SCRIPT)


def test_a_dry_run_returns_what_slurm_says(slurm: FakeSlurm, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(SCRIPT)
    slurm.answer("sbatch", err="sbatch: Job 5 to start at 2026-11-21T12:00:00\n")
    assert sbatch.test_only(tmp_path / "job.sh") == "Job 5 to start at 2026-11-21T12:00:00"
    slurm.answer("sbatch", err="allocation failure: too many\n", code=1)
    with pytest.raises(UserError, match="sbatch refused the job: allocation failure: too many"):
        sbatch.test_only(tmp_path / "job.sh")


def test_release_and_cancel_repeat_slurms_words(slurm: FakeSlurm) -> None:
    sbatch.release("7")
    sbatch.cancel("7")
    assert slurm.calls() == [["scontrol", "release", "7"], ["scancel", "7"]]
    for name, act in (("scontrol", sbatch.release), ("scancel", sbatch.cancel)):
        slurm.answer(name, err="Access denied\n", code=1)
        with pytest.raises(UserError, match=f"{name}.* 7: Access denied"):
            act("7")


def test_the_first_cause_is_seen_where_cancelling_fails_too(slurm: FakeSlurm) -> None:
    slurm.answer("scontrol", err="Unable to contact slurm controller\n", code=1)
    slurm.answer("scancel", err="Invalid job id\n", code=1)
    with pytest.raises(UserError) as caught, sbatch.held(SCRIPT):
        pass
    assert str(caught.value) == (
        "scontrol release 4711: Unable to contact slurm controller;"
        " job 4711 may still exist: scancel 4711: Invalid job id"
    )


def test_options_of_the_submitting_command_do_not_reach_the_job(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("HPC_DL_NODES", "HPC_DL_DRY_RUN", "HPC_DL_MAKE", "SBATCH_JOB_NAME", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(key, "1")
    monkeypatch.setenv("HPC_DL_CLUSTER_DIR", "/c")
    sbatch.submit("#!/bin/sh\n")
    passed = {key for key in slurm.environment("sbatch") if key.startswith("HPC_DL_")}
    assert passed == {"HPC_DL_CLUSTER_DIR"}
    # What the script says and we rely on is not the environment's; the account is.
    assert {key for key in slurm.environment("sbatch") if key.startswith("SBATCH_")} == {"SBATCH_ACCOUNT"}


def test_a_users_own_sbatch_defaults_reach_sbatch_outside_a_job(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SBATCH_ACCOUNT", "project1")
    sbatch.submit("#!/bin/sh\n")
    assert slurm.environment("sbatch")["SBATCH_ACCOUNT"] == "project1"


@pytest.mark.parametrize("other", ["", "cm3"])
def test_a_cluster_that_sbatch_alone_follows_is_refused(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SBATCH_CLUSTERS", "cm2")
    monkeypatch.setenv("SLURM_CLUSTERS", other)
    (slurm.folder / "test.sh").write_text(SCRIPT)
    message = "SBATCH_CLUSTERS=cm2 moves sbatch alone to another cluster; unset it and set SLURM_CLUSTERS"
    with pytest.raises(UserError, match=message):
        sbatch.submit(SCRIPT)
    with pytest.raises(UserError, match=message):
        sbatch.test_only(slurm.folder / "test.sh")
    assert slurm.calls() == []
    monkeypatch.setenv("SLURM_CLUSTERS", "cm2")
    assert sbatch.submit(SCRIPT) == "4711"
