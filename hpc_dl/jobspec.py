"""JobSpec: what the user wants to run, from ``jobs/*.toml`` and what overrides it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hpc_dl import data, models
from hpc_dl.config import Layer, build, read_toml
from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.resources import share
from hpc_dl.site import Scalar

Mode = Literal["async", "single"]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]

# Options that hpc_dl sets itself, and the job key that stands for each.
_OWN_OPTIONS = {
    "job-name": "name",
    "nodes": "nodes",
    "gres": "gpus",
    "gpus": "gpus",
    "gpus-per-node": "gpus",
    "gpus-per-task": "gpus",
    "cpus-per-task": "cores",
    "time": "time",
    "partition": "partition",
    "chdir": "workdir",
}
_FIXED_OPTIONS = {"ntasks", "ntasks-per-node", "output", "error", "open-mode", "array", "wrap", "parsable", "test-only"}


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job description. Every field is a key of a job file, an option of the command line and a keyword in Python."""

    name: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9][\w.-]{0,63}$", title="a letter or digit, then letters, digits, '_', '.', '-'"),
        Meta(description="name of the job and of its run folder"),
    ] = "job"
    mode: Annotated[Mode, Meta(description="how the processes train together")] = "async"

    nodes: Annotated[int, Meta(ge=1, description="number of nodes")] = 1
    gpus: Annotated[Count, Meta(description="GPUs per node; default: all that the site has")] | None = None
    workers: Annotated[Positive, Meta(description="workers per node; default: one per GPU, or one")] | None = None
    ps: Annotated[Positive, Meta(description="parameter servers, spread over the nodes")] | None = None
    cores: Annotated[Positive, Meta(description="cores per node; default: the GPUs' share of the node")] | None = None
    ps_cores: Annotated[Positive, Meta(description="cores of each ps; default: as many as a worker")] | None = None
    time: Annotated[
        str,
        Meta(pattern=r"^(\d+-)?\d+(:\d{1,2}){0,2}$", title="minutes, HH:MM:SS or D-HH:MM:SS"),
        Meta(description="time limit, as Slurm writes it"),
    ] = "01:00:00"
    partition: Annotated[str, Meta(description="partition; default: the site's")] = ""
    slurm: Annotated[dict[str, Scalar], Meta(description="any other sbatch option, without the dashes")] = {}
    env: Annotated[dict[str, str], Meta(description="environment variables of every process")] = {}

    script: Annotated[str, Meta(description="a training script of your own, in place of the built-in program")] = ""
    args: Annotated[tuple[str, ...], Meta(description="arguments of the script or of the built-in program")] = ()
    classic_flags: Annotated[
        bool, Meta(description="give the script --ps_hosts --worker_hosts --job_name --task_index")
    ] = False
    chief: Annotated[bool, Meta(description="a process for the chief alone, as ClusterCoordinator wants it")] = False

    model: Annotated[str, Meta(description="network: a known name, or package.module:function")] = "small"
    data: Annotated[str, Meta(description="data set")] = "digits"
    steps: Annotated[int, Meta(ge=1, description="global steps, of all workers together")] = 600
    batch: Annotated[int, Meta(ge=1, description="images per step of one worker")] = 32
    learning_rate: Annotated[float, Meta(gt=0, description="initial learning rate")] = 0.05
    lr_boundaries: Annotated[tuple[Positive, ...], Meta(description="global steps that divide it by 10")] = ()
    momentum: Annotated[float, Meta(ge=0, lt=1, description="Nesterov momentum")] = 0.9
    weight_decay: Annotated[float, Meta(ge=0, description="L2 weight decay")] = 1e-4
    seed: Annotated[int, Meta(ge=0, lt=2**31, description="seed of everything random")] = 0
    checkpoint_every: Annotated[int, Meta(ge=1, description="global steps between checkpoints")] = 200
    log_every: Annotated[int, Meta(ge=1, description="a worker's own steps between lines of metrics")] = 20

    workdir: Annotated[str, Meta(description="where the processes start; default: where the job was submitted")] = ""

    @property
    def per_node(self) -> int:
        """Return the number of workers on each node, once `gpus` is known."""
        return self.workers or self.gpus or 1


def job_folders() -> Iterator[Path]:
    """Yield where job files are looked for."""
    yield Path.cwd() / "jobs"
    yield share() / "jobs"


def job_file(name: str) -> Path:
    """Return the file of job `name`, which may also be the path of a TOML file.

    Raises:
        UserError: there is none.
    """
    if name.endswith(".toml") or "/" in name:
        if not Path(name).is_file():
            raise UserError(f"job {name!r}: no such file")
        return Path(name)
    known: dict[str, Path] = {}
    for folder in job_folders():
        for path in sorted(folder.glob("*.toml")):
            known.setdefault(path.stem, path)
    if name not in known:
        raise UserError(f"unknown job {name!r}{near_match(name, known)}; known jobs: {allowed(known)}")
    return known[name]


def load_job(path: Path | None, overrides: Sequence[Layer] = ()) -> JobSpec:
    """Read a job file, or start from the defaults, then apply `overrides`, weakest first.

    Paths become absolute: in a job file they are relative to it if they exist there, else to the current folder.

    Raises:
        UserError: a key or value is not valid, or a value does not fit another.
    """
    layers = list(overrides)
    if path is not None:
        layers = [Layer({"name": path.stem}, "file name"), read_toml(path), *layers]
    job = build(JobSpec, layers, "job")
    job = msgspec.structs.replace(job, workdir=str(Path(job.workdir or Path.cwd()).absolute()))
    if job.script:
        job = msgspec.structs.replace(job, script=_find_script(job, path))
    check(job)
    return job


def _find_script(job: JobSpec, path: Path | None) -> str:
    places = [Path(job.workdir) / job.script]
    if path is not None:
        places.append(path.absolute().parent / job.script)
    for place in places:
        if place.is_file():
            return str(place)
    raise UserError(f"script = {job.script!r}: no such file; looked for {' and '.join(map(str, places))}")


def check(job: JobSpec) -> None:
    """Check what one field alone can't show.

    Raises:
        UserError: two values don't fit each other, or a text can't stand in a script.
    """
    if job.mode == "single":
        for key, value in {"nodes": job.nodes - 1, "workers": (job.workers or 1) - 1, "ps": job.ps}.items():
            if value:
                raise UserError(f"{key} = {getattr(job, key)}: mode 'single' is one process on one node, without ps")
    if job.chief and not job.script:
        raise UserError("chief = true: only a script of your own can use it; the built-in program's chief is worker 0")
    if job.classic_flags and not job.script:
        raise UserError("classic_flags = true: only a script of your own can use it; the built-in program reads TF_CONFIG")
    check_env(job.env)
    for index, arg in enumerate(job.args):
        _check_one_line(f"args[{index}]", arg)
    check_slurm_options(job.slurm)
    if not job.script:
        models.check(job.model)
        data.describe(job.data)


def check_env(env: Mapping[str, str]) -> None:
    """Check names and values of environment variables.

    Raises:
        UserError: a name that no shell can set, or a value with a line break.
    """
    for key, value in env.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
            raise UserError(f"env.{key}: not a name of an environment variable; allowed: letters, digits, '_'")
        _check_one_line(f"env.{key}", value)


def check_slurm_options(options: Mapping[str, Scalar]) -> None:
    """Check the sbatch options that are passed through.

    Raises:
        UserError: not the form of an option, or one that hpc_dl sets itself.
    """
    for key, value in options.items():
        if not re.fullmatch(r"[a-z][a-z0-9-]+", key):
            raise UserError(f"slurm.{key}: not an sbatch option; expected its long name without dashes, such as 'qos'")
        if key in _OWN_OPTIONS:
            raise UserError(f"slurm.{key}: set the job key {_OWN_OPTIONS[key]!r} in its place")
        if key in _FIXED_OPTIONS:
            raise UserError(f"slurm.{key}: hpc_dl sets this option itself, it can't be changed")
        _check_one_line(f"slurm.{key}", str(value))


def _check_one_line(where: str, value: str) -> None:
    if odd := re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
        raise UserError(f"{where} = {value!r}: has the control character {odd[0]!r}, which can't stand in one line")


def pairs(texts: Sequence[str], origin: str) -> dict[str, str]:
    """Return ``KEY=VALUE`` texts as a dict; ``KEY`` alone means ``KEY=true``.

    Raises:
        UserError: a text without a key.
    """
    table: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key:
            raise UserError(f"{origin} {text!r}: expected KEY=VALUE")
        table[key] = value if equals else "true"
    return table
