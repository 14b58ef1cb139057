"""``make clean``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.fakes.processes import names


@pytest.mark.parametrize("jobs", ["      L1  RUNNING     async       2 nodes  runs/job-L1", ""])
def test_the_environment_of_jobs_that_run_stays(tmp_path: Path, jobs: str) -> None:
    shutil.copy(Path(__file__).parents[2] / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = tmp_path / ".venv" / "bin" / "hpc-dl"
    command.write_text(f"#!/bin/sh\n[ \"$*\" != 'list --state running --state pending' ] || echo '{jobs}' | grep .\n")
    command.chmod(0o755)
    done = subprocess.run(["make", "clean"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert names(tmp_path) == (["Makefile"] if not jobs else [".venv", "Makefile"])
    assert (done.returncode != 0) == bool(jobs)
    assert ("make: these jobs need .venv: end them by `make cancel JOB=…`" in done.stderr) == bool(jobs)
    assert jobs in done.stdout
