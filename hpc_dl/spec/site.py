"""Site: one cluster, as its TOML file in ``env/sites`` describes it."""

from __future__ import annotations

import functools
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.shipped_files import share
from hpc_dl.spec.layers import BadValueError, Layer, build, check_lines, is_file, read_toml

Count = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=1024, le=65535)]
Scalar = str | int | float | bool

# Options that hpc_dl sets itself, and the job key for each.
_OWN_OPTIONS = {
    "job-name": "name",
    "nodes": "nodes",
    "gres": "gpus",
    "gpus": "gpus",
    "gpus-per-node": "gpus",
    "gpus-per-socket": "gpus",
    "gpus-per-task": "gpus",
    "tres-per-task": "gpus",
    "cpus-per-task": "cores",
    "time": "time",
    "partition": "partition",
    "chdir": "workdir",
}
_FIXED_OPTIONS = {"ntasks", "ntasks-per-node", "tasks-per-node", "output", "error", "open-mode", "array", "wrap"}
_FIXED_OPTIONS |= {"parsable", "quiet", "test-only", "hold", "wait", "help", "usage", "version"}
# These send a job to another cluster. scontrol and scancel don't look there, and may find a job of its number here.
_CLUSTER_OPTIONS = {"clusters", "cluster", "M"}
OTHER_CLUSTER = "set SLURM_CLUSTERS to the cluster's name: sbatch, squeue, scontrol and scancel all follow it"
"""What to do instead of an option that sbatch alone follows."""
_NOT_FREE = {*_OWN_OPTIONS, *_FIXED_OPTIONS, *_CLUSTER_OPTIONS}
# Variables that the job script needs for itself, and variables that bash lets nobody set.
_TAKEN_VARIABLES = {"run", "step", "started", "code", "attempt", "told", "warned", "between", "signalled"}
_TAKEN_VARIABLES |= {"srun", "next", "pause", "unready", "python", "usual"}
_TAKEN_VARIABLES |= {"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"}
# Variables that would change what bash or the job script's Python does.
_TAKEN_VARIABLES |= {"IFS", "OPTIND", "RANDOM", "SRANDOM", "HISTCMD", "FUNCNEST", "BASH_XTRACEFD", "EXECIGNORE"}
_TAKEN_VARIABLES |= {"ENV", "BASH_ENV", "PYTHONHOME"}
_INHERITED = "in the shell that submits: the job inherits it"
# Variables that have a value of their own in each process, and what decides it.
_PER_PROCESS = {
    "TF_CONFIG": "the placement",
    "CUDA_VISIBLE_DEVICES": "the placement; see gpus and workers",
}
_SECRET = re.compile(
    r"(^|_)(TOKEN|SECRET|PASS|PW|CREDENTIALS?|ACCESS_KEY|PRIVATE_KEY|AUTH|JWT|BEARER|COOKIES?)(_|$)"
    r"|SECRET_?KEY|PASSW(OR)?D|PASSPHRASE|(SSH|PG)PASS$|API_?KEY|(^|_)KEY$|_(PWD|PAT)$",
    re.IGNORECASE,
)
# Addresses that may hold a password: told by the variable's name, or by the address itself.
_SECRET_ADDRESS = re.compile(
    r"WEBHOOK|(^|_)(DATABASE|DB|REDIS|MONGO(DB)?|POSTGRES(QL)?|MYSQL)_UR[IL]$|(^|_)DSN$", re.IGNORECASE
)
_PASSWORD_IN_ADDRESS = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
_PLACE_OF_SECRET = re.compile(r"_(FILE|PATH|DIR|URL)$", re.IGNORECASE)


# Keys of site files of earlier versions, and why they are gone: told to users who still set one.
_GONE = {"sockets": "each node tells itself how its cores are shared out"}


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a job must know of a cluster. Every field is a key of the site file."""

    name: Annotated[str, Meta(description="the file's name without .toml")] = ""
    description: Annotated[str, Meta(description="one line for people")] = ""
    scheduler: Annotated[str, Meta(description="who starts jobs; see hpc_dl/schedulers")] = "slurm"
    cluster: Annotated[str, Meta(description="Slurm's ClusterName; the site is chosen by itself there")] = ""
    nodes: Annotated[str, Meta(description="node names, such as nvb[1-39]; for previews, and for local runs")] = (
        "node[1-64]"
    )

    cores: Annotated[int, Meta(ge=1, description="cores of a node")]
    memory_gb: (
        Annotated[float, Meta(gt=0, le=sys.float_info.max, description="memory of a node; no job may ask for more")]
        | None
    ) = None
    gpus: Annotated[Count, Meta(description="GPUs of a node")] = 0
    gpu_type: Annotated[str, Meta(description="the type in gres, as in gpu:k80:4; empty where gres has none")] = ""
    gpu_memory_gb: Annotated[float, Meta(gt=0, le=sys.float_info.max, description="memory of a GPU")] | None = None
    fake_gpus: Annotated[
        bool, Meta(description="the GPUs need not exist: where TensorFlow sees none, training computes on cores")
    ] = False
    exclusive: Annotated[bool, Meta(description="jobs get whole nodes, with all their cores")] = False

    interconnect_suffix: Annotated[
        str, Meta(description="suffix of a node's name on the fast network, such as -ib0")
    ] = ""
    address: Annotated[str, Meta(description="the one address of all nodes, where they are one machine")] = ""
    ports: Annotated[tuple[Port, Port], Meta(description="first and last port that jobs may use")] = (20000, 29999)

    partition: Annotated[str, Meta(description="default partition")] = ""
    slurm: Annotated[dict[str, Scalar], Meta(description="further sbatch options")] = {}
    srun: Annotated[tuple[str, ...], Meta(description="further options of srun")] = ("--cpu-bind=none",)
    launcher: Annotated[
        Literal["srun", "mpirun"], Meta(description="who starts MPI ranks: srun --mpi=pmix or mpirun")
    ] = "srun"
    mpirun: Annotated[tuple[str, ...], Meta(description="further options of mpirun")] = ("--bind-to", "none")
    grace: Annotated[int, Meta(ge=1, le=3600, description="seconds between SIGTERM and SIGKILL")] = 20

    notice: Annotated[
        int,
        Meta(ge=0, le=3600, description="seconds before the time limit at which a job saves and is requeued"),
    ] = 60

    module_init: Annotated[str, Meta(description="the file that defines the module command, where batch lacks it")] = ""
    modules: Annotated[tuple[str, ...], Meta(description="modules that a job loads, in this order")] = ()
    env: Annotated[dict[str, str], Meta(description="environment variables of a job")] = {}
    python: Annotated[str, Meta(description="the Python of the nodes; empty: the one that runs hpc-dl")] = ""

    runs: Annotated[str, Meta(description="where run folders go, on a disk that all nodes share")] = "runs"
    data: Annotated[str, Meta(description="where data sets are, on a disk that all nodes share")] = "data"
    local_disk: Annotated[
        str, Meta(description="a node's own disk, such as /scratch/$USER; empty: $TMPDIR or /tmp")
    ] = ""

    @property
    def gres(self) -> str:
        """Return the gres name, ``gpu:k80`` or ``gpu``; the count is for the job to add."""
        return f"gpu:{self.gpu_type}" if self.gpu_type else "gpu"


def config_home() -> Path:
    """Return the folder of the user's configuration (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def site_folders() -> Iterator[Path]:
    """Yield the folders in which site files are looked for: the user's configuration, this folder, the package."""
    yield config_home() / "hpc_dl" / "sites"
    yield Path.cwd() / "env" / "sites"
    yield share() / "env" / "sites"


def site_files() -> dict[str, Path]:
    """Return every site's name and file; if two have the same name, the first folder wins."""
    files: dict[str, Path] = {}
    for folder in site_folders():
        for path in sorted(folder.glob("*.toml")):
            files.setdefault(path.stem, path)
    return files


def site_file(name: str) -> Path:
    """Return the file of site `name`, which may also be the path of a TOML file.

    Raises:
        UserError: there is none.
    """
    if name.endswith(".toml") or "/" in name:
        if not is_file(Path(name)):
            raise UserError(f"site {name!r}: no such file")
        return Path(name).resolve()
    files = site_files()
    if name not in files:
        raise UserError(f"unknown site {name!r}{near_match(name, files)}; known sites: {allowed(files)}")
    return files[name]


def load_site(path: Path, **changes: Any) -> Site:
    """Read a site file. `changes` replace single keys.

    Raises:
        UserError: the file or a change is not valid.
    """
    file = read_toml(path)
    for key in _GONE.keys() & file.values.keys():
        _say_once(f"{file.where(key)}: {key} is not used any more: {_GONE[key]}")
    layers = [Layer({"name": path.stem}, "file name"), without_gone(file), Layer(changes, "keyword {key}")]
    return build(Site, layers, "site", check)


def schedulers() -> list[str]:
    """Return the names of the schedulers, which are the names of their folders; none is imported."""
    spec = importlib.util.find_spec("hpc_dl.schedulers")
    folders = pkgutil.iter_modules(spec.submodule_search_locations if spec else [])
    return [folder.name for folder in folders if folder.ispkg]


def without_gone(layer: Layer) -> Layer:
    """Return the settings of a site without the keys that only earlier versions had."""
    return layer.without(_GONE)


@functools.cache
def _say_once(note: str) -> None:
    print(f"hpc-dl: {note}", file=sys.stderr)


def check(site: Site) -> None:
    """Check what the types of single fields can't show.

    Raises:
        BadValueError: two values don't fit each other, or a text can't stand in a script.
    """
    check_env(site.env)  # first: other messages show values
    check_lines(msgspec.structs.asdict(site))
    if site.scheduler not in (known := schedulers()):
        near = near_match(site.scheduler, known)
        message = f"scheduler = {site.scheduler!r}: not a known scheduler{near}; allowed: {allowed(known)}"
        raise BadValueError("scheduler", message)
    if site.ports[0] > site.ports[1]:
        raise BadValueError("ports", f"ports = {list(site.ports)}: the first is above the last")
    check_slurm_options(site.slurm)


def check_env(env: Mapping[str, str]) -> None:
    """Check the names of environment variables; messages hold no values.

    Raises:
        BadValueError: no shell can set a variable, hpc_dl sets it itself, or its value should not be written down.
    """
    for key, value in env.items():
        if not re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII):
            message = f"env: {key!r} is not a name of an environment variable; allowed: letters, digits, '_'"
            raise BadValueError(f"env.{key}", message)
        if key == "PATH":
            reason = f"the job script finds its own commands by it; load a module, or export PATH {_INHERITED}"
            raise BadValueError(f"env.{key}", f"env: {key!r} can't be changed: {reason}")
        if f"${key}" in value or f"${{{key}}}" in value:
            reason = f"nothing replaces it; write the whole value, or export {key} {_INHERITED}"
            raise BadValueError(f"env.{key}", f"env: {key!r} has '${key}' in its value: {reason}")
        if key in _TAKEN_VARIABLES:
            raise BadValueError(f"env.{key}", f"env: {key!r} is a variable that the job script can't change")
        if key.startswith(("SLURM_", "SLURMD_")):
            message = f"env: {key!r} is Slurm's own; the keys slurm and srun hold options of sbatch and srun"
            raise BadValueError(f"env.{key}", message)
        if key in _PER_PROCESS or key.startswith("HPC_DL_"):
            decides = _PER_PROCESS.get(key, "hpc_dl")
            raise BadValueError(f"env.{key}", f"env: {key!r} is set for each process by {decides}")
        by_name = _SECRET.search(key) and not _PLACE_OF_SECRET.search(key)
        if by_name or _SECRET_ADDRESS.search(key) or _PASSWORD_IN_ADDRESS.search(value):
            raise BadValueError(
                f"env.{key}",
                f"env: {key!r} looks like a secret, and env is written into the run folder as it is;"
                f" export {key} {_INHERITED}, and it is written nowhere",
            )


def check_slurm_options(options: Mapping[str, Scalar]) -> None:
    """Check the sbatch options that are passed through.

    Raises:
        BadValueError: a key is no name of an option, hpc_dl sets the option itself, or it names another cluster.
    """
    for key in options:
        if not re.fullmatch(r"[a-z][a-z0-9-]+", key) and key not in _CLUSTER_OPTIONS:
            reason = "is not an sbatch option; expected its long name without dashes, such as 'qos'"
            raise BadValueError(f"slurm.{key}", f"slurm: {key!r} {reason}")
        # sbatch accepts shortened names of options.
        for option in (key, *sorted(_NOT_FREE)):
            if option in _NOT_FREE and option.startswith(key):
                short = "" if option == key else f"is short for {option!r}, which "
                raise BadValueError(f"slurm.{key}", f"slurm: {key!r} {short}{_why_not_free(option)}")


def _why_not_free(option: str) -> str:
    if option in _CLUSTER_OPTIONS:
        return f"moves sbatch alone to another cluster; {OTHER_CLUSTER}"
    if job_key := _OWN_OPTIONS.get(option):
        return f"has the job key {job_key!r} in its place"
    return "is set by hpc_dl itself, it can't be changed"
