"""Which site is chosen where none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.schedulers.slurm.sbatch_options import directives
from hpc_dl.spec.layers import Layer
from hpc_dl.submission.choose_site import choose_site, site_of_job
from tests.unit.fakes.slurm import FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Slurm's commands without a configuration, in a folder without sites."""
    for name in ("SLURM_CONF", "SLURM_CONF_SERVER", "HPC_DL_CLUSTER_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("hpc_dl.schedulers.slurm.which._USUAL_FOLDERS", ())
    monkeypatch.chdir(tmp_path)
    fake = FakeSlurm(tmp_path / "fake", monkeypatch)
    fake.answer("scontrol", err="scontrol: fatal: Could not establish a configuration source\n", code=1)
    return fake


def answers(slurm: FakeSlurm, cluster: str) -> None:
    slurm.answer("scontrol", f"Configuration data\nClusterName             = {cluster}\n")


def test_a_slurm_that_answers_needs_no_file_to_be_used(slurm: FakeSlurm) -> None:
    answers(slurm, "minotauro")
    assert choose_site()[0].name == "minotauro"


def test_a_slurm_without_configuration_that_does_not_answer_is_none(slurm: FakeSlurm) -> None:
    assert choose_site()[0].name == "local"


def test_without_sbatch_nothing_is_asked(slurm: FakeSlurm) -> None:
    answers(slurm, "minotauro")
    slurm.remove("sbatch")
    assert choose_site()[0].name == "local"
    assert slurm.calls() == []


@pytest.mark.parametrize("variable", ["SLURM_CONF", "SLURM_CONF_SERVER"])
def test_a_configured_slurm_that_does_not_answer_is_an_error(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "somewhere")
    with pytest.raises(UserError, match=r"Slurm is here .* and does not answer: try again; SITE=local"):
        choose_site()


SINFO = "c1|cpu*|idle|128|2|256000|(null)\ng1|gpu|idle|32|2|512000|gpu:a100:4\n"


def planned(**settings: str) -> Plan:
    layers = [Layer(settings, "keyword {key}")]
    site, path, _ = site_of_job("", None, layers)
    return make_plan(None, site, path, layers)


def test_without_a_site_file_the_jobs_partition_is_described(slurm: FakeSlurm) -> None:
    answers(slurm, "unknown")
    slurm.answer("sinfo", SINFO)
    plan = planned(partition="gpu")
    options = directives(plan.job, plan.site, plan.runs)
    assert (options["partition"], options["gres"], options["cpus-per-task"]) == ("gpu", "gpu:a100:4", 32)
    assert "--all" in slurm.calls("sinfo")[-1]
    assert planned().site.partition == "cpu"
    with pytest.raises(UserError, match=r"partition = 'gpus': Slurm has no 'gpus' \(did you mean 'gpu'\?\)"):
        planned(partition="gpus")


def test_what_a_site_file_says_holds_in_any_partition(slurm: FakeSlurm) -> None:
    answers(slurm, "minotauro")
    assert planned(partition="debug").site.partition == "projects"
    assert slurm.calls("sinfo") == []
