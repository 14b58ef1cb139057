"""Checks of a site: names of variables and sbatch options, secrets, keys that exclude each other."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from hpc_dl import gpus
from hpc_dl.errors import allowed, near_match
from hpc_dl.spec.container import check_container
from hpc_dl.spec.cores import cores_in, one_thread_per_core, physical_cores
from hpc_dl.spec.layers import BadValueError, check_lines
from hpc_dl.spec.site import Scalar, Site

# Options that hpc_dl sets itself, and the job key for each.
_OWN_OPTIONS = {
    "job-name": "name",
    "nodes": "nodes",
    "gres": "gres",
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
OTHER_CLUSTER = (
    "set clusters in the site file, or SLURM_CLUSTERS, to its name: sbatch, squeue, scontrol and scancel all follow it"
)
"""What to do instead of an option that sbatch alone follows."""
_NOT_FREE = {*_OWN_OPTIONS, *_FIXED_OPTIONS, *_CLUSTER_OPTIONS}
# Variables that the job script needs for itself, and variables that bash lets nobody set.
_TAKEN_VARIABLES = {"run", "step", "started", "code", "attempt", "told", "warned", "between", "signalled"}
_TAKEN_VARIABLES |= {"srun", "next", "pause", "unready", "python", "inner", "usual"}
_TAKEN_VARIABLES |= {"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"}
# Variables that would change what bash or the job script's Python does.
_TAKEN_VARIABLES |= {"IFS", "OPTIND", "RANDOM", "SRANDOM", "HISTCMD", "FUNCNEST", "BASH_XTRACEFD", "EXECIGNORE"}
_TAKEN_VARIABLES |= {"ENV", "BASH_ENV", "PYTHONHOME"}
_INHERITED = "in the shell that submits: the job inherits it"
# Variables that have a value of their own in each process, and what decides it.
_PER_PROCESS = {
    "TF_CONFIG": "the placement",
    **dict.fromkeys(gpus.ALL_VARIABLES, "the placement; see gpus and workers"),
    **dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK"), "the placement"),
    **dict.fromkeys(("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"), "the placement"),
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


def schedulers() -> list[str]:
    """Return the names of the schedulers, which are the names of their folders; none is imported."""
    spec = importlib.util.find_spec("hpc_dl.schedulers")
    folders = pkgutil.iter_modules(spec.submodule_search_locations if spec else [])
    return [folder.name for folder in folders if folder.ispkg]


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
    check_gres(site.gres)
    _check_cores(site)
    check_container(site)
    _check_proxy(site.proxy)
    if not re.fullmatch(r"[\w.-]*", site.clusters):
        # sbatch would choose one of several, and the other commands would not know which.
        raise BadValueError("clusters", f"clusters = {site.clusters!r}: expected the name of one cluster")
    for key, other, instead in _excluding(site):
        raise BadValueError(key, f"{key} can't stand beside {other}: {instead}")


def _excluding(site: Site) -> Iterator[tuple[str, str, str]]:
    """Yield two keys that exclude each other, and why, for all such keys that are set."""
    address = f"address = {site.address!r}"
    if site.interface and site.address:
        yield "interface", address, "all nodes are reached at that one address"
    if site.interface and site.interconnect_suffix:
        yield "interface", f"interconnect_suffix = {site.interconnect_suffix!r}", "both say where a node is reached"
    if site.full_names and site.address:
        yield "full_names", address, "all nodes are reached at that one address"
    if site.full_names and site.interface:
        yield "full_names", f"interface = {site.interface!r}", "nodes are reached at its address, not by their names"
    launcher = f"launcher = {site.launcher!r}"
    if site.launcher != "srun" and site.mpi != Site(cores=1).mpi:
        yield "mpi", launcher, f"it is an option of srun; leave it {Site(cores=1).mpi!r}"
    if site.launcher != "mpirun" and site.mpi_library != Site(cores=1).mpi_library:
        yield "mpi_library", launcher, f"it says whose mpirun starts the ranks; leave it {Site(cores=1).mpi_library!r}"
    if site.clean_environment and "export" in site.slurm:
        yield "slurm.export", "clean_environment = true", "that is sbatch --export=NONE"


def _check_proxy(proxy: str) -> None:
    if proxy and not re.fullmatch(r"https?://[^\s/@]+/?", proxy):
        if _PASSWORD_IN_ADDRESS.search(proxy):
            reason = f"proxy holds a password, and is written into the run folder; export http_proxy {_INHERITED}"
            raise BadValueError("proxy", reason)
        raise BadValueError("proxy", f"proxy = {proxy!r}: expected http://HOST:PORT")


def check_gres(gres: Sequence[str]) -> None:
    """Check generic resources as sbatch takes them: ``name``, ``name:count`` or ``name:type:count``.

    Raises:
        BadValueError: one is written in another way, or means GPUs.
    """
    for number, one in enumerate(gres):
        if not re.fullmatch(r"[A-Za-z][\w./-]*(:[\w.-]+){0,2}", one, re.ASCII):
            raise BadValueError(f"gres[{number}]", f"gres = {one!r}: expected name, name:count or name:type:count")
        if re.match(r"(gres[:/])?gpu(:|$)", one):
            reason = "GPUs are asked for by the job key gpus, in the way that the site's gpu_request says"
            raise BadValueError(f"gres[{number}]", f"gres = {one!r}: {reason}")


def _check_cores(site: Site) -> None:
    """Check how the cores of a node are numbered, reserved, and next to which GPU they lie."""
    if one_thread_per_core(site) and site.threads_per_core > 1:
        physical = site.cores // site.threads_per_core
        reason = f"Slurm counts physical cores here, by an option in slurm or srun: set cores = {physical}"
        raise BadValueError(
            "threads_per_core", f"threads_per_core = {site.threads_per_core}: {reason}, and leave it out"
        )
    if site.cores % site.threads_per_core:
        reason = f"cores = {site.cores} are no whole number of physical cores"
        raise BadValueError("threads_per_core", f"threads_per_core = {site.threads_per_core}: {reason}")
    _cores("reserved_cores", site.reserved_cores)
    last = physical_cores(site) * site.threads_per_core - 1
    tables = {number: set(_cores(f"gpu_cores[{number}]", text)) for number, text in enumerate(site.gpu_cores)}
    if tables and site.gpus and len(tables) != site.gpus:
        raise BadValueError("gpu_cores", f"gpu_cores: has the cores of {len(tables)} GPUs, gpus = {site.gpus}")
    for number, cores in tables.items():
        name, text = f"gpu_cores[{number}]", site.gpu_cores[number]
        if max(cores, default=0) > last:
            reason = f"a node has the cores 0 to {last} (cores and reserved_cores)"
            raise BadValueError(name, f"{name} = {text!r}: there is no core {max(cores)}: {reason}")
        for other in range(number):
            if cores != tables[other] and (both := cores & tables[other]):
                reason = f"core {min(both)} is next to GPU {other} too; two GPUs have the same cores, or none in common"
                raise BadValueError(name, f"{name} = {text!r}: {reason}")


def _cores(key: str, text: str) -> tuple[int, ...]:
    try:
        return cores_in(text)
    except ValueError as error:
        raise BadValueError(key, f"{key} = {text!r}: {error}") from None


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
        if not re.fullmatch(r"[a-z][a-z0-9_-]+", key) and key not in _CLUSTER_OPTIONS:
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
