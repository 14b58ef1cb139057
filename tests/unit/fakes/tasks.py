"""Runs of task files by the command, with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from hpc_dl.cli.main import main
from hpc_dl.schedulers.slurm.version import version

RUN = [sys.executable, "-m", "hpc_dl", "tasks"]


def tasks(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, which saves the start of Python; its agents are processes of their own."""
    version.cache_clear()
    with pytest.MonkeyPatch.context() as patch, _to_file(1) as out, _to_file(2) as error:
        patch.chdir(folder)
        for name in os.environ:
            if name.startswith(("SLURM_", "GREASY_")):
                patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        into = contextlib.redirect_stdout(out), contextlib.redirect_stderr(error)
        with into[0], into[1], pytest.raises(SystemExit) as ended:
            main(["tasks", *words])
    assert isinstance(ended.value.code, int)
    with out, error:
        return subprocess.CompletedProcess(words, ended.value.code, _text(out), _text(error))


@contextlib.contextmanager
def _to_file(descriptor: int) -> Iterator[TextIO]:
    """Let what is written to a descriptor of this process, and of those that it starts, go to a file."""
    file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - the caller closes it
    before = os.dup(descriptor)
    os.dup2(file.fileno(), descriptor)
    try:
        yield file
    finally:
        os.dup2(before, descriptor)
        os.close(before)


def _text(file: TextIO) -> str:
    file.seek(0)
    return file.read()


def run(folder: Path, text: str, *options: str, **env: str) -> dict[str, Any]:
    """Run a task file and return the JSON report."""
    (folder / "t.txt").write_text(text)
    done = tasks(folder, "run", "t.txt", "--json", "--log-level=0", *options, **env)
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == report["exit_code"]
    return report


def states(report: dict[str, Any]) -> dict[int, str]:
    return {row["number"]: row["state"] for row in report["tasks"]}


def output(folder: Path, number: int) -> str:
    return (folder / "t.txt.records" / "output" / f"{number}.out").read_text()


def eventually(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def background(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*RUN, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
