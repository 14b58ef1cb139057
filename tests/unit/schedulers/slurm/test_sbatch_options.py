"""What sbatch gets of a job on its site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.planning.place import resolve
from hpc_dl.planning.plan import make_plan
from hpc_dl.schedulers.slurm.sbatch_options import directives, minutes
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import load_site, site_file

K80 = Site(name="k80", cores=16, gpus=4, gpu_type="k80", partition="projects")


def options(site: Site = K80, **settings: Any) -> dict[str, Any]:
    return directives(resolve(JobSpec(**settings), site), site, Path("/w/runs"))


def test_what_sbatch_gets() -> None:
    assert options(nodes=2, gpus=2) == {
        "job-name": "job",
        "nodes": 2,
        "ntasks-per-node": 1,
        "cpus-per-task": 8,
        "time": "01:00:00",
        "output": "/w/runs/job-%j/job.log",
        "open-mode": "append",
        "requeue": True,
        "signal": "B:USR1@60",
        "gres": "gpu:k80:2",
        "partition": "projects",
    }


def test_a_job_is_told_ahead_of_its_time_limit_if_it_may_be_requeued() -> None:
    assert options(time="2")["signal"] == "B:USR1@24"  # a fifth of a short job, since Slurm may send it a minute early
    assert options(time="1-00:00:00")["signal"] == "B:USR1@60"
    assert options(msgspec.structs.replace(K80, notice=300), time="1:00:00")["signal"] == "B:USR1@300"
    assert "signal" not in options(msgspec.structs.replace(K80, notice=0))
    assert {"signal", "requeue"}.isdisjoint(options(requeues=0))
    assert options(slurm={"signal": "B:USR1@600"})["signal"] == "B:USR1@600"


def test_without_gpus_there_is_no_gres() -> None:
    assert "gres" not in options(gpus=0)
    assert "gres" not in options(Site(cores=1))
    assert options(Site(cores=1, gpus=1))["gres"] == "gpu:1"


def test_the_jobs_partition_comes_before_the_sites() -> None:
    assert options(partition="debug")["partition"] == "debug"
    assert "partition" not in options(Site(cores=1))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), ("true", True), ("x y", "x y"), (0, 0), ("0", "0"), (1, 1), (1.5, 1.5), ("", "")],
)
def test_an_option_is_passed_through_as_it_is(value: Any, expected: Any) -> None:
    found = options(slurm={"nice": value})["nice"]
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("value", [False, "false"])
def test_false_takes_an_option_of_the_site_away(value: Any) -> None:
    site = msgspec.structs.replace(K80, exclusive=True, slurm={"qos": "normal", "mem": "4G"})
    assert options(site)["exclusive"] is True
    found = options(site, slurm={"exclusive": value, "qos": value, "mem": "8G"})
    assert "exclusive" not in found
    assert "qos" not in found
    assert found["mem"] == "8G"


def test_the_memory_of_a_job_comes_before_the_sites() -> None:
    site = msgspec.structs.replace(K80, slurm={"mem": "100G"}, memory_gb=128.0)
    assert options(site)["mem"] == "100G"
    assert options(site, memory="64G")["mem"] == "64G"
    assert options(site, memory="64G", slurm={"mem": "1T"})["mem"] == "1T"
    assert options(site, memory="131072")["mem"] == "131072"
    assert options(site, memory="0")["mem"] == "0"
    assert "mem" not in options()
    per_gpu = msgspec.structs.replace(K80, slurm={"mem-per-gpu": "60G"})
    assert options(per_gpu)["mem-per-gpu"] == "60G"
    assert options(per_gpu, memory="64G").keys() & {"mem", "mem-per-gpu"} == {"mem"}
    for memory in ("129G", "131073", "1T", "134217729k"):
        with pytest.raises(UserError, match=f"^memory = {memory}: a node of site 'k80' has 128 GB"):
            options(site, memory=memory)


def test_a_percent_sign_in_the_path_is_none_of_slurms() -> None:
    job = resolve(JobSpec(), K80)
    assert directives(job, K80, Path("/w/100%j"))["output"] == "/w/100%%j/job-%j/job.log"


def test_a_backslash_in_the_path_is_refused_where_slurm_writes_the_log() -> None:
    job = resolve(JobSpec(), Site(cores=1))
    with pytest.raises(UserError, match="Slurm replaces no %j in a path with a backslash"):
        directives(job, Site(cores=1), Path("/w/a\\b"))
    path = Path("local.toml")
    here = make_plan(None, load_site(site_file("local"), runs="a\\b"), path, [Layer({"gpus": 0}, "test")])
    assert "a\\b" in here.script()


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("30", 30),
        ("0:30", 1),
        ("1:00", 1),
        ("90:01", 91),
        ("01:00:00", 60),
        ("00:00:01", 1),
        ("1-0", 1440),
        ("1-2:30", 1590),
        ("2-00:00:59", 2881),
    ],
)
def test_minutes_of_a_time_limit(time: str, expected: int) -> None:
    assert minutes(time) == expected


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_minutes_are_rounded_up(days: int, hours: int, mins: int, seconds: int) -> None:
    whole = (days * 24 + hours) * 60 + mins
    assert minutes(f"{days}-{hours:02}:{mins:02}:{seconds:02}") == whole + (seconds > 0)
    assert minutes(f"{whole}:{seconds:02}") == whole + (seconds > 0)


def test_a_job_that_must_not_be_requeued_tells_slurm_so() -> None:
    for settings in ({"script": "own.py"}, {"requeues": 0}):
        assert options(**settings)["no-requeue"] is True
        assert "requeue" not in options(**settings)
    assert "no-requeue" not in options(script="own.py", requeues=1)


@pytest.mark.parametrize(("requeues", "own", "other"), [(0, "requeue", "no-requeue"), (3, "no-requeue", "requeue")])
def test_what_the_user_says_of_requeues_to_sbatch_stands_alone(requeues: int, own: str, other: str) -> None:
    found = options(requeues=requeues, slurm={own: "true"})
    assert found[own] is True
    assert other not in found
    assert {own, other}.isdisjoint(options(requeues=requeues, slurm={other: "false"}))
