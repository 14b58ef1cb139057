"""Which site is chosen where none is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpc_dl.cli.main import main
from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.schedulers.slurm.sbatch_options import directives
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site_files import load_site
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


def test_that_this_machine_is_the_site_is_said_where_nobody_asked_for_it(slurm: FakeSlurm) -> None:
    (note,) = choose_site().notes
    assert note.startswith("no Slurm answers here (SLURM_CONF is not set, and no private cluster runs in this folder)")
    assert choose_site("local").notes == ()


def test_two_site_files_of_one_cluster_are_said(slurm: FakeSlurm, tmp_path: Path) -> None:
    answers(slurm, "minotauro")
    other = tmp_path / "config" / "hpc_dl" / "sites" / "zz.toml"
    other.parent.mkdir(parents=True)
    other.write_text("cluster = 'minotauro'\ncores = 4\n")
    site, path, (note,) = choose_site()
    assert (site.name, path) == ("zz", other)
    assert note.startswith(f"{other} is used; cluster = 'minotauro' stands in ")
    assert "minotauro.toml" in note


def user_site(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / "config" / "hpc_dl" / "sites" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_users_few_lines_are_chosen_by_the_shipped_files_cluster(slurm: FakeSlurm, tmp_path: Path) -> None:
    answers(slurm, "minotauro")
    path = user_site(tmp_path, "minotauro", "slurm = { account = 'abc' }\n")
    site, chosen, notes = choose_site()
    assert (site.slurm, site.gpus, chosen, notes) == ({"account": "abc"}, 4, path, ())


def test_a_site_that_builds_on_another_of_the_same_cluster_is_chosen_without_a_note(
    slurm: FakeSlurm, tmp_path: Path
) -> None:
    answers(slurm, "minotauro")
    path = user_site(tmp_path, "mine", "base = 'minotauro'\n")
    assert (choose_site()[0].name, choose_site().path, choose_site().notes) == ("mine", path, ())


def test_a_site_is_chosen_by_the_name_of_a_login_node(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.uname", lambda: os.uname_result(("Linux", "login3.vista.example.org", "6", "#1", "x86_64")))
    user_site(tmp_path, "frontera", "login_nodes = ['login*.frontera.example.org']\ncores = 1\n")
    assert choose_site()[0].name == "local"
    user_site(tmp_path, "vista", "login_nodes = ['x', 'login[1-4].vista.*']\ncores = 1\n")
    assert choose_site()[0].name == "vista", "no Slurm answers: its commands may come with a module"
    answers(slurm, "tacc-7")
    assert choose_site()[0].name == "vista", "no site has this ClusterName"
    answers(slurm, "minotauro")
    assert choose_site()[0].name == "minotauro", "Slurm's own word counts more"


def test_a_pattern_that_is_no_text_is_told_when_its_site_is_used(slurm: FakeSlurm, tmp_path: Path) -> None:
    path = user_site(tmp_path, "odd", "cores = 1\nlogin_nodes = [3]\n")
    assert choose_site()[0].name == "local"
    with pytest.raises(UserError, match=rf"{path}, line 2: login_nodes = \[3\]: expected str, got int"):
        choose_site("odd")


def test_a_file_of_the_clusters_name_that_stands_on_nothing_is_an_error_and_not_passed_over(
    slurm: FakeSlurm, tmp_path: Path
) -> None:
    answers(slurm, "minotauro")
    path = user_site(tmp_path, "mine", "base = 'minotaur'\n")
    with pytest.raises(UserError, match=rf"{path}, line 1: base = 'minotaur': unknown site"):
        choose_site()
    assert choose_site("minotauro")[0].name == "minotauro"


def test_sinfos_own_words_are_the_error(slurm: FakeSlurm) -> None:
    answers(slurm, "unknown")
    said = "slurm_load_partitions: Unable to contact slurm controller (connect failure)"
    slurm.answer("sinfo", err=f"{said}\n", code=1)
    with pytest.raises(UserError, match=r"^sinfo: slurm_load_partitions: Unable to contact slurm controller"):
        choose_site()


@pytest.fixture
def private(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """A private cluster with nodes of 8 cores and a GPU runs in this folder."""
    environ = {**os.environ, "SLURM_CONF": "/private/slurm.conf"}
    monkeypatch.setattr("hpc_dl.minicluster.running", lambda: Path("/private/slurm.conf"))
    monkeypatch.setattr("hpc_dl.schedulers.slurm.which.private_environ", lambda: environ)
    slurm.answer("sinfo", "mini1|main*|idle|8|1|1000|gpu:k80:1\nmini2|main*|idle|8|1|1000|gpu:k80:1\n")
    slurm.answer("scontrol", "KillWait                = 7 sec\n")
    return slurm


@pytest.mark.parametrize("name", ["", "minicluster"])
def test_the_private_cluster_is_described_each_time_and_leaves_the_environment(private: FakeSlurm, name: str) -> None:
    before = dict(os.environ)
    for _ in range(2):
        site = choose_site(name).site
        assert (site.name, site.nodes, site.cores, site.gpus) == ("minicluster", "mini[1-2]", 8, 1)
    assert dict(os.environ) == before
    assert private.environment("sinfo")["SLURM_CONF"] == "/private/slurm.conf"


def test_a_described_site_is_a_file_with_a_comment_on_each_key(
    private: FakeSlurm, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sites", "--describe"])
    text = capfd.readouterr().out
    assert ended.value.code == 0
    assert "# cores of a node, as sbatch counts them in --cpus-per-task\ncores = 8\n" in text
    assert "# seconds between SIGTERM and SIGKILL\ngrace = 7\n" in text
    assert "\nfake_gpus = true\n" in text  # those of the private cluster need not exist
    assert "# further sbatch options\n# slurm = {}\n" in text
    assert "name =" not in text
    file = tmp_path / "my.toml"
    file.write_text(text)
    site = load_site(file)
    assert (site.name, site.cluster, site.nodes, site.gpus, site.grace) == ("my", "minicluster", "mini[1-2]", 1, 7)
    keys = [line.removeprefix("# ") for line in text.splitlines() if " = " in line and "…" not in line]
    file.write_text("\n".join(keys))
    assert load_site(file) == site, "what is commented out is the default"


def test_a_site_file_that_is_not_valid_hides_no_other(slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]) -> None:
    Path("env/sites").mkdir(parents=True)
    Path("env/sites/empty.toml").touch()
    with pytest.raises(SystemExit) as ended:
        main(["sites"])
    assert ended.value.code == 0
    said = capfd.readouterr().out
    assert "empty          not valid: " in said
    assert "* local " in said
    assert "minotauro" in said
