"""Shell lines of a site file: is bash able to read them?"""

from __future__ import annotations

import functools
import os
import subprocess


@functools.cache  # a site is checked once for each of its partitions
def problem(line: str) -> str:
    """Return why a line is no complete shell command, in bash's words; empty if it is one, or if no bash is here."""
    try:
        # Without variables such as BASH_ENV and SHELLOPTS.
        done = subprocess.run(
            ["bash", "-n"],
            input=line,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
        )
    except FileNotFoundError:
        return ""
    # bash only warns of a here-document without end.
    said = done.stderr.strip().splitlines()
    return said[0].removeprefix("bash: ") if said else ""
