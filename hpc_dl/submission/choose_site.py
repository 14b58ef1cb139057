"""Choosing the site: the one that was asked for, else the one where we are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.minicluster import running
from hpc_dl.schedulers.slurm.described_site import cluster_name, describe
from hpc_dl.schedulers.slurm.which import PRIVATE, private_environ
from hpc_dl.spec.layers import read_toml
from hpc_dl.spec.site import Site, load_site, site_file, site_files, site_folders

_USUAL_FOLDERS = tuple(map(Path, ("/etc/slurm", "/etc/slurm-llnl", "/run/slurm/conf")))


def choose_site(name: str = "") -> tuple[Site, Path]:
    """Return a site and its file.

    Args:
        name: the site's name or file. Empty: the private cluster if it runs, else the site whose `cluster` is that of
            the Slurm that is here, else that Slurm as sinfo describes it; this machine where there is no Slurm.

    Raises:
        UserError: there is no such site, its file is not valid, or Slurm does not answer.
    """
    if name:
        return _load(site_file(name))
    if "SLURM_CONF" not in os.environ and running():
        return _load(site_file(PRIVATE))
    sbatch = shutil.which("sbatch")
    # Asked wherever there is an sbatch: it may be a wrapper, or find its configuration by the DNS alone.
    cluster = cluster_name() if sbatch else ""
    if sbatch and not cluster and _configured(Path(sbatch)):
        raise UserError(f"Slurm is here ({sbatch}) and does not answer: try again; SITE=local runs on this machine")
    if not cluster:
        return _load(site_file("local"))
    for path in site_files().values():
        if read_toml(path).values.get("cluster") == cluster:
            return _load(path)
    return describe(cluster), next(iter(site_folders())) / f"{cluster}.toml"


def _load(path: Path) -> tuple[Site, Path]:
    site = load_site(path)
    if site.name == PRIVATE and "SLURM_CONF" not in os.environ:
        os.environ.update(private_environ())
        # `make cluster NODES=… GPUS=…` made it as large as it is.
        now = describe(site.name)
        site = msgspec.structs.replace(site, nodes=now.nodes, cores=now.cores, gpus=now.gpus)
    if site.scheduler == "local":
        from hpc_dl.node.facts import local_gpus

        site = msgspec.structs.replace(site, cores=os.cpu_count() or 1, gpus=len(local_gpus()))
    return site, path


def _configured(sbatch: Path) -> bool:
    """Return whether Slurm's clients have a configuration here, so that no answer means a Slurm that is away."""
    if os.environ.get("SLURM_CONF") or os.environ.get("SLURM_CONF_SERVER"):
        return True
    prefixes = {sbatch.parent.parent, sbatch.resolve().parent.parent}
    own = (prefix / folder for prefix in prefixes for folder in ("etc", "etc/slurm"))
    return any((folder / "slurm.conf").exists() for folder in (*own, *_USUAL_FOLDERS))
