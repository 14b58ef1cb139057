"""The task file of a job: a line per node, which starts the node's processes. Pure functions."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import msgspec

import hpc_dl
from hpc_dl.planning.process_env import variables
from hpc_dl.processes import python_module
from hpc_dl.schedulers import scheduler_of
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.placement import Placement
from hpc_dl.spec.site import Site
from hpc_dl.spec.training import program_options
from hpc_dl.templates import Renderer, shell
from hpc_dl.templates.values import TaskFileValues


def task_file(job: JobSpec, site: Site, placement: Placement, run: str, renderer: Renderer, attempt: int = 0) -> str:
    """Return the task file: one line per node, which starts the node's processes.

    Args:
        job: a resolved job.
        site: its site.
        placement: where its processes are.
        run: the run folder.
        renderer: renders the templates.
        attempt: the attempt that it is for.

    Raises:
        UserError: a template is not valid.
    """
    separator = ":::"
    while separator in job.args:
        separator += ":"
    values = TaskFileValues(
        **common(site),
        inner_module=inner_module(job, site),
        job=job,
        mode=MODES[job.mode],
        nodes=list(placement.by_node().items()),
        run=run,
        attempt=attempt,
        separator=separator,
        variables={process.name: variables(process, job, site) for process in placement.processes},
        # Quoted once, not once per process.
        command=shell(command(job, site, run)),
        # For an MPI job: an mpirun in the environment of this Python comes before any other.
        bin=str(Path(nodes_python(site)).parent),
        ranks=job.nodes * job.per_node,
        step_options=scheduler_of(site).step_options(job, site, job.per_node if MODES[job.mode].ranks else 1),
    )
    return renderer.render("tasks.txt.j2", values)


def command(job: JobSpec, site: Site, run: str) -> list[str]:
    """Return the command that every process of the job runs."""
    if job.script:
        own = [job.script, *job.args]
        return [_own_python(job, site) or nodes_python(site), *own] if job.script.endswith(".py") else own
    folders = [f"--data-dir={Path(job.workdir, site.data)}", f"--run-dir={run}"]
    return [*inner_module(job, site), "hpc_dl.train", *folders, *program_options(job), *job.args]


def inner_module(job: JobSpec, site: Site) -> list[str]:
    """Return a command that runs a module of ours with the Python of the processes, maybe in a container."""
    if not (python := _own_python(job, site)):
        return python_module(nodes_python(site))
    packages = Path(msgspec.__file__).parents[1]
    return [python, str(Path(hpc_dl.__file__).parent / "inside.py"), str(packages)]


def _own_python(job: JobSpec, site: Site) -> str:
    """Return the Python of the processes where it is not that of their launchers; else an empty text."""
    return site.container_python if site.in_container else job.python


def common(site: Site) -> dict[str, Any]:
    """Return the values that every template may use (`Values`)."""
    python = nodes_python(site)
    version = importlib.metadata.version("hpc_dl")
    return {
        "site": site,
        "version": version,
        "python": python,
        "python_module": python_module(python),
    }


def nodes_python(site: Site) -> str:
    """Return the Python that runs on the nodes."""
    return site.python or sys.executable
