"""Parameters of an executor: submitit's names, sbatch's and ours."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hpc_dl.errors import UserError
from hpc_dl.executor.parameters import JOB_KEYS, job_settings, settings_of, with_settings
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer, build
from hpc_dl.spec.site import Site


def _job(whole_nodes: bool = False, **parameters: Any) -> JobSpec:
    return build(JobSpec, [Layer(job_settings(settings_of(parameters), whole_nodes), "test")], "job")


def test_submitits_names_mean_what_they_mean_there() -> None:
    job = _job(
        name="sum", timeout_min=90, mem_gb=1.5, nodes=2, gpus_per_node=4, tasks_per_node=2, cpus_per_task=3,
        stderr_to_stdout=True,
    )  # fmt: skip
    assert (job.name, job.time, job.memory, job.nodes) == ("sum", "90", "1536M", 2)
    assert (job.gpus, job.workers, job.cores) == (4, 2, 6)


@pytest.mark.parametrize(("minutes", "time"), [(1, "1"), (0.05, "0:03"), (60.5, "60:30"), (1440, "1440")])
def test_minutes_may_have_a_fraction(minutes: float, time: str) -> None:
    assert _job(timeout_min=minutes).time == time


def test_options_of_sbatch_go_through_and_win() -> None:
    job = _job(slurm_partition="dev", slurm_time=7, timeout_min=1, slurm_qos="high", slurm_exclude="n1", mode="sync")
    assert (job.partition, job.time, job.slurm) == ("dev", "7", {"qos": "high", "exclude": "n1"})
    more = _job(slurm_additional_parameters={"mail_type": "END"}, slurm={"qos": "low"})
    assert more.slurm == {"mail-type": "END", "qos": "low"}


def test_a_job_without_a_mode_takes_a_core_for_each_task_and_no_gpu() -> None:
    alone, many = _job(), _job(nodes=2, tasks_per_node=3)
    assert (alone.mode, alone.gpus, alone.cores) == ("single", 0, 1)
    assert (many.mode, many.gpus, many.cores, many.workers) == ("multiworker", 0, 3, 3)
    assert _job(whole_nodes=True, cpus_per_task=2).cores is None


def test_a_job_with_a_mode_takes_what_any_job_takes() -> None:
    job = _job(mode="async", ps=2, nodes=2)
    assert (job.mode, job.ps, job.gpus, job.cores, job.workers) == ("async", 2, None, None, None)


def test_parameters_that_are_none_are_not_set() -> None:
    assert _job(nodes=None, slurm_partition=None).nodes == 1


def test_parameters_of_submitits_other_executors_are_ignored() -> None:
    assert settings_of({"local_x": ["x"], "debug_x": 1}) == {}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"node": 2}, "unknown parameter 'node' (did you mean 'nodes'?); known: 'mode', "),
        ({"timeout_mn": 2}, "unknown parameter 'timeout_mn' (did you mean 'timeout_min'?)"),
        ({"script": "x.py"}, "unknown parameter 'script'"),
        ({"steps": 3}, "unknown parameter 'steps'"),
        ({"local_setup": ["module load x"]}, "local_setup: slurm_setup counts on this machine too"),
        ({"timeout_min": "5"}, "timeout_min = '5': expected a number above 0"),
        ({"mem_gb": -1}, "mem_gb = -1: expected a number above 0"),
    ],
)
def test_what_is_wrong_is_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="^" + re.escape(f"update_parameters: {message}")):
        settings_of(parameters)


def test_what_is_the_sites_is_added_to_the_site() -> None:
    site = Site(cores=1, after_modules=("a",), srun=("--x",))
    settings = settings_of({"slurm_setup": ["b", "c"], "slurm_srun_args": ["-y"], "slurm_signal_delay_s": 90})
    assert job_settings(settings, True) == job_settings({}, True)
    found = with_settings(site, settings)
    assert (found.after_modules, found.srun, found.notice) == (("a", "b", "c"), ("--x", "-y"), 90)
    assert with_settings(site, {}) is site


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"after_modules": "x"}, "after_modules = 'x': expected a list of texts"),
        ({"srun": ["a\nb"]}, r"srun: srun\[1\] = 'a\\nb': '\\n' can't stand in a line"),
        ({"notice": -1}, "notice: notice = -1: "),
    ],
)
def test_what_is_wrong_for_the_site_is_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^update_parameters: {message}"):
        with_settings(Site(cores=1), setting)


def test_functions_have_the_job_keys_that_say_something_of_them() -> None:
    assert {"mode", "nodes", "ps", "env", "requeues", "restarts", "workdir", "slurm"} <= set(JOB_KEYS)
    assert not {"script", "args", "model", "steps", "compression", "stage"} & set(JOB_KEYS)
