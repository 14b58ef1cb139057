"""The table of modes: each job key is used or refused in each mode."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.errors import UserError
from hpc_dl.planning.plan import make_plan
from hpc_dl.planning.preview import files
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.modes import KEYS, MODES, modes_with
from hpc_dl.spec.options import fields
from hpc_dl.spec.site import Site
from hpc_dl.spec.training import TrainSettings

SITE = Site(name="k80", cores=16, gpus=4, gpu_type="k80", nodes="n[1-9]")
# A value of each job key that is not its default.
OTHER: dict[str, Any] = {
    "name": "other", "nodes": 2, "gpus": 2, "workers": 2, "ps": 2, "cores": 8, "ps_cores": 2, "time": "2:00:00",
    "partition": "long", "gres": ["nvme:9"], "restarts": 1, "requeues": 1, "slurm": {"qos": "high"},
    "env": {"SEED": "7"}, "args": ["--start-timeout=9"], "model": "vgg16", "data": "synthetic", "steps": 7,
    "batch": 8, "learning_rate": 0.3, "lr_boundaries": [3],
    "momentum": 0.5, "weight_decay": 0.01, "seed": 3, "checkpoint_every": 5, "log_every": 5,
    "eval_every": 5, "towers": 2, "backup_workers": 1, "restart_timeout": 5.0, "staleness": 1, "n_fetch": 2,
    "n_push": 2, "compression": "fp16", "trace_steps": [3], "stage": True, "scale_lr": False, "warmup_steps": 3,
    "fusion_mb": 8.0, "cycle_ms": 2.0, "workdir": "/tmp", "memory": "64G", "hang_timeout": 60,
    "ps_nodes": 1, "ps_partition": "cpu", "monitor": 5.0,
    "python": "/opt/python",
    "container": ["run", "image"], "container_srun": ["--image=x"],
}  # fmt: skip
# Keys that are about something else than the text of the job's files.
ELSEWHERE = {"mode", "script", "chief", "classic_flags", "visible_gpus", "start_from", "container_python"}


def rendered(mode: str, **settings: Any) -> dict[str, str]:
    several = {} if mode == "single" else {"nodes": 2, "gpus": 4}
    plan = make_plan(None, SITE, Path("k80.toml"), [Layer({"mode": mode, **several, **settings}, "keyword {key}")])
    made = files(plan, plan.placement())
    # The frozen descriptions have every key, used or not.
    return {name: text for name, text in made.items() if not name.endswith(".toml")}


@functools.cache
def usual(mode: str) -> dict[str, str]:
    return rendered(mode)


def test_every_job_key_is_tried() -> None:
    assert set(OTHER) | ELSEWHERE == set(JobSpec.__struct_fields__)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("key", OTHER)
def test_each_key_is_used_or_refused_in_each_mode(key: str, mode: str) -> None:
    value = 1 if key == "nodes" and mode != "single" else OTHER[key]
    if mode not in modes_with(key):
        with pytest.raises(UserError, match=f"{key} = .*: mode '{mode}' has no use for it; only '"):
            rendered(mode, **{key: value})
    elif key in ("restarts", "requeues", "hang_timeout", "monitor"):
        assert getattr(make_plan(None, SITE, Path(), [Layer({"mode": mode, key: value}, "")]).job, key) == value
    else:
        assert rendered(mode, **{key: value}) != usual(mode)


def test_every_key_of_the_table_is_a_job_key() -> None:
    assert set(KEYS) <= set(JobSpec.__struct_fields__)


def test_the_fields_of_a_job_have_descriptions_and_its_own_come_first() -> None:
    found = list(fields(JobSpec))
    assert [field.name for field in found if not field.description] == []
    names = [field.name for field in found]
    assert names[0] == "name"
    assert names[-len(TrainSettings.__struct_fields__) :] == list(TrainSettings.__struct_fields__)
