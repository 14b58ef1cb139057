"""Can bash read the shell lines of a site? Asked before submission, on the machine where the job is submitted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.spec.layers import merge
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import site_layers

_KEYS = ("before_modules", "after_modules")


def check_shell_lines(site: Site, path: Path) -> None:
    """Check the shell lines of a site.

    Args:
        site: the site, as a job in one of its partitions sees it.
        path: its file.

    Raises:
        UserError: a line is no complete shell command; names file and line.
    """
    for key in _KEYS:
        for number, line in enumerate(getattr(site, key)):
            if why := problem(line):
                raise UserError(
                    f"{_where(path, key, number, line)}: {key}: {line!r} is no complete shell command: {why}"
                )


def problem(line: str) -> str:
    """Return why a line is no complete shell command, in bash's words; empty if it is one, or if no bash is here."""
    try:
        done = subprocess.run(
            ["bash", "-n"],
            input=line,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            # Without variables such as BASH_ENV and SHELLOPTS.
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
        )
    except FileNotFoundError:
        return ""
    # bash only warns of a here-document without end.
    said = done.stderr.strip().splitlines()
    return said[0].removeprefix("bash: ").removeprefix("line 1: ") if said else ""


def _where(path: Path, key: str, number: int, line: str) -> str:
    """Return the place of a line, which may stand in a table of a partition."""
    merged = merge(site_layers(path), Site.__struct_fields__, "site")
    tables = {
        f"partitions.{name}.{key}": table.get(key, ()) for name, table in merged.values.get("partitions", {}).items()
    }
    places = {key: merged.values.get(key, ()), **tables}
    holder = next((place for place, lines in places.items() if list(lines)[number : number + 1] == [line]), key)
    return merged.where(f"{holder}[{number}]")
