"""Which Slurm has a job: the one that answers here, or the private cluster, whose job numbers are its own."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hpc_dl.errors import UserError
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.spec.layers import read_toml

PRIVATE = "minicluster"  # the site of the private cluster


def is_private(run: RunFolder) -> bool:
    """Return whether the private cluster has a job; where SLURM_CONF is set, it says which Slurm is meant."""
    if "SLURM_CONF" in os.environ or run.local.exists():
        return False
    try:
        # Most files need not be parsed for that.
        return PRIVATE in run.site_file.read_text() and read_toml(run.site_file).values.get("name") == PRIVATE
    except (OSError, UnicodeDecodeError, UserError):
        return False


def private_environ() -> Mapping[str, str]:
    """Return the environment in which Slurm's commands reach the private cluster.

    Raises:
        UserError: it does not run.
    """
    from hpc_dl.minicluster import MiniCluster, running

    if not running():
        raise UserError(f"site {PRIVATE!r}: the private cluster does not run here; `make cluster` starts it")
    return MiniCluster().env()
