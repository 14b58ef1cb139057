"""What the commands on submitted jobs have in common: the names of jobs, and where their run folders are."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from hpc_dl.spec.layers import is_file


class _JobNames(click.types.StringParamType):
    """Names of jobs. An environment variable holds names quoted as in a shell, or the path of one run folder."""

    def split_envvar_value(self, rv: str) -> list[str]:
        if is_file(Path(rv, "job.toml")):
            return [rv]
        try:
            return shlex.split(rv)
        except ValueError as error:
            raise click.BadParameter(f"JOB = {rv!r}: {str(error).lower()}") from None


JOB = click.argument("job", default="", envvar="HPC_DL_JOB")
JOBS = click.argument("jobs", nargs=-1, type=_JobNames(), metavar="[JOB]...", envvar="HPC_DL_JOB")
RUNS = click.option("--runs", default="runs", envvar="HPC_DL_RUNS", help="folder of the run folders")
