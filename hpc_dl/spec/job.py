"""JobSpec: what the user wants to run, from a job file and the settings that override it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.shipped_files import share
from hpc_dl.spec.container import check_container, expanded
from hpc_dl.spec.layers import BadValueError, Layer, build, check_lines, is_file, merge, read_toml
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.site import Scalar
from hpc_dl.spec.site_checks import check_env, check_gres, check_slurm_options
from hpc_dl.spec.training import Count, Positive, TrainSettings, check_modes, check_training

_SHORTEST_HANG = 5
Workers = Annotated[int, Meta(ge=1, le=1024)]
Many = Annotated[int, Meta(ge=1, le=100_000)]


class JobSpec(TrainSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job description. Every field is a key of a job file, an option of the command line and a keyword in Python."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z",
            title="a letter or digit, then letters, digits, '_', '.', '-'",
        ),
        Meta(description="name of the job and of its run folder"),
    ] = "job"
    nodes: Annotated[int, Meta(ge=1, description="number of nodes")] = 1
    gpus: Annotated[Count | None, Meta(description="GPUs per node; default: all that the site has")] = None
    workers: Annotated[
        Workers | None, Meta(description="workers per node; default: one per GPU, at least one; mixed: one")
    ] = None
    ps: Annotated[Many | None, Meta(description="parameter servers; default: 1, in modes that have some")] = None
    cores: Annotated[Many | None, Meta(description="cores per node; default: the GPUs' share of the node")] = None
    ps_cores: Annotated[Positive | None, Meta(description="cores of each ps; default: as many as a worker")] = None
    ps_nodes: Annotated[
        Count, Meta(description="nodes of their own for the ps, beside `nodes`; default: they share those of workers")
    ] = 0
    ps_partition: Annotated[str, Meta(description="partition of the ps_nodes, one if their number is not set")] = ""
    gres: Annotated[
        tuple[str, ...] | None,
        Meta(description="further generic resources of each node, such as nvme:100; default: the site's"),
    ] = None
    memory: Annotated[
        str,
        Meta(pattern=r"^([0-9]{1,9}[KMGTkmgt]?)?\Z", title="a number of MB, or one with K, M, G or T, such as 64G"),
        Meta(description="memory per node, as Slurm writes it: 64G; 0: all; default: what Slurm gives"),
    ] = ""
    time: Annotated[
        str,
        Meta(pattern=r"^([0-9]{1,9}-)?[0-9]{1,9}(:[0-9]{1,2}){0,2}\Z", title="minutes, HH:MM:SS or D-HH:MM:SS"),
        Meta(description="time limit, as Slurm writes it"),
    ] = "01:00:00"
    partition: Annotated[str, Meta(description="partition; default: the site's")] = ""
    restarts: Annotated[
        Count | None,
        Meta(description="how often a process that died is started again; default: 3, a script of your own: 0"),
    ] = None
    requeues: Annotated[
        Count | None,
        Meta(description="how often a job is requeued at its time limit; default: 3, a script of your own: 0"),
    ] = None
    hang_timeout: Annotated[
        Count | None,
        Meta(
            description="seconds without a sign of life after which a process is killed; 0: none;"
            " default: 120, a script of your own: 0"
        ),
    ] = None
    monitor: Annotated[
        float,
        Meta(ge=0, le=3600, description="seconds between looks at each node's CPU, network, disk and GPUs; 0: none"),
    ] = 1.0
    slurm: Annotated[dict[str, Scalar], Meta(description="any other sbatch option, without the dashes")] = {}  # noqa: RUF012 - copied
    env: Annotated[dict[str, str], Meta(description="environment variables of every process")] = {}  # noqa: RUF012 - copied

    script: Annotated[str, Meta(description="a training script of your own, in place of the built-in program")] = ""
    args: Annotated[tuple[str, ...], Meta(description="arguments of the script or of the built-in program")] = ()
    classic_flags: Annotated[
        bool, Meta(description="give the script --ps_hosts --worker_hosts --job_name --task_index")
    ] = False
    chief: Annotated[bool, Meta(description="a process for the chief alone, as ClusterCoordinator wants it")] = False

    visible_gpus: Annotated[
        Literal["own", "node"],
        Meta(
            description="which GPUs a process of the script sees: its own, as TensorFlow wants it;"
            " or all that the job has on the node, of which LOCAL_RANK chooses one, as under torchrun"
        ),
    ] = "own"

    python: Annotated[
        str, Meta(description="the Python of the processes, which needs no hpc_dl; default: that of their launchers")
    ] = ""
    container: (
        Annotated[
            tuple[str, ...],
            Meta(description="the command that starts a process in a container; default: the site's"),
        ]
        | None
    ) = None
    container_srun: (
        Annotated[
            tuple[str, ...],
            Meta(description="the srun options that start a process in a container; default: the site's"),
        ]
        | None
    ) = None
    container_python: Annotated[str, Meta(description="the Python in the container; default: the site's")] = ""

    stage: Annotated[bool, Meta(description="copy the data set to each node's local disk first")] = False
    workdir: Annotated[str, Meta(description="where the processes start; default: where the job was submitted")] = ""

    @property
    def memory_gb(self) -> float:
        """Return `memory` in GB; 0 if it is not set (man sbatch, --mem)."""
        number = int(self.memory.rstrip("KMGTkmgt") or 0)
        return number * 1024.0 ** {"K": -2, "G": 0, "T": 1}.get(self.memory[-1:].upper(), -1)

    @property
    def ps_node_cores(self) -> int:
        """Return the cores that a resolved job wants of each of its `ps_nodes`."""
        each = self.ps_cores or max(1, (self.cores or 1) // self.per_node)
        return each * -(-(self.ps or 1) // (self.ps_nodes or 1))

    @property
    def per_node(self) -> int:
        """Return the number of workers on each node, once `gpus` is known."""
        per = MODES[self.mode].worker_per
        if per == "job":
            return 1
        return self.workers or (self.gpus if per == "gpu" else 1) or 1


def job_folders() -> Iterator[Path]:
    """Yield the folders in which job files are looked for."""
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

    Paths become absolute. `workdir` and `start_from` are relative to the current folder. `script` is looked for in
    `workdir` and in the job file's folder; the latter comes first if the job file itself names the script.

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
        check_lines({"current folder": str(here), "job file": str(path.absolute()) if path else ""})
        find_script(job)

    job = expanded(build(JobSpec, layers, "job", check_all), merge(layers, JobSpec.__struct_fields__, "job"))
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
    """Check what the types of single fields can't show.

    Raises:
        BadValueError: two values don't fit each other, or a text can't stand in a script.
    """
    check_env(job.env)  # first: other messages show values
    check_lines(msgspec.structs.asdict(job))
    check_modes(job)
    own = {
        "chief": "the built-in program's chief is worker 0",
        "classic_flags": "the built-in program reads TF_CONFIG",
    }
    for key, reason in own.items():
        if getattr(job, key) and not job.script:
            raise BadValueError(key, f"{key} = true: only a script of your own can use it; {reason}")
    if job.visible_gpus != "own" and not job.script:
        reason = "the built-in program takes all GPUs that it sees; only a script of your own can choose"
        raise BadValueError("visible_gpus", f"visible_gpus = {job.visible_gpus!r}: {reason}")
    if job.stage and job.script:
        raise BadValueError(
            "stage", "stage = true: what a script of your own reads is not known; copy it in the script"
        )
    check_slurm_options(job.slurm)
    check_gres(job.gres or ())
    check_container(job)
    if 0 < (job.hang_timeout or 0) < _SHORTEST_HANG:
        reason = f"must be 0 or at least {_SHORTEST_HANG}: processes give a sign of life each second"
        raise BadValueError("hang_timeout", f"hang_timeout = {job.hang_timeout}: {reason}")
    if not job.script:
        check_training(job)
