"""Submission by sbatch: what it gets, what it says, and what becomes of a job that must not start."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_dl.errors import UserError
from hpc_dl.schedulers.protocol import StrayJobError
from hpc_dl.schedulers.slurm import sbatch
from tests.unit.fakes.processes import eventually
from tests.unit.fakes.slurm import FakeSlurm

SCRIPT = "#!/bin/bash\n#SBATCH --job-name='a b'\necho \"$1\" '\\' é %j\n\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "fake", monkeypatch)


def submit(script: str) -> str:
    return sbatch.submit_text(script, os.environ)


@contextlib.contextmanager
def held(folder: Path, script: str = SCRIPT) -> Iterator[str]:
    (folder / "job.sh").write_text(script)
    with sbatch.held(folder / "job.sh", os.environ) as job_id:
        yield job_id


@pytest.mark.parametrize(
    "said",
    ["4711", "4711;mini", "Submitted batch job 4711", "Submitted batch job 4711 on cluster m", "Hello 1\n4711"],
)
def test_the_job_id_is_read_whatever_stands_before_it(slurm: FakeSlurm, said: str) -> None:
    slurm.answer("sbatch", f"{said}\n")
    assert submit(SCRIPT) == "4711"


def test_sbatch_gets_our_script_held_and_unchanged(slurm: FakeSlurm) -> None:
    assert submit(SCRIPT) == "4711"
    assert slurm.script() == SCRIPT
    ((_, *options, script),) = slurm.calls("sbatch")
    assert options == ["--parsable", "--hold"]
    assert not Path(script).exists()


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
    submit(SCRIPT)
    seen = [slurm.environment("sbatch")]
    sbatch.test_only(SCRIPT, os.environ)
    seen.append(slurm.environment("sbatch"))
    for environment in seen:
        passed = {key for key in around if key in environment}
        assert passed == {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "OTHER"}
    assert dict(os.environ) == before


def test_a_refusal_is_one_error_in_sbatchs_words(slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["warning: hm", "error: invalid partition specified: x", "error: Batch job submission failed"]
    slurm.answer("sbatch", err="".join(f"sbatch: {line}\n" for line in words), code=1)
    with pytest.raises(UserError) as caught:
        submit(SCRIPT)
    assert str(caught.value) == ("sbatch refused the job: invalid partition specified: x; Batch job submission failed")
    assert capfd.readouterr().err == ""  # the words are not printed a second time


def test_an_answer_without_a_number_is_an_error_that_shows_it(slurm: FakeSlurm) -> None:
    slurm.answer("sbatch", "Hello\n")
    with pytest.raises(UserError, match="Hello"):
        submit(SCRIPT)


def test_without_slurm_there_is_one_error(slurm: FakeSlurm) -> None:
    slurm.remove("sbatch")
    with pytest.raises(UserError, match="no sbatch on PATH: there is no Slurm here"):
        submit(SCRIPT)


def test_a_dry_run_returns_what_slurm_says(slurm: FakeSlurm) -> None:
    slurm.answer("sbatch", err="sbatch: Job 5 to start at 2026-11-21T12:00:00\n")
    assert sbatch.test_only(SCRIPT, os.environ) == "Job 5 to start at 2026-11-21T12:00:00"
    slurm.answer("sbatch", err="allocation failure: too many\n", code=1)
    with pytest.raises(UserError, match="sbatch refused the job: allocation failure: too many"):
        sbatch.test_only(SCRIPT, os.environ)


def test_release_and_cancel_repeat_slurms_words(slurm: FakeSlurm) -> None:
    sbatch.release("7", os.environ)
    sbatch.cancel(["7", "8"], os.environ)
    assert slurm.calls() == [["scontrol", "release", "7"], ["scancel", "7", "8"]]
    slurm.answer("scontrol", err="Access denied\n", code=1)
    with pytest.raises(UserError, match="scontrol release 7: Access denied"):
        sbatch.release("7", os.environ)
    slurm.answer("scancel", code=1)
    with pytest.raises(UserError, match="scancel 7: exit code 1, and it said nothing"):
        sbatch.cancel(["7"], os.environ)


def test_the_first_cause_is_seen_where_cancelling_fails_too(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.answer("scontrol", err="Unable to contact slurm controller\n", code=1)
    slurm.answer("scancel", err="Invalid job id\n", code=1)
    with pytest.raises(StrayJobError) as caught, held(tmp_path):
        pass
    assert str(caught.value) == (
        "scontrol release 4711: Unable to contact slurm controller;"
        " job 4711 may still exist: scancel 4711: Invalid job id"
    )


_TOO_LATE = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"


def test_a_job_that_slurm_took_without_an_answer_is_found_and_cancelled(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.answer("sbatch", err=_TOO_LATE, code=1)
    slurm.answer("squeue", f"5|/another/job.sh\n6|{tmp_path}/job.sh\n")
    with (
        pytest.raises(UserError, match=r"Socket timed out .*; Slurm has taken the job all the same; job 6 was"),
        held(tmp_path),
    ):
        pass
    assert slurm.calls("scancel") == [["scancel", "6"]]
    slurm.answer("squeue", "5|/another/job.sh\n")
    with pytest.raises(UserError, match=r"Socket timed out .*; Slurm has no such job: try again"), held(tmp_path):
        pass
    slurm.answer("squeue", err="Unable to contact slurm controller\n", code=1)
    with pytest.raises(StrayJobError, match="Slurm may have taken the job all the same"), held(tmp_path):
        pass
    assert len(slurm.calls("scancel")) == 1


def test_ctrl_c_while_sbatch_answers_cancels_its_job(slurm: FakeSlurm, tmp_path: Path) -> None:
    wait = "while [ ! -e go ]; do /bin/sleep 0.05; done"
    (slurm.bin / "sbatch").write_text(f"#!/bin/sh\ncd '{tmp_path}'\n: > asked\n{wait}\necho 4711\n")

    def interrupt() -> None:
        eventually((tmp_path / "asked").exists)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        (tmp_path / "go").touch()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), held(tmp_path):
        pass
    thread.join()
    assert slurm.calls("scancel") == [["scancel", "4711"]]


def test_options_of_the_submitting_command_do_not_reach_the_job(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("HPC_DL_NODES", "HPC_DL_DRY_RUN", "HPC_DL_MAKE", "SBATCH_JOB_NAME", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(key, "1")
    monkeypatch.setenv("HPC_DL_CLUSTER_DIR", "/c")
    submit("#!/bin/sh\n")
    passed = {key for key in slurm.environment("sbatch") if key.startswith("HPC_DL_")}
    assert passed == {"HPC_DL_CLUSTER_DIR"}
    # What the script says and we rely on is not the environment's; the account is.
    assert {key for key in slurm.environment("sbatch") if key.startswith("SBATCH_")} == {"SBATCH_ACCOUNT"}


def test_a_users_own_sbatch_defaults_reach_sbatch_outside_a_job(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SBATCH_ACCOUNT", "project1")
    submit("#!/bin/sh\n")
    assert slurm.environment("sbatch")["SBATCH_ACCOUNT"] == "project1"


@pytest.mark.parametrize("other", ["", "cm3"])
def test_a_cluster_that_sbatch_alone_follows_is_refused(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("SBATCH_CLUSTERS", "cm2")
    monkeypatch.setenv("SLURM_CLUSTERS", other)
    message = "SBATCH_CLUSTERS=cm2 moves sbatch alone to another cluster; unset it and set clusters in the site file"
    with pytest.raises(UserError, match=message):
        submit(SCRIPT)
    with pytest.raises(UserError, match=message):
        sbatch.test_only(SCRIPT, os.environ)
    assert slurm.calls() == []
    monkeypatch.setenv("SLURM_CLUSTERS", "cm2")
    assert submit(SCRIPT) == "4711"
