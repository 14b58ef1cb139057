"""The wheel works without the checkout: it carries the templates, the job descriptions and the sites."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_every_data_file_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("templates", "jobs", "env/sites"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                assert f"hpc_dl/share/{path.relative_to(ROOT)}" in names


def test_an_unpacked_wheel_renders_a_job_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = [sys.executable, "-m", "hpc_dl", "render", "--site", "minotauro", "--nodelist", "nvb[19-20]"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"from template {tmp_path}/site/hpc_dl/share/templates/sbatch.sh.j2" in done.stdout
    assert "nvb20-ib0:" in done.stdout
