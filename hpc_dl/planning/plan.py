"""Plan: everything that a job will be, before it exists. The preview and the real job come from here both."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.runfolder.start_from import resolve_start
from hpc_dl.schedulers.slurm.described_site import in_partition
from hpc_dl.spec.job import JobSpec, job_file, load_job
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.nodelist import expand, fold
from hpc_dl.spec.placement import NodeFacts, Placement, expected_facts, place, resolve
from hpc_dl.spec.site import Scalar, Site, config_home
from hpc_dl.templates import Renderer, shell, template_folders


class Plan(msgspec.Struct, frozen=True):
    """A resolved job on its site, with the templates that will render it."""

    job: JobSpec
    asked: JobSpec
    """The job before the site's defaults were filled in."""
    site: Site
    origin: str
    """The job description's path, or "keywords"."""
    templates: tuple[Path, ...]
    """Template folders, strongest first, without ours."""

    @property
    def version(self) -> str:
        """Return the version of hpc_dl, which rendered files name."""
        return importlib.metadata.version("hpc_dl")

    @property
    def runs(self) -> Path:
        """Return the folder that holds the run folders."""
        return Path(self.job.workdir, self.site.runs)

    def preview_nodes(self) -> list[str]:
        """Return the node names to assume where Slurm has not assigned any; some are made up if the site has too few.

        Raises:
            UserError: a local run's site has fewer nodes than the job wants.
        """
        names = expand(self.site.nodes)
        if self.site.scheduler == "slurm":
            # How many there are only Slurm knows: the site's key may be its default, or of another partition.
            names = list(dict.fromkeys([*names, *expand(f"node[1-{self.job.nodes}]")]))
        if len(names) < self.job.nodes:
            raise UserError(f"nodes = {self.job.nodes}: site {self.site.name!r} has {len(names)} ({self.site.nodes})")
        return names[: self.job.nodes]

    def script(self) -> str:
        """Return the job script: what ``sbatch`` gets, or what a local run executes."""
        name = "local.sh.j2" if self.site.scheduler == "local" else "sbatch.sh.j2"
        values = {
            "directives": directives(self.job, self.site, self.runs),
            "runs": str(self.runs),
            "data": str(Path(self.job.workdir, self.site.data)),
            "nodelist": fold(self.preview_nodes()) if self.site.scheduler == "local" else "",
        }
        return Renderer(self.templates).render(name, {**_common(self.job, self.site), **values, "origin": self.origin})

    def placement(self, nodelist: str = "") -> Placement:
        """Return the placement on the nodes of `nodelist`, or on the site's first ones.

        Raises:
            UserError: the list is malformed or has not as many nodes as the job.
        """
        names = expand(nodelist) if nodelist else self.preview_nodes()
        if len(names) != self.job.nodes:
            raise UserError(f"node list {nodelist!r}: has {len(names)} nodes, the job wants {self.job.nodes}")
        return place(self.job, self.site, expected_facts(self.job, self.site, names))

    def task_file(self, placement: Placement, run: str) -> str:
        """Return the task file for a placement, with `run` as the run folder."""
        return task_file(self.job, self.site, placement, run, Renderer(self.templates))


def make_plan(
    job: str | None, site: Site, site_path: Path, overrides: Sequence[Layer] = (), nodelist: str = ""
) -> Plan:
    """Read a job description and resolve it on a site.

    Args:
        job: name or path of a job file; None: the defaults.
        site: where to run; one without a file is described anew for the job's partition.
        site_path: the site's file, beside which its templates stand.
        overrides: what the command line, make or keywords change, weakest first.
        nodelist: nodes of a preview; they set the number of nodes, unless `overrides` do.

    Raises:
        UserError: something is not valid.
    """
    path = job_file(job) if job else None
    if nodelist:
        overrides = [Layer({"nodes": len(expand(nodelist))}, "node list"), *overrides]
    spec = load_job(path, overrides)
    site = in_partition(site, spec.partition)
    folders = tuple(template_folders(path, site_path, config_home()))
    return Plan(resolve(resolve_start(spec), site), spec, site, str(path.absolute()) if path else "keywords", folders)


def task_file(job: JobSpec, site: Site, placement: Placement, run: str, renderer: Renderer, attempt: int = 0) -> str:
    """Return the task file: one line per node, which starts the node's processes.

    Args:
        job: a resolved job.
        site: its site.
        placement: where its processes are.
        run: the run folder.
        renderer: of the templates.
        attempt: which start of the processes it is for.

    Raises:
        UserError: a template is not valid.
    """
    separator = ":::"
    while separator in job.args:
        separator += ":"
    values = {
        **_common(job, site),
        "nodes": placement.by_node().items(),
        "run": run,
        "attempt": attempt,
        "separator": separator,
        # Quoted once, not once per process.
        "command": shell(command(job, site, run)),
        # Of an MPI job: an mpirun in the environment of this Python comes before any other.
        "bin": str(Path(nodes_python(site)).parent),
        "ranks": job.nodes * job.per_node,
    }
    return renderer.render("tasks.txt.j2", values)


def command(job: JobSpec, site: Site, run: str) -> list[str]:
    """Return the command that every process of the job runs."""
    if job.script:
        own = [job.script, *job.args]
        return [nodes_python(site), *own] if job.script.endswith(".py") else own
    options: dict[str, Any] = {
        "mode": job.mode,
        "model": job.model,
        "data": job.data,
        "data-dir": str(Path(job.workdir, site.data)),
        "run-dir": run,
        "steps": job.steps,
        "batch": job.batch,
        "learning-rate": job.learning_rate,
        "lr-boundaries": ",".join(map(str, job.lr_boundaries)),
        "momentum": job.momentum,
        "weight-decay": job.weight_decay,
        "seed": job.seed,
        "checkpoint-every": job.checkpoint_every,
        "log-every": job.log_every,
        "eval-every": job.eval_every,
    }
    options |= {key.replace("_", "-"): _text(value) for key, value in job.mode_settings.items()}
    if job.start_from:
        options["start-from"] = job.start_from
    words = [f"--{key}={value}" for key, value in options.items()]
    return [nodes_python(site), "-m", "hpc_dl.train", *words, *job.args]


def _text(value: object) -> str:
    """Return a setting as the training program reads it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def directives(job: JobSpec, site: Site, runs: Path) -> dict[str, Scalar]:
    """Return the ``#SBATCH`` options of a resolved job (man sbatch); True stands for an option without a value.

    Raises:
        UserError: Slurm can't write a log into this path.
    """
    if "\\" in str(runs) and site.scheduler == "slurm":
        raise UserError(
            f"run folders in {str(runs)!r}: Slurm replaces no %j in a path with a backslash; set workdir or runs"
        )
    options: dict[str, Scalar] = {
        "job-name": job.name,
        "nodes": job.nodes,
        # One task per node: it starts the node's processes.
        "ntasks-per-node": 1,
        "cpus-per-task": job.cores or site.cores,
        "time": job.time,
        # Slurm replaces %j by the job's number; a % of the path itself is doubled.
        "output": f"{str(runs).replace('%', '%%')}/{job.name}-%j/job.log",
        # A requeued job must not lose the log of its first run.
        "open-mode": "append",
    }
    if job.requeues:
        options["requeue"] = True
        if site.notice:
            # To the batch shell alone; srun would not pass it on in time. Slurm may send it up to a minute early, which
            # must not eat most of a short job.
            options["signal"] = f"B:USR1@{min(site.notice, minutes(job.time) * 60 // 5)}"
    return with_site(options, site, job.gpus or 0, job.partition, job.slurm)


def with_site(
    options: Mapping[str, Scalar], site: Site, gpus: int, partition: str = "", own: Mapping[str, Scalar] | None = None
) -> dict[str, Scalar]:
    """Return sbatch options with what every job of a site adds: GPUs, exclusive nodes, partition, further options.

    Args:
        options: what is set already.
        site: the site.
        gpus: GPUs per node.
        partition: the job's choice; empty: the site's.
        own: further options of the job, which win over the site's; false takes an option away.
    """
    options = dict(options)
    if gpus:
        options["gres"] = f"{site.gres}:{gpus}"
    if site.exclusive:
        options["exclusive"] = True
    if partition := partition or site.partition:
        options["partition"] = partition
    for key, value in {**site.slurm, **(own or {})}.items():
        if value is False or value == "false":
            options.pop(key, None)
        else:
            options[key] = True if value == "true" else value
    return options


def minutes(time: str) -> int:
    """Return a Slurm time limit in minutes, rounded up (man sbatch, --time)."""
    days, _, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        parts += [0] * (3 - len(parts))
        seconds = ((int(days) * 24 + parts[0]) * 60 + parts[1]) * 60 + parts[2]
    elif len(parts) == 3:
        seconds = (parts[0] * 60 + parts[1]) * 60 + parts[2]
    else:
        seconds = parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)
    return -(-seconds // 60)


def first_port(job_id: str) -> int:
    """Return where in the site's port range a job starts: jobs with numbers in a row don't meet on a node."""
    digits = re.sub(r"\D", "", job_id)
    return int(digits or 0) * 97


def placed(job: JobSpec, site: Site, facts: Mapping[str, NodeFacts], nodelist: str, job_id: str) -> Placement:
    """Return the placement of a running job on the nodes that Slurm assigned, from what they told.

    Raises:
        UserError: a node told nothing, or lacks what the job needs.
    """
    names = expand(nodelist)
    if silent := [name for name in names if name not in facts]:
        raise UserError(f"node {silent[0]}: told nothing about itself; {len(facts)} of {len(names)} nodes did")
    return place(job, site, [facts[name] for name in names], first_port(job_id))


def _common(job: JobSpec, site: Site) -> dict[str, Any]:
    return {"job": job, "site": site, "python": nodes_python(site), "version": importlib.metadata.version("hpc_dl")}


def nodes_python(site: Site) -> str:
    """Return the Python that runs on the nodes."""
    return site.python or sys.executable
