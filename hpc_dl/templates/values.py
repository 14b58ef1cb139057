"""What each template may use. Rendering, the checks of overrides, the listing and the docs all follow this table.

A name that ends in ``/*`` stands for all templates of a folder.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import Mode
from hpc_dl.spec.placement import Process
from hpc_dl.spec.site import Scalar, Site

Table = Sequence[tuple[str, Sequence[Process]]]


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """What every template may use."""

    site: Annotated[Site, Meta(description="the site: its keys are those of a site file")]
    version: Annotated[str, Meta(description="version of hpc_dl")]
    python: Annotated[str, Meta(description="the Python of the nodes")]
    python_module: Annotated[
        Sequence[str], Meta(description="starts a module as `python -m` does, without the current folder on its path")
    ]

    def mapping(self) -> dict[str, Any]:
        """Return name to value."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class ScriptValues(Values, frozen=True, kw_only=True):
    """What every script may use."""

    workdir: Annotated[str, Meta(description="the folder in which it works")]
    directives: Annotated[Mapping[str, Scalar], Meta(description="sbatch options; true: an option without a value")]
    env: Annotated[Mapping[str, str], Meta(description="environment variables of site and job")]


class JobScript(ScriptValues, frozen=True, kw_only=True):
    """What a job script may use."""

    inner_module: Annotated[
        Sequence[str], Meta(description="the same with the Python of the processes, which may be in a container")
    ]
    job: Annotated[JobSpec, Meta(description="the job: its keys are those of a job file, with all defaults filled in")]
    mode: Annotated[Mode, Meta(description="the row of the job's mode in the table of modes")]
    origin: Annotated[str, Meta(description="the job file, or 'keywords'")]
    runs: Annotated[str, Meta(description="the folder of the run folders")]
    data: Annotated[str, Meta(description="the folder of the data sets")]
    nodelist: Annotated[str, Meta(description="names of the nodes of a local run; empty where Slurm gives them")]
    step_options: Annotated[
        Sequence[str], Meta(description="srun options that give a step with a task on each node its GPUs and cores")
    ]

    ps_directives: Annotated[
        Mapping[str, Scalar], Meta(description="sbatch options of the ps_nodes; empty where a job has none")
    ] = {}
    ps_srun: Annotated[Sequence[str], Meta(description="the site's further options of srun for the ps_nodes")] = ()


class NodesScript(ScriptValues, frozen=True, kw_only=True):
    """What the script that checks the nodes may use."""

    job: Annotated[JobSpec, Meta(description="the job whose nodes are checked")]
    run: Annotated[str, Meta(description="the folder in which the nodes answer")]
    step_options: Annotated[
        Sequence[str], Meta(description="srun options that give a step with a task on each node its GPUs and cores")
    ]
    with_data: Annotated[bool, Meta(description="the data set is there, where the check was started")]


class HereScript(ScriptValues, frozen=True, kw_only=True):
    """What the script that checks this machine may use."""

    inner_module: Annotated[
        Sequence[str], Meta(description="the same with the Python of the processes, which may be in a container")
    ]
    job: Annotated[JobSpec, Meta(description="the job that is checked")]
    wanted: Annotated[Sequence[str], Meta(description="the packages that Python must have")]


class TasksScript(ScriptValues, frozen=True, kw_only=True):
    """What the script that runs a task file may use."""

    file: Annotated[str, Meta(description="the task file")]
    options: Annotated[Sequence[str], Meta(description="further options of `hpc-dl tasks run`")]


class TaskFileValues(Values, frozen=True, kw_only=True):
    """What the task file of a job may use."""

    inner_module: Annotated[
        Sequence[str], Meta(description="the same with the Python of the processes, which may be in a container")
    ]
    job: Annotated[JobSpec, Meta(description="the job: its keys are those of a job file, with all defaults filled in")]
    mode: Annotated[Mode, Meta(description="the row of the job's mode in the table of modes")]
    nodes: Annotated[Table, Meta(description="pairs of a node's name and its processes")]
    run: Annotated[str, Meta(description="the run folder")]
    attempt: Annotated[int, Meta(description="which start of the job's processes it is, from 0")]
    separator: Annotated[str, Meta(description="what stands before each process; ':::' unless an argument is that")]
    variables: Annotated[
        Mapping[str, Mapping[str, str]], Meta(description="environment variables of each process by its name: worker:3")
    ]
    command: Annotated[object, Meta(description="the command of every process, as shell code")]
    bin: Annotated[str, Meta(description="the folder of the nodes' Python, where an mpirun may be")]
    ranks: Annotated[int, Meta(description="how many MPI ranks")]
    step_options: Annotated[
        Sequence[str],
        Meta(description="srun options that give the step of all ranks, or of one process, its GPUs and cores"),
    ]


class TaskLine(TaskFileValues, frozen=True, kw_only=True):
    """What a line of the task file may use."""

    node: Annotated[str, Meta(description="the line's node")]
    processes: Annotated[Sequence[Process], Meta(description="the node's processes")]
    p: Annotated[Process, Meta(description="the process, in the block `process` and those inside it")]


VALUES: dict[str, type[Values]] = {
    "base.sh.j2": ScriptValues,
    "job.sh.j2": JobScript,
    "sbatch.sh.j2": JobScript,
    "local.sh.j2": JobScript,
    "tasks.sh.j2": TasksScript,
    "check/nodes.sh.j2": NodesScript,
    "check/here.sh.j2": HereScript,
    "tasks.txt.j2": TaskFileValues,
    "tasks/ranks.j2": TaskFileValues,
    "tasks/*": TaskLine,
}

TEMPLATE = "template"
"""One more value that every template has: its own file."""


def values_of(name: str) -> type[Values] | None:
    """Return what a template may use; None if it may not be overridden."""
    return VALUES.get(name) or VALUES.get(f"{name.rpartition('/')[0]}/*")


STRUCTS: dict[str, type[msgspec.Struct]] = {"site": Site, "job": JobSpec, "mode": Mode, "process": Process}
"""The kinds of values that have keys of their own."""


def fields(values: type[Values]) -> dict[str, type[msgspec.Struct] | None]:
    """Return the names of the values, and the type of those that have keys of their own."""
    kinds = {
        name: typing.get_args(hint)[0] for name, hint in typing.get_type_hints(values, include_extras=True).items()
    }
    return {name: kind if kind in STRUCTS.values() else None for name, kind in kinds.items()}


def keys(struct: type[msgspec.Struct]) -> list[str]:
    """Return the keys that templates may use of a value: its fields and its properties."""
    computed = [name for name in dir(struct) if isinstance(getattr(struct, name), property)]
    return [*struct.__struct_fields__, *computed]


class Value(msgspec.Struct, frozen=True):
    """One value of a template, for people."""

    name: str
    kind: str
    description: str


def described(values: type[Values]) -> Iterator[Value]:
    """Yield the values that a template may use. Values that all templates have come first."""
    for name, hint in typing.get_type_hints(values, include_extras=True).items():
        kind, meta = typing.get_args(hint)
        yield Value(name, _kind(kind), meta.description)
    yield Value(TEMPLATE, "text", "the template's own file")


def _kind(kind: Any) -> str:
    """Return what a type is called for people."""
    names: dict[Any, str] = {str: "text", int: "number", bool: "true or false", object: "words"}
    names |= {Table: "pairs", Scalar: "value"} | {struct: name for name, struct in STRUCTS.items()}
    if kind in names:
        return names[kind]
    parts = typing.get_args(kind)
    return f"list of {_kind(parts[0])}" if len(parts) == 1 else "table"
