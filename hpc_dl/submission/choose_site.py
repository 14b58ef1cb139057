"""Choosing the site: the one that the user named, else the one that this machine belongs to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hpc_dl.schedulers import scheduler_of, schedulers
from hpc_dl.spec.job import job_file, load_job
from hpc_dl.spec.layers import Layer, read_toml
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import load_site, site_file, site_files, site_folders
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
            the private cluster of this folder comes first if it runs. The site is the file with that name as `cluster`,
            else the scheduler's own description of its cluster. If no scheduler answers, the site is this machine.
        partition: the job's partition, whose table in the site file counts, and from which a site without a file is
            described; empty: the default one.

    Raises:
        UserError: there is no such site, its file is not valid, or the scheduler does not answer.
    """
    if name:
        return _load(site_file(name), partition)
    for scheduler in schedulers():
        if not (cluster := scheduler.cluster_name()):
            continue
        found = [path for path in site_files().values() if read_toml(path).values.get("cluster") == cluster]
        if not found:
            return Choice(scheduler.describe(cluster, partition), next(iter(site_folders())) / f"{cluster}.toml")
        others = ", ".join(map(str, found[1:]))
        note = f"{found[0]} is used; cluster = {cluster!r} stands in {others} too (SITE=… chooses)"
        return _load(found[0], partition, *([note] if others else []))
    return _load(
        site_file("local"),
        partition,
        "no Slurm answers here (SLURM_CONF is not set, and no private cluster runs in this folder): the site is local,"
        " and jobs run on this machine; SITE=local says that it is meant",
    )


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
