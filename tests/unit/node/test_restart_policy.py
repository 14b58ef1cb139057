"""What follows the death of a process."""

from __future__ import annotations

import pytest

from hpc_dl.node.restart_policy import After, Policy, pause
from hpc_dl.spec.job import JobSpec


def policy(mode: str, restarts: int = 2, own: bool = False, chief: str = "worker:0") -> Policy:
    return Policy(mode, restarts, own, chief)


@pytest.mark.parametrize("code", [137, 139, 75])
@pytest.mark.parametrize("mode", ["async", "mixed", "sync"])
def test_workers_of_ps_modes_start_again_alone(mode: str, code: int) -> None:
    for name in ("worker:0", "worker:3"):
        assert [policy(mode).after_death(name, code, n) for n in (0, 1)] == [After.AGAIN] * 2


def test_beyond_the_limit_the_training_goes_on_without_a_worker_where_it_can() -> None:
    for mode in ("async", "mixed"):
        assert policy(mode).after_death("worker:3", 137, 2) is After.WITHOUT
        assert policy(mode).after_death("worker:0", 137, 2) is After.FAIL  # the chief
        assert policy(mode, chief="chief:0").after_death("worker:0", 137, 2) is After.WITHOUT
    assert policy("sync").after_death("worker:3", 137, 2) is After.FAIL


@pytest.mark.parametrize("code", [1, 2, 74])
def test_what_a_new_start_would_only_repeat_fails_at_once(code: int) -> None:
    assert policy("async").after_death("worker:3", code, 0) is After.FAIL
    assert not policy("async").curable(code)
    assert policy("async", own=True).curable(code)  # of a user's own script nothing is known


@pytest.mark.parametrize("mode", ["single", "multiworker", "horovod"])
def test_processes_that_need_all_others_do_not_start_alone(mode: str) -> None:
    assert policy(mode).after_death("worker:1", 137, 0) is After.FAIL


def test_a_ps_takes_its_variables_along() -> None:
    assert policy("async").after_death("ps:0", 137, 0) is After.FAIL


def test_without_restarts_every_failure_is_the_end() -> None:
    assert Policy().after_death("worker:1", 137, 0) is After.FAIL
    assert policy("async", restarts=0).after_death("worker:1", 137, 0) is After.FAIL


def test_a_pause_is_longer_each_time_and_never_longer_than_others_wait() -> None:
    assert [pause(restarts) for restarts in (0, 1, 2, 3, 10, 10_000)] == [1, 2, 4, 8, 8, 8]


def test_the_policy_of_a_job() -> None:
    assert Policy.of(JobSpec(mode="sync", restarts=5)) == Policy("sync", 5, False, "worker:0")
    assert Policy.of(JobSpec(script="x.py", chief=True)) == Policy("async", 0, True, "chief:0")
