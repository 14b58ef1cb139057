"""The environment variables of a job's processes."""

from __future__ import annotations

import importlib.util

import msgspec
import pytest

from hpc_dl.planning.place import expected_facts, place, resolve
from hpc_dl.planning.process_env import rank_variables, script_defaults, variables
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import Process
from hpc_dl.spec.site import Site

K80 = Site(name="k80", cores=16, gpus=4)
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def test_a_script_has_two_threads_between_operations_also_on_one_core() -> None:
    one, four = Process("worker", 0, "n1", "n1", 1), Process("worker", 0, "n1", "n1", 1, threads=4)
    own, built_in = JobSpec(script="own.py"), JobSpec()

    def threads(process: Process, job: JobSpec) -> list[str]:
        found = variables(process, job, K80)
        return [found[key] for key in THREADS]

    assert threads(one, own) == ["1", "1", "2"]  # with one, a ClusterCoordinator hangs for ever
    assert threads(one, built_in) == ["1", "1", "1"]
    assert threads(four, own) == threads(four, built_in) == ["4", "4", "4"]


@pytest.mark.parametrize("key", THREADS)
def test_threads_that_the_job_or_the_site_sets_stay(key: str) -> None:
    process = Process("ps", 0, "n1", "n1", 1)
    usual = variables(process, JobSpec(), K80)
    assert {*usual} == {"CUDA_VISIBLE_DEVICES", *THREADS}
    rest = {name: value for name, value in usual.items() if name != key}
    assert variables(process, JobSpec(env={key: "7"}), K80) == rest
    assert variables(process, JobSpec(), msgspec.structs.replace(K80, env={key: "7"})) == rest


KERAS_2 = {"TF_USE_LEGACY_KERAS": "1"}


@pytest.mark.parametrize(
    ("job", "found"),
    [
        (JobSpec(script="/w/own.py", mode="horovod"), KERAS_2),
        (JobSpec(script="/w/own.py", mode="multiworker"), KERAS_2),
        (JobSpec(script="/w/own.py", mode="async"), KERAS_2),
        (JobSpec(script="/w/own.py", mode="single"), {}),  # as python own.py would find it
        (JobSpec(script="/w/own.sh", mode="horovod"), {}),  # nobody knows which Python it runs
        (JobSpec(mode="async"), {}),  # the built-in program sees to it itself
    ],
)
def test_scripts_whose_processes_train_together_find_keras_2(
    job: JobSpec, found: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert script_defaults(job) == found
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert script_defaults(job) == {}


def ranks(**settings: object) -> dict[str, dict[str, str]]:
    job = resolve(JobSpec(nodes=2, script="/w/own.py", **settings), K80)  # type: ignore[arg-type]
    return rank_variables(place(job, K80, expected_facts(job, K80, ["n1", "n2"])))


def test_ranks_are_counted_node_by_node_and_find_the_first_one() -> None:
    found = ranks(mode="multiworker", gpus=2)
    assert [one["RANK"] for one in found.values()] == ["0", "1", "2", "3"]
    first = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "n1", "JAX_NUM_PROCESSES": "4"}
    for one in found.values():
        assert first.items() <= one.items()
        assert one["JAX_COORDINATOR_ADDRESS"] == f"n1:{one['MASTER_PORT']}"
        assert one["JAX_PROCESS_ID"] == one["RANK"]
    third = found["worker:2"]
    assert (third["LOCAL_RANK"], third["NODE_RANK"]) == ("0", "1")


def test_a_ps_is_no_rank_and_a_chief_is_the_first() -> None:
    found = ranks(mode="async", gpus=1, ps=2, chief=True)
    assert {name: one["RANK"] for name, one in found.items()} == {"chief:0": "0", "worker:0": "1", "worker:1": "2"}
    assert [one["LOCAL_WORLD_SIZE"] for one in found.values()] == ["2", "2", "1"]


@pytest.mark.parametrize(("sees", "visible", "devices"), [("own", "1", "0"), ("node", "0,1", "1")])
def test_jax_takes_the_gpu_of_its_rank_whatever_else_it_sees(sees: str, visible: str, devices: str) -> None:
    job = resolve(JobSpec(script="/w/own.py", mode="multiworker", gpus=2, visible_gpus=sees), K80)  # type: ignore[arg-type]
    placement = place(job, K80, expected_facts(job, K80, ["n1"]))
    second = placement.processes[1]
    assert variables(second, job, K80)["CUDA_VISIBLE_DEVICES"] == visible
    assert rank_variables(placement)["worker:1"]["JAX_LOCAL_DEVICE_IDS"] == devices
    assert second.summary.startswith("worker 1 (GPU 1, ")


def test_a_rank_without_gpu_names_none() -> None:
    assert "JAX_LOCAL_DEVICE_IDS" not in ranks(mode="multiworker", gpus=0)["worker:0"]
