"""Containers: what is missing is told before submission."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site_files import load_site
from hpc_dl.submission.container_check import check_container_here


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "apptainer").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)


def plan(site: str, **job: Any) -> Plan:
    path = Path("site.toml")
    path.write_text(f"cores = 1\n{site}\n")
    return make_plan(None, load_site(path), path, [Layer(job, "--{key}")])


@pytest.mark.parametrize(
    "words",
    [
        ["apptainer", "exec", "--nv", "there.sif"],
        ["apptainer", "exec", "docker://image"],
        ["/only/on/nodes", "run", "image"],
        ["apptainer", "exec", "--bind", "/only/on/nodes", "there.sif"],
        ["apptainer", "exec", "-B/a:/b", "/a:/b"],
    ],
)
def test_what_is_there_or_not_ours_to_know_is_right(words: list[str]) -> None:
    Path("there.sif").touch()
    check_container_here(plan(f"container = {words}"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["podman", "run", "x"], "'podman' is not on PATH; where only the nodes have it, write its full path"),
        (["apptainer", "exec", "none.sif"], "no such image: {here}/none.sif"),
        (["apptainer", "exec", "./folder"], "no such image: {here}/folder"),
        (["apptainer", "exec", "/none/x.sqsh"], "no such image: /none/x.sqsh"),
    ],
)
def test_what_is_missing_is_told_with_file_and_line(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        check_container_here(plan(f"container = {words}"))
    assert str(raised.value) == f"site.toml, line 2: container = {words}: {said.format(here=tmp_path)}"


def test_the_place_is_that_of_the_job_where_the_job_says_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        check_container_here(plan("container = ['apptainer']", container=["apptainer", "exec", "none.sif"]))
    assert str(raised.value).startswith("--container: container = ")


def test_a_module_may_bring_the_runtime() -> None:
    check_container_here(plan("modules = ['podman']\ncontainer = ['podman', 'run', 'x']"))


def test_the_image_of_srun_options_must_be_there_if_it_is_a_file(tmp_path: Path) -> None:
    check_container_here(plan("container_srun = ['--container-image=registry#a/b:1', '--container-mounts=/a:/b']"))
    for option in ("--container-image=none.sqsh", "--environment=./none.sqsh"):
        with pytest.raises(UserError, match=f"line 2: container_srun = .*: no such image: {tmp_path}/"):
            check_container_here(plan(f"container_srun = ['{option}']"))


def test_srun_options_need_an_srun() -> None:
    with pytest.raises(UserError, match=r"line 2: container_srun = .*: jobs of site 'site' start without srun"):
        check_container_here(plan("container_srun = ['--container-image=x']\nscheduler = 'local'"))
    with pytest.raises(UserError, match="a job with ps_nodes can't start processes so; set container instead"):
        check_container_here(plan("container_srun = ['--container-image=x']", ps_nodes=1))
    site = "container_srun = ['--container-image=x']\nlauncher = 'mpirun'"
    with pytest.raises(UserError, match="mpirun starts the ranks of mode 'horovod'; set container instead"):
        check_container_here(plan(site, mode="horovod"))
    check_container_here(plan(site, mode="multiworker"))
