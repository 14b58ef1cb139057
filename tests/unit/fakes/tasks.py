"""Runs of task files by the command, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUN = [sys.executable, "-m", "hpc_dl", "tasks"]


def tasks(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "GREASY_"))}
    return subprocess.run(
        [*RUN, *words], cwd=folder, env=environ | env, capture_output=True, text=True, timeout=60, check=False
    )


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
