"""The environment variables of a job's processes."""

from __future__ import annotations

import importlib.util

import msgspec
import pytest

from hpc_dl.planning.process_env import script_defaults, variables
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
