"""The parameters of an executor: submitit's names and our job keys become the settings of a job. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import to_builtins

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer, build, check_lines
from hpc_dl.spec.site import Site
from hpc_dl.spec.training import TrainSettings

Settings = dict[str, Any]

_OF_SCRIPTS = ("script", "args", "classic_flags", "stage")
# Of the settings of the built-in training program, only the mode says something of a function.
JOB_KEYS = tuple(
    key
    for key in JobSpec.__struct_fields__
    if key == "mode" or key not in (*TrainSettings.__struct_fields__, *_OF_SCRIPTS)
)

# submitit's names, and what they become.
_SUBMITIT: dict[str, Callable[[Any], Settings]] = {
    "timeout_min": lambda value: {"time": _time(value)},
    "mem_gb": lambda value: {"memory": f"{round(_number('mem_gb', value) * 1024)}M"},
    "gpus_per_node": lambda value: {"gpus": value},
    "tasks_per_node": lambda value: {"workers": value},
    "cpus_per_task": lambda value: {"cpus_per_task": value},
    "stderr_to_stdout": lambda _: {},  # a process has one log anyway
}
# What submitit writes `slurm_NAME`, after its name for sbatch. All others are options of sbatch.
_SLURM: dict[str, Callable[[Any], Settings]] = {
    "job_name": lambda value: {"name": value},
    "partition": lambda value: {"partition": value},
    "time": lambda value: {"time": value if isinstance(value, str) else _time(value)},
    "mem": lambda value: {"memory": str(value)},
    "ntasks_per_node": lambda value: {"workers": value},
    "nodes": lambda value: {"nodes": value},
    "array_parallelism": lambda value: {"array_parallelism": value},
    "additional_parameters": lambda value: {"slurm": {key.replace("_", "-"): item for key, item in value.items()}},
    "setup": lambda value: {"after_modules": value},
    "srun_args": lambda value: {"srun": value},
    "signal_delay_s": lambda value: {"notice": value},
    **_SUBMITIT,
}
# What is a key of the site, not of the job; lists are added to the site's.
SITE_KEYS = ("after_modules", "srun", "notice")
# What we have another way for, and which.
_INSTEAD = {
    "local_setup": "slurm_setup counts on this machine too",
    "slurm_use_srun": "how processes start depends on the mode",
    "slurm_gpus_per_task": "give gpus_per_node: each worker has its share",
    "slurm_cpus_per_gpu": "give cpus_per_task",
    "slurm_num_gpus": "give gpus_per_node",
}
_OF_OTHERS = re.compile(r"(local|debug)_\w+")

NAMES = (*JOB_KEYS, *_SUBMITIT, "array_parallelism")
"""The names without a prefix."""


def settings_of(parameters: Mapping[str, Any]) -> Settings:
    """Return parameters as job keys and site keys, and ``cpus_per_task`` and ``array_parallelism``.

    As with submitit's AutoExecutor, None means that a parameter is not set, and ``slurm_NAME`` wins over ``NAME``.

    Raises:
        UserError: there is no such parameter.
    """
    settings: Settings = {}
    slurm: dict[str, Any] = {}
    for name, value in sorted(parameters.items(), key=lambda item: item[0].startswith("slurm_")):
        found = {} if value is None else _settings(name, value)
        slurm |= found.pop("slurm", {})
        settings |= found
    return settings | ({"slurm": slurm} if slurm else {})


def _settings(name: str, value: Any) -> Settings:
    if name in _INSTEAD:
        raise UserError(f"update_parameters: {name}: {_INSTEAD[name]}")
    if name in JOB_KEYS or name == "array_parallelism":
        return {name: value}
    if name in _SUBMITIT:
        return _SUBMITIT[name](value)
    if option := re.fullmatch(r"slurm_(\w+)", name):
        return _SLURM[option[1]](value) if option[1] in _SLURM else {"slurm": {option[1].replace("_", "-"): value}}
    if _OF_OTHERS.fullmatch(name):
        return {}  # submitit's executors ignore those of one another
    raise UserError(
        f"update_parameters: unknown parameter {name!r}{near_match(name, NAMES)};"
        f" known: {allowed(NAMES)}, and options of sbatch such as 'slurm_qos'"
    )


def job_settings(settings: Mapping[str, Any], whole_nodes: bool) -> Settings:
    """Return the job keys for settings, with what submitit's users expect of a job that names no mode.

    Such a job has a process for each task, and takes a core for each and no GPU, unless it asks for more.

    Args:
        settings: what `settings_of` returned.
        whole_nodes: jobs get all cores of their nodes here, whatever they ask for.
    """
    others = (*SITE_KEYS, "cpus_per_task", "array_parallelism")
    job = {key: value for key, value in settings.items() if key not in others}
    tasks = job.get("workers") or 1
    cores = settings.get("cpus_per_task")
    if "mode" not in job:
        job["mode"] = "multiworker" if (job.get("nodes", 1), tasks) != (1, 1) else "single"
        job.setdefault("gpus", 0)
        cores = cores or 1
    if cores and "cores" not in job and not whole_nodes and isinstance(tasks, int):
        job["cores"] = cores * tasks
    return job


def with_settings(site: Site, settings: Mapping[str, Any]) -> Site:
    """Return a site with what settings add to it.

    Raises:
        UserError: one is not valid.
    """
    own = {key: settings[key] for key in SITE_KEYS if key in settings}
    for key in own.keys() - {"notice"}:
        if isinstance(own[key], str) or not all(isinstance(line, str) for line in own[key]):
            raise UserError(f"update_parameters: {key} = {own[key]!r}: expected a list of texts")
        own[key] = [*getattr(site, key), *own[key]]
    layers = [Layer(to_builtins(site), "site"), Layer(own, "update_parameters: {key}")]
    return build(Site, layers, "site", lambda _: check_lines(own)) if own else site


def _time(minutes: Any) -> str:
    """Return minutes as Slurm writes a time limit."""
    seconds = round(_number("timeout_min", minutes) * 60)
    return f"{seconds // 60}:{seconds % 60:02}" if seconds % 60 else str(seconds // 60)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise UserError(f"update_parameters: {name} = {value!r}: expected a number above 0")
    return value
