"""Which version of Slurm is here, asked once: what its versions differ in is decided by these names."""

from __future__ import annotations

import functools
import os
import re

from hpc_dl.schedulers.slurm.commands import ask

Version = tuple[int, int]
"""Slurm's year and month, such as (24, 11)."""

OVERLAP_SHARES_ALL: Version = (22, 5)
"""From here on a step with --overlap shares memory and GPUs with others too; before, the cores alone."""
HOSTFILE_EXCLUDES_NODES: Version = (23, 11)
"""From here on srun takes no --nodes beside SLURM_HOSTFILE."""


@functools.cache
def version() -> Version:
    """Return the version of srun here; one that it does not tell counts as new."""
    return parse_version(ask(os.environ, "srun", "--version").out)


def parse_version(text: str) -> Version:
    """Return the version in a line such as ``slurm-wlm 22.05.8``."""
    found = re.search(r" (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (99, 0)
