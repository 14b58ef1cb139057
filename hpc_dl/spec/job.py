"""JobSpec: what the user wants to run, from ``jobs/*.toml`` and what overrides it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hpc_dl import data, models
from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.shipped_files import share
from hpc_dl.spec.layers import BadValueError, Layer, build, check_lines, is_file, read_toml
from hpc_dl.spec.site import Scalar, check_env, check_slurm_options
from hpc_dl.train import ALL_REDUCE, ONLY_IN

Mode = Literal["async", "mixed", "sync", "multiworker", "horovod", "single"]
Compression = Literal["none", "fp16", "1bit"]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job description. Every field is a key of a job file, an option of the command line and a keyword in Python."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z",
            title="a letter or digit, then letters, digits, '_', '.', '-'",
        ),
        Meta(description="name of the job and of its run folder"),
    ] = "job"
    mode: Annotated[Mode, Meta(description="how the processes train together")] = "async"

    nodes: Annotated[int, Meta(ge=1, description="number of nodes")] = 1
    gpus: Annotated[Count, Meta(description="GPUs per node; default: all that the site has")] | None = None
    workers: (
        Annotated[Positive, Meta(description="workers per node; default: one per GPU, or one; mixed: one")] | None
    ) = None
    ps: Annotated[Positive, Meta(description="parameter servers, spread over the nodes")] | None = None
    cores: Annotated[Positive, Meta(description="cores per node; default: the GPUs' share of the node")] | None = None
    ps_cores: Annotated[Positive, Meta(description="cores of each ps; default: as many as a worker")] | None = None
    time: Annotated[
        str,
        Meta(pattern=r"^([0-9]{1,9}-)?[0-9]{1,9}(:[0-9]{1,2}){0,2}\Z", title="minutes, HH:MM:SS or D-HH:MM:SS"),
        Meta(description="time limit, as Slurm writes it"),
    ] = "01:00:00"
    partition: Annotated[str, Meta(description="partition; default: the site's")] = ""
    restarts: (
        Annotated[Count, Meta(description="new starts of a process that died; default: 3, a script of your own: 0")]
        | None
    ) = None
    requeues: (
        Annotated[Count, Meta(description="requeues at the time limit; default: 3, a script of your own: 0")] | None
    ) = None
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
    batch: Annotated[int, Meta(ge=1, description="images per step of one worker, or of one of its towers")] = 32
    learning_rate: Annotated[float, Meta(gt=0, le=sys.float_info.max, description="initial learning rate")] = 0.05
    lr_boundaries: Annotated[tuple[Positive, ...], Meta(description="global steps that divide it by 10")] = ()
    momentum: Annotated[float, Meta(ge=0, lt=1, description="Nesterov momentum")] = 0.9
    weight_decay: Annotated[float, Meta(ge=0, le=sys.float_info.max, description="L2 weight decay")] = 1e-4
    seed: Annotated[int, Meta(ge=0, lt=2**31, description="seed of everything random")] = 0
    checkpoint_every: Annotated[int, Meta(ge=1, description="global steps between checkpoints")] = 200
    log_every: Annotated[int, Meta(ge=1, description="a worker's own steps between lines of metrics")] = 20
    towers: Annotated[Positive, Meta(description="parts of a worker's batch; default: one per GPU")] | None = None
    backup_workers: Annotated[Count, Meta(description="sync: workers that a step does not wait for")] = 0
    restart_timeout: Annotated[
        float, Meta(gt=0, le=sys.float_info.max, description="seconds that others wait for a worker that starts again")
    ] = 60.0
    staleness: Annotated[Count, Meta(description="steps that a worker may be ahead of the slowest")] | None = None
    n_fetch: Annotated[Positive, Meta(description="steps between a worker's fetches of the variables")] = 1
    n_push: Annotated[Positive, Meta(description="steps whose gradients a worker sends together")] = 1
    compression: Annotated[Compression, Meta(description="of gradients on their way")] = "none"
    trace_steps: Annotated[tuple[Positive, ...], Meta(description="a process's own steps that it traces: 10,20")] = ()
    stage: Annotated[bool, Meta(description="copy the data set to each node's local disk first")] = False
    scale_lr: Annotated[bool, Meta(description="all-reduce: multiply the learning rate by the workers")] = True
    warmup_steps: Annotated[Count, Meta(description="all-reduce: steps in which it grows to that")] = 100
    fusion_mb: Annotated[float, Meta(gt=0, le=1024, description="all-reduce: MiB of gradients in one piece")] = 64.0
    cycle_ms: Annotated[float, Meta(gt=0, le=1000, description="horovod: time between looks for gradients")] = 1.0
    eval_every: Annotated[
        Count, Meta(description="global steps between checkpoints that are evaluated, to keep the best; 0: none")
    ] = 0

    workdir: Annotated[str, Meta(description="where the processes start; default: where the job was submitted")] = ""
    start_from: Annotated[str, Meta(description="run folder of the job from whose last checkpoint it goes on")] = ""

    @property
    def per_node(self) -> int:
        """Return the number of workers on each node, once `gpus` is known."""
        if self.mode == "single":
            return 1
        return self.workers or (1 if self.mode == "mixed" else self.gpus) or 1

    @property
    def mode_settings(self) -> dict[str, object]:
        """Return the settings that only some modes have, where they differ from their defaults."""
        defaults = JobSpec()
        return {key: value for key in ONLY_IN if (value := getattr(self, key)) != getattr(defaults, key)}


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
        if not is_file(Path(name)):
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

    Paths become absolute: `workdir` and `start_from` from the current folder; `script` from `workdir`, or from the job
    file's folder, which comes first where the job file itself names the script.

    Raises:
        UserError: a key or value is not valid, or a value does not fit another.
    """
    layers = list(overrides)
    if path is not None:
        layers = [Layer({"name": path.stem}, "file name"), read_toml(path), *layers]
    here = Path.cwd()
    folders = [] if path is None else [path.absolute().parent]
    first = not any("script" in layer.values for layer in overrides)

    def find_script(job: JobSpec) -> str:
        return _find_script(job.script, [*folders, here / job.workdir] if first else [here / job.workdir, *folders])

    def check_all(job: JobSpec) -> None:
        check(job)
        check_lines({"current folder": str(here)})
        find_script(job)

    job = build(JobSpec, layers, "job", check_all)
    start_from = str(here / job.start_from) if job.start_from else ""
    return msgspec.structs.replace(job, workdir=str(here / job.workdir), script=find_script(job), start_from=start_from)


def _find_script(script: str, folders: Sequence[Path]) -> str:
    if not script:
        return ""
    places = [folder / script for folder in folders]
    for place in filter(is_file, places):
        return str(place)
    looked = " and ".join(map(str, places))
    raise BadValueError("script", f"script = {script!r}: no such file; looked for {looked}")


def check(job: JobSpec) -> None:
    """Check what one field alone can't show.

    Raises:
        BadValueError: two values don't fit each other, or a text can't stand in a script.
    """
    check_env(job.env)  # first: other messages show values
    check_lines(msgspec.structs.asdict(job))
    if not all(a < b for a, b in itertools.pairwise((0, *job.lr_boundaries))):
        steps = ",".join(map(str, job.lr_boundaries))
        raise BadValueError(
            "lr_boundaries", f"lr_boundaries = {steps}: must be rising global steps such as 32000,48000"
        )
    if job.mode == "single":
        others = {"nodes": job.nodes > 1, "workers": (job.workers or 1) > 1, "ps": job.ps, "chief": job.chief}
        for key in filter(others.get, others):
            value = str(getattr(job, key)).lower()
            raise BadValueError(key, f"{key} = {value}: mode 'single' is one process on one node, without ps or chief")
    for key, setting in job.mode_settings.items():
        if job.mode not in (modes := ONLY_IN[key]):
            raise BadValueError(key, f"{key} = {setting}: mode {job.mode!r} has no use for it; only {allowed(modes)}")
    if job.mode in ALL_REDUCE:
        if job.ps:
            raise BadValueError(
                "ps", f"ps = {job.ps}: mode {job.mode!r} has no parameter servers; did you mean 'async'?"
            )
        if job.chief:
            raise BadValueError("chief", f"chief = true: mode {job.mode!r} has workers only")
        if job.compression == "1bit":
            raise BadValueError("compression", f"compression = '1bit': mode {job.mode!r} has only 'none' and 'fp16'")
    own = {
        "chief": "the built-in program's chief is worker 0",
        "classic_flags": "the built-in program reads TF_CONFIG",
    }
    for key, reason in own.items():
        if getattr(job, key) and not job.script:
            raise BadValueError(key, f"{key} = true: only a script of your own can use it; {reason}")
    if job.stage and job.script:
        raise BadValueError(
            "stage", "stage = true: what a script of your own reads is not known; copy it in the script"
        )
    check_slurm_options(job.slurm)
    if not job.script:
        _check_known("model", models.check, job.model)
        _check_known("data", data.describe, job.data)


def _check_known(key: str, look_up: Callable[[str], object], name: str) -> None:
    try:
        look_up(name)
    except UserError as error:
        raise BadValueError(key, str(error)) from None


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
