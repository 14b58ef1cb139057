"""Which Slurm is meant: the one that answers here, or the private cluster, whose job numbers are its own."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.schedulers.slurm.commands import ask

PRIVATE = "minicluster"  # the site of the private cluster

_USUAL_FOLDERS = tuple(map(Path, ("/etc/slurm", "/etc/slurm-llnl", "/run/slurm/conf")))
_PATIENCE = 20.0  # seconds: a login node must not hang for a controller that is away


def is_private(site_name: str) -> bool:
    """Return whether a site is the private cluster of this folder; if SLURM_CONF is set, that says which Slurm."""
    return site_name == PRIVATE and "SLURM_CONF" not in os.environ


def private_environ() -> Mapping[str, str]:
    """Return the environment in which Slurm's commands reach the private cluster.

    Raises:
        UserError: it does not run.
    """
    from hpc_dl.minicluster import MiniCluster, running

    if not running():
        raise UserError(f"site {PRIVATE!r}: the private cluster does not run here; `make cluster` starts it")
    return MiniCluster().env()


def cluster_name() -> str:
    """Return the ClusterName of the Slurm that is meant here; empty where there is none.

    Raises:
        UserError: Slurm is here and does not answer.
    """
    from hpc_dl.minicluster import running

    if is_private(PRIVATE) and running():
        return PRIVATE
    # Ask wherever there is an sbatch: it may be a wrapper, or find its configuration through DNS alone.
    if not (sbatch := shutil.which("sbatch")):
        return ""
    said = ask(os.environ, "scontrol", "show", "config", patience=_PATIENCE).out
    if name := re.search(r"^ClusterName\s*=\s*(\S+)", said, re.MULTILINE):
        return name[1]
    if _configured(Path(sbatch)):
        raise UserError(f"Slurm is here ({sbatch}) and does not answer: try again; SITE=local runs on this machine")
    return ""


def _configured(sbatch: Path) -> bool:
    """Return whether Slurm's clients have a configuration here, so that a missing answer means that Slurm is down."""
    if os.environ.get("SLURM_CONF") or os.environ.get("SLURM_CONF_SERVER"):
        return True
    prefixes = {sbatch.parent.parent, sbatch.resolve().parent.parent}
    own = (prefix / folder for prefix in prefixes for folder in ("etc", "etc/slurm"))
    return any((folder / "slurm.conf").exists() for folder in (*own, *_USUAL_FOLDERS))
