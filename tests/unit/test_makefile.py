"""The Makefile: variables reach hpc-dl as they are, and one that nothing reads is an error."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with an environment whose hpc-dl prints its settings."""
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "hpc_dl").symlink_to(ROOT / "hpc_dl")
    (tmp_path / "env" / "locks").mkdir(parents=True)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    locks = [f"env/locks/{name}" for name in ("cpu.txt", "horovod.txt", "horovod-tools.txt", "horovod.sed")]
    for name in (*locks, ".venv/.ready-cpu"):
        (tmp_path / name).touch()
    program = tmp_path / ".venv" / "bin" / "hpc-dl"
    program.write_text('#!/bin/sh\necho "$1"\nenv | grep ^HPC_DL_ | sort\n')
    program.chmod(0o755)
    return tmp_path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("given", "near"),
    [("NODS=4", " (did you mean 'NODES'?)"), ("LR=0.5", ""), ("KND=cpu", " (did you mean 'KIND'?)"), ("it's=1", "")],
)
@pytest.mark.parametrize("target", ["submit", "render", "status", "test", "clean", "cluster"])
def test_a_variable_that_nothing_reads_is_refused(folder: Path, target: str, given: str, near: str) -> None:
    done = make(folder, target, given, "STEPS=5")
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"*** {given.partition('=')[0]} is not a variable of this Makefile{near}; known: NAME MODE" in done.stderr


def test_variables_reach_hpc_dl_as_they_are(folder: Path) -> None:
    hostile = "$(shell touch x)$$y `touch x` 'a' \"b\" #"
    names = ["MODE", "NODES", "ARGS", "ENV", "SITE", "JOB"]
    done = make(folder, "render", *(f"{name}={hostile}" for name in names))
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == sorted(
        ["render", "HPC_DL_MAKE=1", *(f"HPC_DL_{name}={hostile}" for name in names)]
    )
    assert not (folder / "x").exists()


@pytest.mark.parametrize("name", ["KIND", "MPI"])
@pytest.mark.parametrize("value", ["$(shell touch x)", "cpus", "", "cpu gpu"])
def test_what_make_itself_reads_is_checked_and_not_expanded(folder: Path, name: str, value: str) -> None:
    done = make(folder, "render", f"{name}={value}")
    assert done.returncode == 2
    assert f"*** {name}={value}: allowed are " in done.stderr
    assert not (folder / "x").exists()


def test_horovod_is_built_for_its_mode_alone(folder: Path) -> None:
    assert "Building Horovod" not in make(folder, "--dry-run", "submit", "MODE=async").stdout
    assert "Building Horovod" in make(folder, "--dry-run", "submit", "MODE=horovod").stdout


def test_variables_for_make_alone_do_not_reach_the_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".venv" / "bin" / "hpc-dl").write_text('#!/bin/sh\nenv | grep -E "^(KIND|PYTHON|MPI)="\n')
    assert make(folder, "render", "KIND=cpu", "PYTHON=python3").stdout == ""
    monkeypatch.setenv("PYTHON", "the user's own")
    assert make(folder, "render").stdout == "PYTHON=the user's own\n"
