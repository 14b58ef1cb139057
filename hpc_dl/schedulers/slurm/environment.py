"""Which environment variables Slurm's commands and jobs get."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

# Variables that hpc-dl would read as its own options, or that describe the Slurm job around us: never inherited.
_FOREIGN = ("HPC_DL_", "SLURM_", "SRUN_", "PMI_")
# sbatch would prefer these to the options in our script (man sbatch, "INPUT ENVIRONMENT VARIABLES").
_OF_SBATCH = ("SBATCH_JOB_NAME", "SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_OPEN_MODE", "SBATCH_ARRAY_INX", "SBATCH_WAIT")
# Variables of the make that runs us. A make in the job would take over our settings (NODES=2) and our jobserver.
_OF_MAKE = ("MAKELEVEL", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKE_TERMOUT", "MAKE_TERMERR")
_KEPT = (
    "HPC_DL_CLUSTER_DIR",
    "HPC_DL_SLURM_PREFIX",
    "SLURM_CONF",
    "SLURM_CONF_SERVER",
    "SLURM_CLUSTERS",
    "SLURM_TIME_FORMAT",
)
# Not inherited when we run inside a job. Outside a job these are the user's own settings.
_FOREIGN_INSIDE = ("SBATCH_", "SLURMD_", "SALLOC_", "PMIX_", "OMPI_", "OPAL_", "PRTE_", "TF_CONFIG")
_INSIDE = ("SLURM_JOB_ID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "HPC_DL_RUN")

# User settings such as SQUEUE_FORMAT that change the output of Slurm's commands (man squeue, "ENVIRONMENT VARIABLES").
_CHANGING = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_")

# Options whose variable is not SBATCH_ and the option's name (man sbatch, "INPUT ENVIRONMENT VARIABLES").
_VARIABLES = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE", "array": "ARRAY_INX", "switches": "REQ_SWITCH"}
# Groups of options: if the script has one of a group, the variables of the others don't count either.
_TOGETHER = ({"gres", "gpus", "gpus-per-node", "gpus-per-task"}, {"requeue", "no-requeue"})

# srun reads these as options. They describe the job's own steps: number of tasks, and resources of each task.
_STEP = re.compile(
    r"SLURM_(N?TASKS\w*|NPROCS|NNODES|DISTRIBUTION|GPUS|GPUS_PER_TASK|TRES_PER_TASK|CPUS_PER_TASK|EXACT|CPU_BIND\w*)|SRUN_\w+"
)


def inheritable(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a new job, without variables of a job around us and without options of `hpc-dl`."""
    inside = any(key in environ for key in _INSIDE)
    foreign = (*_FOREIGN, *(_FOREIGN_INSIDE if inside else ()))
    dropped = (*_OF_SBATCH, *(_OF_MAKE if "MAKELEVEL" in environ else ()))
    return {k: v for k, v in environ.items() if k in _KEPT or not (k in dropped or k.startswith(foreign))}


def for_sbatch(environ: Mapping[str, str], script: str) -> dict[str, str]:
    """Return an environment for sbatch, without the SBATCH_* variables that would win over options in the script."""
    decided = set(_decided(re.findall(r"^#SBATCH --([\w-]+)", script, re.MULTILINE)))
    return {key: value for key, value in inheritable(environ).items() if key not in decided}


def _decided(options: list[str]) -> Iterator[str]:
    """Yield the variables of options, and of all options in the groups of these."""
    together = {other for group in _TOGETHER if group & set(options) for other in group}
    for option in {*options, *together}:
        yield "SBATCH_" + _VARIABLES.get(option, option.upper().replace("-", "_"))


def for_cluster(environ: Mapping[str, str], clusters: str, conf: str) -> Mapping[str, str]:
    """Return an environment in which all of Slurm's commands ask one of several clusters; empty: as it is."""
    asked = {"SLURM_CLUSTERS": clusters, "SLURM_CONF": conf}
    return {**environ, **{key: value for key, value in asked.items() if value}}


def for_slurms_commands(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which squeue, sacct, sinfo, scancel and scontrol do what their options say."""
    return {key: value for key, value in environ.items() if not key.startswith(_CHANGING)}


def without_step(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables that srun would read as options of a new step."""
    return {key: value for key, value in environ.items() if not _STEP.fullmatch(key)}
