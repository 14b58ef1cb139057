"""A plan becomes a run folder and a job, or nothing at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

import hpc_dl
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site_files import load_site, site_file
from hpc_dl.submission.submit import check_plan, submit_plan
from tests.unit.fakes.processes import names
from tests.unit.fakes.slurm import FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "fake", monkeypatch)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "own.sh").write_text("#!/bin/sh\n")
    monkeypatch.chdir(tmp_path / "work")
    return fake


def plan() -> Plan:
    path = site_file("minotauro")
    return make_plan(None, load_site(path), path, [Layer({"script": "own.sh", "name": "one"}, "test")])


def left() -> list[str]:
    return names(Path("runs")) if Path("runs").exists() else []


def test_the_job_is_held_until_its_folder_has_its_name(slurm: FakeSlurm) -> None:
    run = submit_plan(plan())
    assert [call[:3] for call in slurm.calls()[1:]] == [
        ["sbatch", "--parsable", "--hold"],
        ["scontrol", "release", "4711"],
    ]
    assert (run.job_id, run.path) == ("4711", Path("runs/one-4711").absolute())
    assert left() == ["one-4711"]
    assert run.script.read_text() == slurm.script()
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700
    assert run.read_job().name == "one"


def test_a_refused_job_leaves_nothing(slurm: FakeSlurm) -> None:
    slurm.answer("sbatch", err="sbatch: error: no such account\n", code=1)
    with pytest.raises(hpc_dl.UserError, match="no such account"):
        submit_plan(plan())
    assert left() == []


@pytest.mark.parametrize(("said", "refused"), [("slurm-wlm 20.11.4", True), ("slurm 22.05.8", False), ("", False)])
def test_an_old_slurm_is_named_before_it_gets_a_job_with_nodes_for_parameter_servers(
    slurm: FakeSlurm, said: str, refused: bool
) -> None:
    slurm.answer("srun", f"{said}\n")
    path = site_file("minotauro")
    settings = {"script": "own.sh", "mode": "async", "ps_nodes": 1}
    job = make_plan(None, load_site(path), path, [Layer(settings, "test")])
    if not refused:
        check_plan(job)
        return
    with pytest.raises(hpc_dl.UserError, match=r"^ps_nodes = 1: Slurm 20\.11 starts no such job: leave out ps_nodes"):
        check_plan(job)
    with pytest.raises(hpc_dl.UserError, match=r"Slurm 20\.11"):
        submit_plan(job)
    assert (slurm.calls("sbatch"), left()) == ([], [])


def test_a_job_that_is_not_released_is_cancelled_and_leaves_nothing(slurm: FakeSlurm) -> None:
    slurm.answer("scontrol", err="Access denied\n", code=1)
    with pytest.raises(hpc_dl.UserError, match=r"scontrol release 4711: Access denied; job 4711 was cancelled"):
        submit_plan(plan())
    assert slurm.calls("scancel") == [["scancel", "4711"]]
    assert left() == []


def test_the_folder_of_a_job_that_may_still_start_stays(slurm: FakeSlurm) -> None:
    for name in ("scontrol", "scancel"):
        slurm.answer(name, err="Unable to contact slurm controller\n", code=1)
    with pytest.raises(hpc_dl.UserError, match=r"scontrol release 4711: Unable .*; job 4711 may still exist: scancel"):
        submit_plan(plan())
    assert left() == ["one-4711"]


def test_a_folder_of_another_job_with_this_number_stays(slurm: FakeSlurm) -> None:
    Path("runs/one-4711").mkdir(parents=True)
    Path("runs/one-4711/job.toml").write_text("old")
    said = r"runs/one-4711: .*not empty; choose another name, .*; job 4711 was cancelled"
    with pytest.raises(hpc_dl.UserError, match=said):
        submit_plan(plan())
    assert slurm.calls("scancel") == [["scancel", "4711"]]
    assert slurm.calls("scontrol") == []
    assert left() == ["one-4711"]
    assert Path("runs/one-4711/job.toml").read_text() == "old"


def test_ctrl_c_before_the_job_may_start_cancels_it(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(job_id: str, environ: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hpc_dl.schedulers.slurm.sbatch.release", interrupted)
    with pytest.raises(KeyboardInterrupt):
        submit_plan(plan())
    assert slurm.calls("scancel") == [["scancel", "4711"]]
    assert left() == []


@pytest.mark.parametrize("code", [0, 1])
def test_a_dry_run_leaves_nothing(slurm: FakeSlurm, code: int) -> None:
    slurm.answer("sbatch", err="sbatch: Job 3 to start\n", code=code)
    if code:
        with pytest.raises(hpc_dl.UserError, match="Job 3 to start"):
            check_plan(plan())
    else:
        assert check_plan(plan()) == "Job 3 to start"
    assert [call[0] for call in slurm.calls()] == ["sinfo", "sbatch"]
    assert slurm.calls("sbatch")[0][1] == "--test-only"
    assert left() == []


def test_a_runs_folder_that_is_no_folder_is_an_error(slurm: FakeSlurm) -> None:
    Path("runs").write_text("")
    with pytest.raises(OSError, match="runs"):
        submit_plan(plan())
    assert slurm.calls("sbatch") == []


def test_more_nodes_than_there_are_is_one_sentence_before_anything_else(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_dl.data.is_there", lambda *_: False)
    path = site_file("minotauro")
    many = make_plan(None, load_site(path), path, [Layer({"nodes": 4, "data": "cifar10"}, "test")])
    slurm.answer("sinfo", "".join(f"nvb{i}|projects*|idle|16|2|128000|gpu:k80:4\n" for i in (1, 2)))
    for act in (submit_plan, check_plan):
        with pytest.raises(hpc_dl.UserError, match=r"^nodes = 4: of 2 nodes in partition 'projects' 2 have 16 cores"):
            act(many)
    assert slurm.calls("sbatch") == []
    assert left() == []


def test_a_submission_changes_nothing_of_the_process(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # sbatch must not see it
    changes: list[object] = []
    monkeypatch.setattr(os, "umask", changes.append)
    monkeypatch.setattr(os, "environ", _Watched(os.environ, changes))
    run = submit_plan(plan())
    assert changes == []
    assert "SLURM_JOB_ID" not in slurm.environment("sbatch")
    for path in (run.path, *run.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


class _Watched(dict[str, str]):
    """An environment that notes its changes."""

    def __init__(self, environ: Mapping[str, str], changes: list[object]) -> None:
        super().__init__(environ)
        self._changes = changes

    def __setitem__(self, key: str, value: str) -> None:
        self._changes.append(key)

    def __delitem__(self, key: str) -> None:
        self._changes.append(key)


SINFO = "nvb1|projects*|idle|16|2|128000|gpu:k80:4\nnvb1|debug|idle|16|2|128000|gpu:k80:4\n"


def test_a_table_of_no_partition_is_an_error_before_submission(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config" / "hpc_dl" / "sites" / "minotauro.toml"
    own.parent.mkdir(parents=True)
    own.write_text("[partitions.'deb*']\ncores = 8\n\n[partitions.projcets]\ncores = 4\n")
    slurm.answer("sinfo", SINFO)
    said = rf"^{own}, line 4: \[partitions.projcets\]: Slurm has no such partition \(did you mean 'projects'\?\)$"
    for send in (submit_plan, check_plan):
        with pytest.raises(hpc_dl.UserError, match=said):
            send(plan())
    assert left() == []
    slurm.answer("sinfo", err="Unable to contact slurm controller\n", code=1)
    submit_plan(plan())  # nobody can say that it is wrong
    slurm.answer("sinfo", SINFO.replace("debug", "projcets") + SINFO)
    check_plan(plan())


def test_a_shipped_table_of_no_partition_stops_no_job(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "share" / "env" / "sites").mkdir(parents=True)
    (tmp_path / "share" / "env" / "sites" / "minotauro.toml").write_text(
        "cores = 16\npartition = 'projects'\n[partitions.gone]\ncores = 8\n"
    )
    monkeypatch.setattr("hpc_dl.spec.site_files.share", lambda: tmp_path / "share")
    slurm.answer("sinfo", SINFO)
    check_plan(plan())
