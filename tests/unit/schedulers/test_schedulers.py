"""All schedulers are behind one protocol; a new folder is a new scheduler."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import hpc_dl
from hpc_dl import schedulers
from hpc_dl.planning.plan import make_plan
from hpc_dl.runfolder.folder import RunFolder, to_toml
from hpc_dl.schedulers import scheduler_of, scheduler_of_run
from hpc_dl.schedulers.protocol import Scheduler
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import load_site
from tests.unit.fakes.slurm import FakeSlurm

_PBS = """
from hpc_dl.schedulers.local.scheduler import Local

class Pbs(Local):
    template = "sbatch.sh.j2"
    one_machine = False

    def directives(self, job, site, runs, array=""):
        return {"job-name": "of-pbs"}

def scheduler(wanted):
    return Pbs()
"""


@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_each_scheduler_has_what_the_protocol_says(kind: str) -> None:
    found = scheduler_of(Site(cores=1, scheduler=kind))
    for name, member in vars(Scheduler).items():
        if name.startswith("_"):
            continue
        assert hasattr(found, name)
        if inspect.isfunction(member):
            theirs = inspect.signature(getattr(type(found), name)).parameters
            assert theirs == inspect.signature(member).parameters, name


def test_a_new_folder_is_a_new_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pbs").mkdir()
    (tmp_path / "pbs" / "__init__.py").touch()
    (tmp_path / "pbs" / "scheduler.py").write_text(_PBS)
    file = tmp_path / "mine.toml"
    file.write_text("cores = 1\nscheduler = 'pbs'\n")
    with pytest.raises(hpc_dl.UserError, match="'pbs': not a known scheduler; allowed: 'local', 'slurm'"):
        load_site(file)
    monkeypatch.setattr(schedulers, "__path__", [*schedulers.__path__, str(tmp_path)])
    monkeypatch.setattr(schedulers.__spec__, "submodule_search_locations", schedulers.__path__)
    site = load_site(file)
    assert "#SBATCH --job-name=of-pbs" in make_plan(None, site, file).script()
    run = RunFolder.create(tmp_path / "job-1")
    run.site_file.write_text(to_toml(site))
    assert type(scheduler_of_run(run)).__name__ == "Pbs"


def test_slurms_commands_are_run_by_its_scheduler_alone() -> None:
    package = Path(hpc_dl.__file__).parent
    commands = {"sbatch", "squeue", "sacct", "sinfo", "scontrol", "scancel"}
    own = {package / "schedulers" / "slurm", package / "minicluster"}  # which starts and watches a Slurm of its own
    for path in package.rglob("*.py"):
        if own.isdisjoint(path.parents):
            words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not words & commands, path


def test_all_commands_of_slurm_ask_the_cluster_of_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = FakeSlurm(tmp_path / "slurm", monkeypatch)
    monkeypatch.delenv("SLURM_CONF", raising=False)
    monkeypatch.setenv("SLURM_CLUSTERS", "other")
    site = Site(name="my", cores=1, clusters="htc", slurm_conf="/etc/slurm/slurm.conf_2")
    slurm.answer("sbatch", "4711;htc\n")
    run = RunFolder.create(tmp_path / "new")
    run.site_file.write_text(to_toml(site))
    run.script.write_text("#!/bin/sh\n")
    scheduler_of(site).submit(run, "job")
    assert run.path.name == "job-4711"
    of_run = scheduler_of_run(run)
    assert of_run == scheduler_of(site)
    of_run.states([run], 5)
    of_run.cancel([run])
    of_run.nodes()
    for command in ("sbatch", "scontrol", "squeue", "sacct", "scancel", "sinfo"):
        environ = slurm.environment(command)
        assert (environ["SLURM_CLUSTERS"], environ["SLURM_CONF"]) == ("htc", "/etc/slurm/slurm.conf_2"), command
    assert scheduler_of(Site(name="my", cores=1)) != of_run
