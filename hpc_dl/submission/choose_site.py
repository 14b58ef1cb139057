"""Choosing the site: the one that the user named, else the one that this machine belongs to."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hpc_dl.schedulers import scheduler_of, schedulers
from hpc_dl.spec.job import job_file, load_job
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import load_site, site_file, site_files, site_folders, site_layers
from hpc_dl.submission.shell_lines import check_shell_lines


class Choice(NamedTuple):
    """A site, its file, and notes on the choice for the user."""

    site: Site
    path: Path
    notes: tuple[str, ...] = ()


def choose_site(name: str = "", partition: str = "") -> Choice:
    """Return a site as it is now.

    Args:
        name: the site's name or file. If it is empty, the scheduler that answers here tells the name of its cluster;
            the private cluster of this folder comes first if it runs. The site is the one with that name as `cluster`,
            else the one whose `login_nodes` fit this machine's name, else the scheduler's own description of its
            cluster. If no scheduler answers and no name fits, the site is this machine.
        partition: the job's partition, whose table in the site file counts, and from which a site without a file is
            described; empty: the default one.

    Raises:
        UserError: there is no such site, its file is not valid, or the scheduler does not answer.
    """
    if name:
        return _load(site_file(name), partition)
    for scheduler in schedulers():
        if cluster := scheduler.cluster_name():
            if found := _sites_here(cluster):
                return _first(found, partition, f"cluster = {cluster!r}")
            return Choice(scheduler.describe(cluster, partition), next(iter(site_folders())) / f"{cluster}.toml")
    if found := _sites_here(""):
        return _first(found, partition, "login_nodes = …")
    return _load(
        site_file("local"),
        partition,
        "no Slurm answers here (SLURM_CONF is not set, and no private cluster runs in this folder): the site is local,"
        " and jobs run on this machine; SITE=local says that it is meant",
    )


def _sites_here(cluster: str) -> list[list[Layer]]:
    """Return the layers of the sites with a cluster's name, or else of those whose login nodes include this machine."""
    known = [site_layers(path) for path in site_files().values()]
    if cluster and (named := [layers for layers in known if _last(layers, "cluster") == cluster]):
        return named
    host = os.uname().nodename  # the full name may take DNS, and so seconds
    return [layers for layers in known if any(fnmatch.fnmatch(host, one) for one in _login_nodes(layers))]


def _login_nodes(layers: Sequence[Layer]) -> list[str]:
    patterns = _last(layers, "login_nodes")
    return [one for one in patterns if isinstance(one, str)] if isinstance(patterns, list) else []


def _last(layers: Sequence[Layer], key: str) -> object:
    return next((layer.values[key] for layer in reversed(layers) if key in layer.values), None)


def _first(found: Sequence[Sequence[Layer]], partition: str, why: str) -> Choice:
    """Return the first of several sites, with a note on others that it does not build on."""
    first = found[0][-1].file
    below = {layer.file for layer in found[0]}
    others = ", ".join(layers[-1].file for layers in found[1:] if layers[-1].file not in below)
    note = f"{first} is used; {why} stands in {others} too (SITE=… chooses)"
    return _load(Path(first), partition, *([note] if others else []))


def site_of_job(name: str, job: str | None, overrides: Sequence[Layer]) -> Choice:
    """Return the site for a job, in the job's partition.

    Args:
        name: the site's name or file; empty: see `choose_site`.
        job: name or path of a job file; None: the defaults.
        overrides: settings that override the job file, weakest first.

    Raises:
        UserError: see `choose_site`; or the job is not valid.
    """
    return choose_site(name, load_job(job_file(job) if job else None, overrides).partition)


def _load(path: Path, partition: str, *notes: str) -> Choice:
    site = load_site(path, partition, os.environ)
    check_shell_lines(site, path)
    return Choice(scheduler_of(site).completed(site), path, notes)
