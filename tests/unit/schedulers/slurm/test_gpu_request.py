"""How jobs and steps ask for GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc_dl.planning import preview
from hpc_dl.planning.place import resolve
from hpc_dl.planning.plan import make_plan
from hpc_dl.schedulers.slurm.sbatch_options import directives, step_options
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site import Site
from hpc_dl.tasks.submit import Request
from hpc_dl.tasks.submit import directives as tasks_directives
from hpc_dl.tasks.submit import script as tasks_script

A100 = Site(name="a", cores=16, gpus=4, gpu_type="a100", nodes="n[1-9]", srun=("--cpu-bind", "none", "--label"))
REQUESTS = ("gres", "gpus-per-node", "gpus-per-task", "gpus")


def site(**changes: Any) -> Site:
    return msgspec.structs.replace(A100, **changes)


def asked(where: Site, **job: Any) -> dict[str, Any]:
    settings = {"nodes": 2, "gpus": 2, **job}
    found = directives(resolve(JobSpec(**settings), where), where, Path("/runs"))
    return {key: value for key, value in found.items() if key in REQUESTS}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("gres", {"gres": "gpu:a100:2"}),
        ("gpus-per-node", {"gpus-per-node": "a100:2"}),
        ("gpus-per-task", {"gpus-per-task": "a100:2"}),
        ("gpus", {"gpus": "a100:4"}),
        ("none", {}),
    ],
)
def test_gpus_are_asked_for_as_the_site_says(form: str, expected: dict[str, str]) -> None:
    assert asked(site(gpu_request=form)) == expected
    assert asked(site(gpu_request=form), gpus=0) == {}
    untyped = {key: value.replace("a100:", "") for key, value in expected.items()}
    assert asked(site(gpu_request=form, gpu_type="")) == untyped
    request = tasks_directives(Path("/w/t.txt"), Request(2, gpus=2), site(gpu_request=form))
    assert {key: value for key, value in request.items() if key in REQUESTS} == expected


def test_further_resources_stand_beside_the_gpus() -> None:
    csc = site(gres=("nvme:100", "tmp:1"))
    assert asked(csc) == {"gres": "gpu:a100:2,nvme:100,tmp:1"}
    assert asked(csc, gpus=0) == {"gres": "nvme:100,tmp:1"}
    assert asked(csc, gres=("nvme:9",)) == {"gres": "gpu:a100:2,nvme:9"}
    assert asked(csc, gres=()) == {"gres": "gpu:a100:2"}
    assert asked(site(gpu_request="gpus-per-node", gres=("nvme:100",))) == {
        "gpus-per-node": "a100:2",
        "gres": "nvme:100",
    }


@pytest.mark.parametrize(
    ("request_", "step", "tasks", "expected"),
    [
        ("gres", "", 1, []),
        ("gres", "gres", 1, ["--gres=gpu:a100:4,nvme:9"]),
        ("none", "gpus-per-node", 4, ["--gpus-per-node=a100:4", "--gres=nvme:9"]),
        ("gres", "gpus", 1, ["--gpus=a100:8", "--gres=nvme:9"]),
        # What is asked for each task is asked anew for the tasks of a step.
        ("gpus-per-task", "", 1, ["--gpus-per-task=a100:4", "--gres=nvme:9"]),
        ("gpus-per-task", "", 4, ["--gpus-per-task=a100:1", "--gres=nvme:9", "--gpu-bind=none"]),
    ],
)
def test_steps_ask_as_the_site_says(request_: str, step: str, tasks: int, expected: list[str]) -> None:
    where = site(gpu_request=request_, step_gpu_request=step, gres=("nvme:9",))
    job = resolve(JobSpec(nodes=2), where)
    assert step_options(job, where, tasks) == expected
    assert step_options(resolve(JobSpec(nodes=2, gpus=0), where), where, tasks) == []


def _files(where: Site, **job: Any) -> dict[str, str]:
    settings = {"nodes": 2, "mode": "horovod", "workdir": "/w", **job}
    plan = make_plan(None, where, Path("a.toml"), [Layer(settings, "test")])
    return preview.files(plan, plan.placement())


def test_every_srun_of_ours_has_the_options_of_steps(tmp_path: Path) -> None:
    where = site(gpu_request="gpus-per-task", slurm={"hint": "nomultithread"})
    files = _files(where)
    facts = next(line for line in files["job.sh"].splitlines() if " facts " in line)
    assert "--gpus-per-task=a100:4 --threads-per-core=1 --cpu-bind none --label " in facts
    assert "--gpus-per-task=a100:1 --gpu-bind=none --threads-per-core=1 --cpu-bind none" in files["tasks.txt"]
    async_ = _files(where, mode="async")["job.sh"]
    assert async_.count("--gpus-per-task=a100:4 --threads-per-core=1") == 2
    text = tasks_script(tmp_path / "t.txt", Request(1, gpus=2), where, [])
    run = "--srun=--gpus-per-task=a100:2 --srun=--threads-per-core=1 --srun=--label\n"
    assert run in text, "an agent is bound to its cores, so --cpu-bind is left out"


def test_a_task_file_learns_how_gpus_are_found(tmp_path: Path) -> None:
    def options(**changes: Any) -> str:
        text = tasks_script(tmp_path / "t.txt", Request(1, gpus=2), site(srun=(), **changes), [])
        return text.partition("--resume")[2].strip()

    assert options() == ""
    assert options(gpu_vendor="amd") == """'--gpu-rule={"vendor":"amd"}'"""
    assert options(gpu_list="all") == """'--gpu-rule={"untold":2}'"""
    assert options(gpu_request="none") == """'--gpu-rule={"untold":2,"believe":true}'"""
    assert options(gpu_request="none", fake_gpus=True) == """'--gpu-rule={"untold":2,"believe":true,"fake":true}'"""


@pytest.mark.parametrize(
    ("vendor", "variable"), [("nvidia", "CUDA_VISIBLE_DEVICES"), ("amd", "ROCR_VISIBLE_DEVICES"), ("other", "")]
)
def test_processes_get_the_variable_of_the_vendor(vendor: str, variable: str) -> None:
    text = _files(site(gpu_vendor=vendor), mode="async")["tasks.txt"]
    found = [name for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES") if name in text]
    assert found == ([variable] if variable else [])
    assert not variable or f"worker:1 {variable}=1 " in text
    assert not variable or f"ps:0 {variable}='' " in text
