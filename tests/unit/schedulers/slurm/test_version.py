"""The version of Slurm, and what depends on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_dl.schedulers.slurm import version
from hpc_dl.schedulers.slurm.steps import srun_command
from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.messages import Order
from hpc_dl.tasks.node_agent.environment import Environment
from hpc_dl.tasks.pool import Share
from hpc_dl.templates import Renderer
from tests.unit.fakes.slurm import FakeSlurm


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    version.version.cache_clear()
    yield FakeSlurm(tmp_path / "fake", monkeypatch)
    version.version.cache_clear()


@pytest.mark.parametrize(
    ("said", "found"), [("slurm-wlm 22.05.8", (22, 5)), ("slurm 24.11.5", (24, 11)), ("", (99, 0)), ("no", (99, 0))]
)
def test_srun_is_asked_once(fake: FakeSlurm, said: str, found: version.Version) -> None:
    fake.answer("srun", said)
    assert [version.version(), version.version()] == [found, found]
    assert fake.calls() == [["srun", "--version"]]


def environment(folder: Path, order: Order) -> dict[str, str]:
    (folder / "hosts").mkdir()
    agents = {"SLURM_CPUS_ON_NODE": "3", "SLURM_MEM_PER_CPU": "4000", "PATH": "/usr/bin:/bin"}
    return {key.decode(): value.decode() for key, value in Environment(folder, agents, step=True).of(order).items()}


ORDER = Order(Task(7, "true"), 1, (Share("n1", (1, 2), ("2", "3")), Share("n2", (4, 5))))


def test_steps_that_share_nothing_but_cores_leave_memory_and_gpus_to_each_other(
    fake: FakeSlurm, tmp_path: Path
) -> None:
    fake.answer("srun", "slurm-wlm 21.08.8")
    assert "--mem=0" in srun_command("n1", 2, ["agent"])
    task = environment(tmp_path, ORDER)
    assert (task["SLURM_GRES"], task["SLURM_MEM_PER_NODE"]) == ("none", "0")
    assert "SLURM_MEM_PER_CPU" not in task  # srun takes one of them alone


@pytest.mark.parametrize("said", ["slurm-wlm 22.05.8", "slurm 24.11.5"])
def test_steps_that_share_all_ask_for_all(fake: FakeSlurm, tmp_path: Path, said: str) -> None:
    fake.answer("srun", said)
    assert "--mem=0" not in srun_command("n1", 2, ["agent"])
    task = environment(tmp_path, ORDER)
    assert "SLURM_GRES" not in task
    assert task["SLURM_MEM_PER_CPU"] == "4000"


def test_an_srun_that_refuses_nodes_beside_a_hostfile_is_called_by_ours(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.answer("srun", "slurm 23.11.3")
    assert environment(tmp_path, ORDER)["PATH"] == f"{tmp_path}/bin:/usr/bin:/bin"


def test_before_that_the_task_has_srun_itself(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.answer("srun", "slurm 23.02.7")
    assert environment(tmp_path, ORDER)["PATH"] == "/usr/bin:/bin"


@pytest.mark.parametrize(
    ("options", "called"),
    [
        (["-n2", "x"], "hosts , -n2 x"),
        (["--ntasks=2", "--nodelist=n2", "x", "a b"], "hosts , --ntasks=2 --nodelist=n2 x a b"),
        (["--overlap", "--nodes=1", "x"], " hosts, --nodelist=n1,n2 --overlap --nodes=1 x"),
        (["--nodes", "1", "x"], " hosts, --nodelist=n1,n2 --nodes 1 x"),
        (["-N1", "-w", "n2", "x"], " hosts, --nodelist=n1,n2 -N1 -w n2 x"),
    ],
)
def test_where_a_step_has_a_number_of_nodes_their_names_are_no_hostfile(
    tmp_path: Path, options: list[str], called: str
) -> None:
    ours, srun = tmp_path / "ours", tmp_path / "a b"
    srun.write_text('#!/bin/sh\necho "${SLURM_HOSTFILE-} ${HPC_DL_TASK_HOSTS-}, $*"\n')
    srun.chmod(0o755)
    ours.write_text(Renderer([]).render("srun.sh.j2", {"srun": str(srun)}))
    subprocess.run([Path(sys.executable).with_name("shellcheck"), ours], check=True)
    environ = {"SLURM_HOSTFILE": "hosts", "HPC_DL_TASK_NODELIST": "n1,n2"}
    done = subprocess.run(["/bin/sh", ours, *options], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == f"{called}\n"
