"""The built-in program finds the user's network in the folder where it starts, and nothing else of what is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hpc_dl.processes import python_module


def test_a_network_of_the_current_folder_is_found_and_a_random_module_is_not(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "own_network.py").write_text("from hpc_dl.models.small import small\n")
    for name in ("random", "queue", "types", "wrapt", "tensorflow"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user')\n")
    options = ["--mode=single", "--steps=2", "--model=own_network:small", f"--data-dir={data_dir}", "--run-dir=run"]
    command = [*python_module(sys.executable), "hpc_dl.train", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
