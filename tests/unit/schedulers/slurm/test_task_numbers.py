"""The numbers by which Slurm's processes know their place, for each process of a job."""

from __future__ import annotations

import pytest

from hpc_dl.planning.place import expected_facts, place, resolve
from hpc_dl.schedulers.slurm.task_numbers import numbers, without_numbers, without_rank
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import Placement
from hpc_dl.spec.site import Site

SITE = Site(name="s", cores=8, gpus=4)
# What a launcher has: the first of two tasks, one on each node.
LAUNCHER = {
    "PATH": "/bin",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_CPUS_PER_NODE": "8(x2)",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_GTIDS": "0",
    "SLURM_TASK_PID": "4711",
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_TRES_PER_TASK": "cpu=8",
    "SLURM_NTASKS": "2",
    "SLURM_NPROCS": "2",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_TASKS_PER_NODE": "1(x2)",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}


def placement(**settings: object) -> Placement:
    job = resolve(JobSpec(nodes=2, gpus=2, **settings), SITE)  # type: ignore[arg-type]
    return place(job, SITE, expected_facts(job, SITE, ["n1", "n2"]))


def test_each_worker_has_the_numbers_that_srun_would_give_it() -> None:
    found = numbers(LAUNCHER, placement(mode="multiworker"), "worker:2")
    assert {**LAUNCHER, **found} == {
        **LAUNCHER,
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "1",
        "SLURM_GTIDS": "2,3",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_NTASKS": "4",
        "SLURM_NPROCS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_TASKS_PER_NODE": "2(x2)",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    }


def test_nodes_with_a_ps_have_more_processes_than_others() -> None:
    found = [numbers(LAUNCHER, placement(ps=1), name) for name in ("ps:0", "worker:1", "worker:3")]
    assert [(one["SLURM_PROCID"], one["SLURM_LOCALID"], one["SLURM_NODEID"]) for one in found] == [
        ("0", "0", "0"),
        ("2", "2", "0"),
        ("4", "1", "1"),
    ]
    assert found[0]["SLURM_TASKS_PER_NODE"] == "3,2"
    assert found[0]["SLURM_STEP_NUM_TASKS"] == "5"
    assert "SLURM_NTASKS_PER_NODE" not in found[0]  # no number is right for both


def test_what_is_not_known_is_left_out() -> None:
    kept = {"PATH", "SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_CPUS_PER_NODE", "SLURM_STEP_ID"}
    assert set(without_numbers(LAUNCHER)) == kept
    assert numbers({"PATH": "/bin"}, placement(), "worker:0") == {}  # no Slurm


@pytest.mark.parametrize("name", ["PMI_RANK", "PMI_FD", "PMIX_RANK", "PMIX_NAMESPACE", "PMIX_SERVER_URI41"])
def test_the_rank_of_a_launcher_is_not_that_of_its_processes(name: str) -> None:
    kept = {"PATH": "/bin", "PMIX_MCA_gds": "hash", "OMPI_MCA_btl": "tcp,self"}
    assert without_rank({**kept, name: "0"}) == kept
