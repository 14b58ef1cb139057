"""Site: one cluster, as its TOML file in ``env/sites`` describes it."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=1024, le=65535)]
Scalar = str | int | float | bool


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a job must know of a cluster. Every field is a key of the site file."""

    name: Annotated[str, Meta(description="the file's name without .toml")] = ""
    description: Annotated[str, Meta(description="one line for people")] = ""
    base: Annotated[
        str,
        Meta(
            description="the site whose keys count where this file has none; without this key: the site of the same"
            " name in a later folder; empty: none"
        ),
    ] = ""
    scheduler: Annotated[str, Meta(description="who starts jobs; see hpc_dl/schedulers")] = "slurm"
    cluster: Annotated[str, Meta(description="Slurm's ClusterName; the site is chosen by itself there")] = ""
    login_nodes: Annotated[
        tuple[str, ...],
        Meta(
            description="patterns of what `hostname` prints, such as login*.example.org, where the site is chosen by"
            " itself"
        ),
    ] = ()
    clusters: Annotated[
        str, Meta(description="the cluster that all Slurm commands ask, where several share one login (sbatch -M)")
    ] = ""
    slurm_conf: Annotated[str, Meta(description="the slurm.conf that all Slurm commands read (SLURM_CONF)")] = ""
    nodes: Annotated[str, Meta(description="node names, such as nvb[1-39]; for previews, and for local runs")] = (
        "node[1-64]"
    )

    cores: Annotated[int, Meta(ge=1, description="cores of a node, as sbatch counts them in --cpus-per-task")]
    threads_per_core: Annotated[
        int, Meta(ge=1, le=8, description="how many of the `cores` are hardware threads of one physical core")
    ] = 1
    reserved_cores: Annotated[
        str, Meta(description="cores of a node that jobs never get, such as 0,8,16-23; sinfo counts them")
    ] = ""
    memory_gb: (
        Annotated[float, Meta(gt=0, le=sys.float_info.max, description="memory of a node; no job may ask for more")]
        | None
    ) = None
    gpus: Annotated[Count, Meta(description="GPUs of a node")] = 0
    gpu_type: Annotated[str, Meta(description="the type in gres, as in gpu:k80:4; empty where gres has none")] = ""
    gpu_vendor: Annotated[
        Literal["nvidia", "amd", "other"],
        Meta(description="who made the GPUs; decides the variable that gives them to a process"),
    ] = "nvidia"
    gpu_memory_gb: Annotated[float, Meta(gt=0, le=sys.float_info.max, description="memory of a GPU")] | None = None
    gpu_request: Annotated[
        Literal["gres", "gpus-per-node", "gpus-per-task", "gpus", "none"],
        Meta(description="the sbatch option that asks for GPUs; none: nodes have them without asking"),
    ] = "gres"
    step_gpu_request: Annotated[
        Literal["", "gres", "gpus-per-node", "gpus-per-task", "gpus"],
        Meta(description="the srun option that asks for a step's GPUs; empty: a step has those of its job"),
    ] = ""
    gpu_list: Annotated[
        Literal["slurm", "all"],
        Meta(description="how a node's GPUs are found: by the variables that Slurm sets, or all `gpus` from number 0"),
    ] = "slurm"
    gpu_cores: Annotated[
        tuple[str, ...],
        Meta(description='the cores next to GPU 0, 1, …, such as ["48-63", "32-47"]; empty: the node is asked'),
    ] = ()
    gres: Annotated[
        tuple[str, ...],
        Meta(description="further generic resources of each node, such as nvme:100; a job may replace them"),
    ] = ()
    fake_gpus: Annotated[
        bool, Meta(description="the GPUs need not exist: where TensorFlow sees none, training computes on cores")
    ] = False
    exclusive: Annotated[bool, Meta(description="jobs get whole nodes, with all their cores")] = False

    interconnect_suffix: Annotated[
        str, Meta(description="suffix of a node's name on the fast network, such as -ib0")
    ] = ""
    full_names: Annotated[bool, Meta(description="processes reach a node by its full name, with the domain")] = False
    interface: Annotated[
        str,
        Meta(
            description="the network interface of the fast network, such as ib0: its address, and that of NCCL and Gloo"
        ),
    ] = ""
    address: Annotated[str, Meta(description="the one address of all nodes, where they are one machine")] = ""
    ports: Annotated[tuple[Port, Port], Meta(description="first and last port that jobs may use")] = (20000, 29999)
    proxy: Annotated[
        str,
        Meta(
            description="the web proxy of the nodes, such as http://proxy:3128; the nodes reach each other without it"
        ),
    ] = ""

    partition: Annotated[str, Meta(description="default partition")] = ""
    slurm: Annotated[dict[str, Scalar], Meta(description="further sbatch options")] = {}
    srun: Annotated[tuple[str, ...], Meta(description="further options of srun")] = ("--cpu-bind=none",)
    launcher: Annotated[Literal["srun", "mpirun", "ibrun"], Meta(description="who starts MPI ranks")] = "srun"
    mpi: Annotated[
        str,
        Meta(description="what srun --mpi is for MPI ranks, such as pmix, pmi2 or cray_shasta; empty: Slurm's default"),
    ] = "pmix"
    mpi_library: Annotated[
        Literal["openmpi", "intelmpi", "mpich"], Meta(description="whose mpirun it is; decides its options")
    ] = "openmpi"
    mpirun: (
        Annotated[
            tuple[str, ...],
            Meta(description="further options of mpirun or ibrun; without the key, Open MPI gets --bind-to none"),
        ]
        | None
    ) = None
    grace: Annotated[int, Meta(ge=1, le=3600, description="seconds between SIGTERM and SIGKILL")] = 20

    notice: Annotated[
        int,
        Meta(ge=0, le=3600, description="seconds before the time limit at which a job saves and is requeued"),
    ] = 60

    login_shell: Annotated[bool, Meta(description="the job script runs in a login shell (#!/bin/bash -l)")] = False
    clean_environment: Annotated[
        bool, Meta(description="a job inherits nothing from the shell that submits it (sbatch --export=NONE)")
    ] = False
    module_init: Annotated[str, Meta(description="the file that defines the module command, where batch lacks it")] = ""
    before_modules: Annotated[
        tuple[str, ...],
        Meta(description="shell lines before the modules, such as module purge; a line that fails ends the job"),
    ] = ()
    modules: Annotated[tuple[str, ...], Meta(description="modules that a job loads, in this order")] = ()
    after_modules: Annotated[
        tuple[str, ...], Meta(description="shell lines after the modules, such as source env/bin/activate")
    ] = ()
    env: Annotated[dict[str, str], Meta(description="environment variables of a job")] = {}
    python: Annotated[str, Meta(description="the Python of the nodes; empty: the one that runs hpc-dl")] = ""
    container: Annotated[
        tuple[str, ...],
        Meta(description='the command that starts a process in a container, such as ["apptainer", "exec", "tf.sif"]'),
    ] = ()
    container_srun: Annotated[
        tuple[str, ...],
        Meta(description="the srun options that start a process in a container, such as --container-image=…"),
    ] = ()
    container_python: Annotated[str, Meta(description="the Python in the container")] = "python3"

    network_gbit: (
        Annotated[
            float,
            Meta(
                gt=0, le=sys.float_info.max, description="Gbit/s of a node's network, where the node does not tell it"
            ),
        ]
        | None
    ) = None
    node_price: (
        Annotated[
            float,
            Meta(ge=0, le=sys.float_info.max, description="price of a node for an hour, in the unit of your accounts"),
        ]
        | None
    ) = None

    runs: Annotated[str, Meta(description="where run folders go, on a disk that all nodes share")] = "runs"
    data: Annotated[str, Meta(description="where data sets are, on a disk that all nodes share")] = "data"
    local_disk: Annotated[
        str, Meta(description="a node's own disk, such as /scratch/$USER; empty: $TMPDIR or /tmp")
    ] = ""
    partitions: Annotated[
        dict[str, dict[str, Any]], Meta(description="keys that are different in a partition: [partitions.NAME]")
    ] = {}

    def host(self, node: str) -> str:
        """Return where the processes of other nodes reach a node, as far as its name tells."""
        name, dot, domain = node.partition(".")
        return self.address or f"{name}{self.interconnect_suffix}{dot}{domain}"

    @property
    def mpirun_options(self) -> tuple[str, ...]:
        """Return the further options of mpirun or ibrun. Processes bind themselves to cores."""
        if self.mpirun is not None:
            return self.mpirun
        return ("--bind-to", "none") if (self.launcher, self.mpi_library) == ("mpirun", "openmpi") else ()

    @property
    def in_container(self) -> bool:
        """Return whether processes run in a container."""
        return bool(self.container or self.container_srun)

    @property
    def gpu_gres(self) -> str:
        """Return the gres name of the GPUs, ``gpu:k80`` or ``gpu``; the count is for the job to add."""
        return f"gpu:{self.gpu_type}" if self.gpu_type else "gpu"
