"""Submission of a task file: a batch script that runs it on the nodes of a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.planning.plan import script_values
from hpc_dl.schedulers import which_of
from hpc_dl.schedulers.slurm.gpu_request import node_step_request
from hpc_dl.schedulers.slurm.sbatch import submit_text
from hpc_dl.schedulers.slurm.sbatch_options import minutes, step_threads, with_site
from hpc_dl.schedulers.slurm.scheduler import scheduler
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer, build, check_lines
from hpc_dl.spec.site import Scalar, Site
from hpc_dl.spec.site_files import config_home
from hpc_dl.tasks.demand import RunOptions, without_impossible
from hpc_dl.tasks.file.task import TaskFile
from hpc_dl.tasks.gpu_rule import GpuRule
from hpc_dl.tasks.pool import Demand, Node, problem
from hpc_dl.templates import Renderer, template_folders
from hpc_dl.templates.overrides import check_overrides
from hpc_dl.templates.values import TasksScript

_NOTICE = 60  # seconds before the time limit


class Request(msgspec.Struct, frozen=True):
    """What the job of a task file asks for.

    Args:
        nodes: how many nodes.
        gpus: GPUs of each node; None: all that the site's nodes have.
        cores: cores of each node; None: all.
        time: time limit, as Slurm writes it.
        partition: empty: the site's.
        name: of the job; empty: the file's.
        options: of ``hpc-dl tasks run``.
    """

    nodes: int
    gpus: int | None = None
    cores: int | None = None
    time: str = "1:00:00"
    partition: str = ""
    name: str = ""
    options: tuple[str, ...] = ()


def script(file: Path, request: Request, site: Site, folders: Sequence[Path]) -> str:
    """Return the batch script.

    Args:
        file: the task file.
        request: what the job asks for.
        site: where it runs.
        folders: template folders that take precedence over ours, strongest first.

    Raises:
        UserError: a template is not valid, a text has a line break, or Slurm can't write a log at this path.
    """
    check_overrides(folders)
    path = file.absolute()
    texts = {"current folder": str(Path.cwd()), "task file": str(path)}
    check_lines({**texts, "--name": request.name, "--partition": request.partition})
    values = TasksScript(
        **script_values(site, str(Path.cwd()), directives(path, request, site)),
        file=str(path),
        options=(*request.options, *_of_the_site(site, request)),
    )
    return Renderer(folders).render("tasks.sh.j2", values)


def _of_the_site(site: Site, request: Request) -> list[str]:
    """Return the options of ``hpc-dl tasks run`` that tell it what is different on this site."""
    gpus = site.gpus if request.gpus is None else request.gpus
    srun = [*node_step_request(site, gpus, site.gres), *step_threads(site), *_of_agents(site.srun)]
    rule = GpuRule.of(site, gpus)
    return [*(f"--srun={option}" for option in srun), *([] if rule == GpuRule() else [f"--gpu-rule={rule.text}"])]


def _of_agents(srun: Sequence[str]) -> Iterator[str]:
    """Yield the options of srun that agents follow too: they are bound to the job's cores, and are no MPI ranks."""
    words = iter(srun)
    for word in words:
        if word in ("--cpu-bind", "--mpi"):
            next(words, None)
        elif not word.startswith(("--cpu-bind=", "--mpi=")):
            yield word


def directives(path: Path, request: Request, site: Site) -> Mapping[str, Scalar]:
    """Return the ``#SBATCH`` options (man sbatch); True stands for an option without a value.

    Raises:
        UserError: Slurm can't write a log at this path, or the time limit is not valid.
    """
    build(JobSpec, [Layer({"time": request.time}, "--time")], "job")
    if "\\" in str(path):
        raise UserError(f"{str(path)!r}: Slurm replaces no %j in a path with a backslash; rename it")
    options: dict[str, Scalar] = {
        "job-name": request.name or path.name,
        "nodes": request.nodes,
        # One agent on each node.
        "ntasks-per-node": 1,
        "cpus-per-task": request.cores or site.cores,
        "time": request.time,
        "output": f"{str(path).replace('%', '%%')}-%j.log",
        "open-mode": "append",
        # Time to end the tasks and to write the restart file, but at most a fifth of a short job.
        "signal": f"B:USR2@{min(_NOTICE, minutes(request.time) * 60 // 5) or _NOTICE}",
    }
    return with_site(options, site, site.gpus if request.gpus is None else request.gpus, request.partition)


def check(file: TaskFile, request: Request, site: Site, options: RunOptions) -> None:
    """Check, before the job is queued, that all lines are valid and that it will have room for each task.

    Node names and memory are not checked: only Slurm knows which nodes the job will get.

    Raises:
        UserError: some lines are not valid or some tasks don't fit; all of them are named.
    """
    cores = tuple(range(request.cores or site.cores))
    gpus = tuple(map(str, range(site.gpus if request.gpus is None else request.gpus)))
    nodes = [Node("node", cores, gpus)] * request.nodes

    def impossible(wanted: Demand) -> str:
        return problem(nodes, msgspec.structs.replace(wanted, memory=0, node=""))

    without_impossible(file, impossible, options).check()


def submit(text: str, site: Site) -> str:
    """Submit a batch script and return the job id.

    Raises:
        UserError: Slurm refuses it.
    """
    return submit_text(text, scheduler(which_of(site)).environ)


def site_templates(site_path: Path) -> list[Path]:
    """Return the template folders of user and site."""
    return template_folders(None, site_path, config_home())
