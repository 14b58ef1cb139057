"""The version of Slurm here, asked once, and the versions in which its behaviour changed."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping

from hpc_dl.schedulers.slurm.commands import ask

Version = tuple[int, int]
"""Slurm's year and month, such as (24, 11)."""

OVERLAP_SHARES_ALL: Version = (22, 5)
"""Since this version a step with --overlap also shares memory and GPUs with others; before, only cores."""
HOSTFILE_EXCLUDES_NODES: Version = (23, 11)
"""Since this version srun refuses --nodes together with SLURM_HOSTFILE."""
HETEROGENEOUS_JOBS_START: Version = (21, 8)
"""Slurm 20.11 takes heterogeneous jobs, and then starts none of several nodes; no version between was tried."""


@functools.cache
def version() -> Version:
    """Return the version of srun here; an unknown version counts as new."""
    return parse_version(ask(os.environ, "srun", "--version").out)


def heterogeneous_problem(environ: Mapping[str, str]) -> str:
    """Return why the Slurm of an environment can't run heterogeneous jobs; empty if it can."""
    year, month = parse_version(ask(environ, "srun", "--version").out)
    return f"Slurm {year}.{month:02} starts no such job" if (year, month) < HETEROGENEOUS_JOBS_START else ""


def parse_version(text: str) -> Version:
    """Return the version in a line such as ``slurm-wlm 22.05.8``."""
    found = re.search(r" (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (99, 0)
