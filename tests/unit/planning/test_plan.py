"""Plans: what is asked for, on a site, before there is a job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import hpc_dl
from hpc_dl.errors import UserError
from hpc_dl.planning import preview
from hpc_dl.planning.place import first_port, placed, resolve
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.planning.task_file import command
from hpc_dl.processes import python_module
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.placement import NodeFacts
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import load_site, site_file
from hpc_dl.spec.training import TrainSettings
from hpc_dl.train.options import parse

K80 = Site(name="k80", cores=16, gpus=4, gpu_type="k80", partition="projects")


def plan(nodelist: str = "", site: str = "minotauro", job: str | None = "train", **settings: Any) -> Plan:
    path = site_file(site)
    return make_plan(job, load_site(path), path, [Layer(settings, "keyword {key}")], nodelist)


@pytest.mark.parametrize(("script", "again"), [("", 3), ("own.py", 0)])
def test_the_built_in_program_starts_again_a_script_of_the_users_own_does_not(script: str, again: int) -> None:
    job = resolve(JobSpec(script=script), K80)
    assert (job.restarts, job.requeues) == (again, again)
    job = resolve(JobSpec(script=script, restarts=1, requeues=9), K80)
    assert (job.restarts, job.requeues) == (1, 9)


def test_a_node_list_sets_the_number_of_nodes_unless_it_is_given() -> None:
    assert plan("nvb[16,19,25]").job.nodes == 3
    assert [*plan("nvb[19,16]").placement("nvb[19,16]").nodes] == ["nvb19", "nvb16"]
    with pytest.raises(UserError, match=r"node list 'nvb\[1-3\]': has 3 nodes, the job wants 2"):
        plan("nvb[1-3]", nodes=2).placement("nvb[1-3]")


def test_without_a_node_list_the_sites_first_nodes_are_assumed() -> None:
    assert plan(nodes=2).placement().nodes == ("nvb1", "nvb2")


def test_slurm_alone_says_how_many_nodes_there_are() -> None:
    site = msgspec.structs.replace(K80, nodes="node[2-3]")
    names = make_plan(None, site, Path("k80.toml"), [Layer({"nodes": 4}, "test")]).placement().nodes
    assert names == ("node2", "node3", "node1", "node4")
    with pytest.raises(UserError, match="more than 100000 nodes"):
        make_plan(None, site, Path("k80.toml"), [Layer({"nodes": 10**9}, "test")]).placement()
    with pytest.raises(UserError, match=r"nodes = 65: site 'local' has 64 \(node\[1-64\]\)"):
        plan(site="local", nodes=65).placement()


def test_the_built_in_program_gets_every_setting() -> None:
    job = plan(steps=7, lr_boundaries=[10, 20], args=["--x", "y"]).job
    words = command(job, K80, "/run")
    assert words[:4] == [*python_module(sys.executable), "hpc_dl.train"]
    assert words[-2:] == ["--x", "y"]
    given_options = dict(word.removeprefix("--").split("=", 1) for word in words[4:-2])
    assert given_options.items() >= {"steps": "7", "lr-boundaries": "10,20", "run-dir": "/run", "mode": "async"}.items()


@pytest.mark.parametrize(
    ("steps", "given", "boundaries"),
    [(600, None, (450,)), (1, None, (1,)), (600, [], ()), (600, [100, 500], (100, 500))],
)
def test_the_last_quarter_of_a_job_has_a_lower_learning_rate(
    steps: int, given: list[int] | None, boundaries: tuple[int, ...]
) -> None:
    own: dict[str, Any] = {} if given is None else {"lr_boundaries": given}
    one = plan(steps=steps, **own)
    assert one.job.lr_boundaries == boundaries
    assert f"--lr-boundaries={','.join(map(str, boundaries))}" in command(one.job, K80, "/run")
    # A job that goes on with other steps has other boundaries.
    assert one.asked.lr_boundaries == (None if given is None else boundaries)


@pytest.mark.parametrize(("mode", "rate"), [("async", 0.01), ("mixed", 0.01), ("sync", 0.05), ("multiworker", 0.05)])
def test_late_gradients_have_a_lower_learning_rate(mode: str, rate: float) -> None:
    assert plan(mode=mode).job.learning_rate == rate


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("async", {"staleness": 0, "compression": "1bit"}),
        ("mixed", {"towers": 2, "n_fetch": 3, "n_push": 4}),
        ("sync", {"backup_workers": 1, "compression": "fp16"}),
        ("single", {"towers": 2}),
    ],
)
def test_what_only_some_modes_have_reaches_the_built_in_program(mode: str, settings: dict[str, Any]) -> None:
    job = plan(mode=mode, gpus=2, **settings).job
    found = parse(command(job, K80, "/run")[4:])
    keys = TrainSettings.__struct_fields__
    assert {key: getattr(found, key) for key in keys} == {key: getattr(job, key) for key in keys}
    assert {key: getattr(found, key) for key in settings} == settings


@pytest.mark.parametrize(("name", "interpreter"), [("train.py", ["/opt/python"]), ("train.sh", [])])
def test_a_script_of_ones_own_runs_as_it_is(tmp_path: Path, name: str, interpreter: list[str]) -> None:
    (tmp_path / name).touch()
    job = plan(job=None, script=str(tmp_path / name), args=["a"]).job
    site = msgspec.structs.replace(K80, python="/opt/python")
    assert command(job, site, "/run") == [*interpreter, str(tmp_path / name), "a"]


def test_the_separator_is_no_argument(tmp_path: Path) -> None:
    (tmp_path / "train.sh").touch()
    one = plan(job=None, script=str(tmp_path / "train.sh"), args=[":::", "::::"], nodes=1)
    assert " --separator ::::: ::::: ps:0 " in one.task_file(one.placement(), "/run")


def test_the_real_placement_follows_slurms_list_and_what_the_nodes_told() -> None:
    job = resolve(JobSpec(nodes=2, gpus=1), K80)
    facts = {name: NodeFacts(name, (gpu,)) for name, gpu in (("n1", "3"), ("n2", "0"))}
    placement = placed(job, K80, facts, "n[1-2]", "12")
    assert [(p.name, p.node, p.visible_gpus) for p in placement.processes] == [
        ("ps:0", "n1", ""),
        ("worker:0", "n1", "3"),
        ("worker:1", "n2", "0"),
    ]
    assert placement.processes[0].port == K80.ports[0] + first_port("12")
    with pytest.raises(UserError, match="node n3: told nothing about itself; 2 of 3 nodes did"):
        placed(job, K80, facts, "n[1-3]", "12")


@pytest.mark.parametrize("job_id", ["7", "L7", "7_3", "", "99999999"])
def test_jobs_in_a_row_start_at_different_ports(job_id: str) -> None:
    assert first_port(job_id) >= 0
    assert first_port("8") - first_port("7") >= 64


def test_the_first_local_jobs_of_two_folders_do_not_start_at_one_port() -> None:
    assert first_port("L1", "/a/runs") != first_port("L1", "/b/runs")


def test_a_preview_shows_what_a_process_gets() -> None:
    one = plan(nodes=1, gpus=2)
    placement = one.placement()
    assert preview.process_text(one, placement, "worker:1").split("\n") == [
        "node nvb1",
        "RANK=1",
        "WORLD_SIZE=2",
        "LOCAL_RANK=1",
        "LOCAL_WORLD_SIZE=2",
        "NODE_RANK=0",
        "MASTER_ADDR=nvb1-ib0",
        "MASTER_PORT=2221",
        "JAX_PROCESS_ID=1",
        "JAX_NUM_PROCESSES=2",
        "JAX_COORDINATOR_ADDRESS=nvb1-ib0:2221",
        "JAX_LOCAL_DEVICE_IDS=0",
        "CUDA_VISIBLE_DEVICES=1",
        "OMP_NUM_THREADS=5",
        "TF_NUM_INTRAOP_THREADS=5",
        "TF_NUM_INTEROP_THREADS=5",
        'TF_CONFIG={"cluster":{"ps":["nvb1-ib0:2220"],"worker":["nvb1-ib0:2221","nvb1-ib0:2222"]},'
        '"task":{"type":"worker","index":1}}',
    ]
    with pytest.raises(
        UserError, match=r"process 'worker:11': not in this job \(did you mean 'worker:1'\?\); it has 'ps:0'"
    ):
        preview.process_text(one, placement, "worker:11")


def test_staging_is_the_task_of_each_nodes_line(tmp_path: Path) -> None:
    one = plan(nodes=1, gpus=1, stage=True)
    assert " --stage ::: ps:0 " in one.task_file(one.placement(), "/run")
    (tmp_path / "train.sh").touch()
    with pytest.raises(UserError, match="stage = true: what a script of your own reads is not known"):
        plan(job=None, script=str(tmp_path / "train.sh"), stage=True)


def test_processes_with_a_python_of_the_job_keep_their_launchers_on_the_sites() -> None:
    own, script = plan(python="/own/python", mode="single"), plan(python="/own/python", mode="single", script=__file__)
    line = own.task_file(own.placement(), "/run").splitlines()[-1]
    assert line.startswith(f"{sys.executable} -c ")
    assert f" /own/python {Path(hpc_dl.__file__).with_name('inside.py')} " in line
    assert script.task_file(script.placement(), "/run").rstrip().endswith(f" /own/python {__file__}")
    assert "inner=(/own/python " in own.script()
