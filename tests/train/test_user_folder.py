"""The built-in program finds the user's network in the folder where it starts, and nothing else of what is there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import hpc_dl
from hpc_dl.processes import python_module


def test_a_network_of_the_current_folder_is_found_and_a_random_module_is_not(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "own_network.py").write_text("from hpc_dl.models.small import small\n")
    for name in ("random", "queue", "types", "wrapt", "tensorflow"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user')\n")
    options = ["--mode=single", "--steps=2", "--model=own_network:small", f"--data-dir={data_dir}", "--run-dir=run"]
    command = [*python_module(sys.executable), "hpc_dl.train", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(importlib.util.find_spec("horovod") is None, reason="Horovod is not built")
def test_mpi_ranks_start_there_and_share_a_staged_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "disk"))
    for name in ("random", "select", "signal"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user')\n")
    job = hpc_dl.submit("train", site="local", mode="horovod", workers=2, steps=2, stage=True)
    job.wait(240)
    assert job.state == "COMPLETED", job.run.log.read_text()
    assert [path for path in (tmp_path / "disk").iterdir() if path.name.startswith("hpc_dl-")] == []
