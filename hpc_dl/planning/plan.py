"""Plan: a resolved job before it exists. Both the preview and the real job are made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.planning.place import expected_facts, place, resolve
from hpc_dl.planning.site_env import site_env
from hpc_dl.planning.task_file import common, inner_module, nodes_python, task_file
from hpc_dl.runfolder.start_from import resolve_start
from hpc_dl.schedulers import scheduler_of
from hpc_dl.spec.container import container_places, with_job
from hpc_dl.spec.job import JobSpec, job_file, load_job
from hpc_dl.spec.layers import Layer, check_lines, is_file, read_toml
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.nodelist import expand, fold
from hpc_dl.spec.placement import Placement
from hpc_dl.spec.site import Scalar, Site
from hpc_dl.spec.site_files import config_home, load_site, site_layers
from hpc_dl.templates import Renderer, template_folders
from hpc_dl.templates.library import Library
from hpc_dl.templates.overrides import check_overrides
from hpc_dl.templates.values import JobScript


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
    site_path: Path = Path()
    """The site's file, which need not exist."""
    ps_site: Site | None = None
    """The site as its file describes the partition of the ps_nodes; None: the job has none."""
    array: str = ""
    """The numbers of the elements of an array, such as ``0-9%2``; empty: it is a single job."""
    places: dict[str, str] = {}
    """Where the keys of the container stand: file and line, or option."""

    @property
    def runs(self) -> Path:
        """Return the folder that holds the run folders."""
        return Path(self.job.workdir, self.site.runs)

    def preview_nodes(self) -> list[str]:
        """Return the node names to assume before Slurm has assigned any; some are made up if the site has too few.

        Raises:
            UserError: a local run's site has fewer nodes than the job wants.
        """
        names = expand(self.site.nodes)
        if not scheduler_of(self.site).one_machine:
            # Only the scheduler knows how many nodes there are: the site's key may be its default, or mean another
            # partition.
            names = list(dict.fromkeys([*names, *expand(f"node[1-{self.job.nodes}]")]))
        if len(names) < self.job.nodes:
            raise UserError(f"nodes = {self.job.nodes}: site {self.site.name!r} has {len(names)} ({self.site.nodes})")
        return names[: self.job.nodes]

    def _with_ps_nodes(self, names: list[str]) -> list[str]:
        """Return names of worker nodes, followed by made-up names of the ps_nodes."""
        return [*names, *(f"ps-node{number + 1}" for number in range(self.job.ps_nodes))]

    def script(self) -> str:
        """Return the job script: what ``sbatch`` gets, or what a local run executes."""
        scheduler = scheduler_of(self.site)
        values = JobScript(
            **script_values(
                self.site,
                self.job.workdir,
                scheduler.directives(self.job, self.site, self.runs, self.array),
                self.job.env,
            ),
            inner_module=inner_module(self.job, self.site),
            job=self.job,
            mode=MODES[self.job.mode],
            origin=self.origin,
            runs=str(self.runs),
            data=str(Path(self.job.workdir, self.site.data)),
            nodelist=fold(self.preview_nodes()),
            step_options=scheduler.step_options(self.job, self.site, 1),
            ps_directives=scheduler.ps_directives(self.job, self.ps_site) if self.ps_site else {},
            ps_srun=self.ps_site.srun if self.ps_site else (),
        )
        return Renderer(self.templates).render(scheduler.template, values)

    def task_templates(self) -> dict[str, Path]:
        """Return name and file of the templates that the job itself will need, once it knows its nodes."""
        return Library(self.templates).closure(["tasks.txt.j2", MODES[self.job.mode].template])

    def placement(self, nodelist: str = "") -> Placement:
        """Return the placement on the nodes of `nodelist`, or on the site's first ones.

        Raises:
            UserError: the list is malformed or has not as many nodes as the job.
        """
        names = expand(nodelist) if nodelist else self.preview_nodes()
        if len(names) == self.job.nodes:
            names = self._with_ps_nodes(names)
        if len(names) != self.job.nodes + self.job.ps_nodes:
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
        site: where to run.
        site_path: the site's file; its templates are beside it.
        overrides: what the command line, make or keywords change, weakest first.
        nodelist: nodes of a preview; they set the number of nodes, unless `overrides` do.

    Raises:
        UserError: something is not valid.
    """
    path = job_file(job) if job else None
    if nodelist:
        overrides = [Layer({"nodes": len(expand(nodelist))}, "node list"), *overrides]
    spec = load_job(path, overrides)
    folders = tuple(template_folders(path, site_path, config_home()))
    check_overrides(folders)
    site = with_job(site, spec)
    check_lines({"python": nodes_python(site)})
    origin = str(path.absolute()) if path else "keywords"
    resolved = resolve(resolve_start(spec), site)
    ps_site = _ps_site(resolved, site, site_path) if resolved.ps_nodes else None
    job_layers = [*([read_toml(path)] if path else []), *overrides]
    places = container_places(job_layers, site_layers(site_path) if is_file(site_path) else [])
    return Plan(resolved, spec, site, origin, folders, site_path, ps_site, places=places)


def _ps_site(job: JobSpec, site: Site, path: Path) -> Site:
    """Return the site as its file describes the partition of the ps_nodes."""
    return load_site(path, job.ps_partition or job.partition) if is_file(path) else site


def script_values(
    site: Site, workdir: str, options: Mapping[str, Scalar], env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the values that all scripts may use (`ScriptValues`); `env` wins over the site's."""
    return {**common(site), "workdir": workdir, "directives": options, "env": {**site_env(site), **(env or {})}}
