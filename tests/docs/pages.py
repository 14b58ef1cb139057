"""The pages of the documentation: their code blocks, and how to run the commands that they show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.rst", *sorted(DOCS.rglob("*.rst"))]

_BLOCK = re.compile(
    r"^(?P<indent> *)\.\. code-block:: (?P<language>\S+)\n(?P<options>(?:\1 +:.*\n)*)\n(?P<body>(?:\1 +.*\n|\n)+)",
    re.MULTILINE,
)


class Block(NamedTuple):
    """A code block of a page."""

    language: str
    caption: str
    """The file that the block is, if it is one."""
    kind: str
    """Where its commands run: empty for this machine, ``cluster`` for the private cluster, ``example`` for nowhere."""
    text: str


class Shown(NamedTuple):
    """A command of a page, and the output that the page shows."""

    command: str
    output: list[str]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page."""
    for found in _BLOCK.finditer(page.read_text() + "\n"):
        options = dict(re.findall(r":(\w+): *(.*)", found["options"]))
        text = textwrap.dedent(found["body"]).strip("\n") + "\n"
        yield Block(found["language"], options.get("caption", ""), options.get("class", ""), text)


def commands(block: Block) -> list[Shown]:
    """Return the commands of a block of language ``console``: lines that begin with ``$``."""
    shown: list[Shown] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            shown.append(Shown(line[2:], []))
        else:
            shown[-1].output.append(line)
    return shown


# What may differ between a page and what a command prints: how it looks on the page, and all that it stands for.
_FREE = {
    r"\.\.\.": ".*",
    r"/home/you/\w+/": "/.*/",
    r"exit code 2": "exit code 2",
    r"exit code 1": "exit code 1",
    r"\d+(?::\d+)* (?:s|min)\b": r"\d+(?::\d+)* (?:s|min)",
    r"\d+(?:[.,:]\d+)*": r"\d+(?:[.,:]\d+)*",
    r"\s+": r"[ \t]+",
}
_ANY = re.compile("|".join(f"({look})" for look in _FREE))


def matches(expected: list[str], output: str) -> bool:
    """Return whether a command printed what the page shows; a line ``...`` stands for any lines.

    Notes may be missing: tests name the site, so that they run on no Slurm that is here.
    """
    pattern = "".join(map(_line, (line.strip() for line in expected)))
    return re.fullmatch(pattern, output if output.endswith("\n") else output + "\n") is not None


def _line(line: str) -> str:
    if line == "...":
        return r"(?:.*\n)*?"
    pattern, start = "", 0
    for found in _ANY.finditer(line):
        pattern += re.escape(line[start : found.start()]) + list(_FREE.values())[(found.lastindex or 1) - 1]
        start = found.end()
    pattern = rf"[ \t]*{pattern}{re.escape(line[start:])}[ \t]*\n"
    return f"(?:{pattern})?" if line.startswith("hpc-dl: note:") else pattern


class Reader:
    """Follows a page in a fresh copy of the checkout, as a reader does.

    Args:
        folder: an empty folder.
        site: what `hpc-dl` takes for the site; empty: what it finds.
    """

    def __init__(self, folder: Path, site: str = "") -> None:
        self.folder = folder
        for name in ("Makefile", "hpc_dl", "templates"):
            (folder / name).symlink_to(ROOT / name)
        for name in ("jobs", "env"):
            shutil.copytree(ROOT / name, folder / name)
        programs = Path(sys.executable).parent
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(programs)
        for name in (".ready-cpu", ".horovod"):
            (folder / ".venv" / name).touch()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HPC_DL_", "SLURM_", "MAKE", "MFLAGS"))}
        own = {"HPC_DL_SITE": site} if site else {}
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        self._environment = {
            **inherited,
            **own,
            "PATH": path,
            "COLUMNS": "150",
            "XDG_CONFIG_HOME": str(folder / "none"),
        }

    def follow(self, page: Path, kind: str = "") -> None:
        """Write the files of a page and run its commands of one kind; fail where one prints what the page does not."""
        for block in blocks(page):
            if block.caption:
                file = self.folder / block.caption
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text)
            elif block.language == "console" and block.kind == kind:
                for shown in commands(block):
                    output = self.run(shown.command)
                    assert not shown.output or matches(shown.output, output), f"$ {shown.command}\n{output}"

    def run(self, command: str) -> str:
        """Run a command in the folder and return what it printed."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}\nexit code {done.returncode}"
        return done.stdout
