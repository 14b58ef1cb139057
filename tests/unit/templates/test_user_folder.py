"""Files of the user's folder are not taken for modules of Python or of hpc_dl."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hpc_dl
from hpc_dl.processes import python_module
from hpc_dl.tasks.executor import agent_command

NAMES = [
    "random",
    "json",
    "click",
    "select",
    "msgspec",
    "signal",
    "tempfile",
    "uuid",
    "shutil",
    "jinja2",
    "copy",
    "types",
]
NAMES += ["runpy", "pkgutil", "queue"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file for many names of modules, each of which ends the Python that imports it."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user')\n")
    (tmp_path / "hpc_dl").mkdir()
    (tmp_path / "hpc_dl" / "__init__.py").write_text("raise SystemExit('hpc_dl of the user')\n")
    return tmp_path


def test_a_job_runs_in_a_folder_with_files_named_as_modules(folder: Path) -> None:
    script = folder / "own.py"
    (folder / "beside.py").write_text("word = 'found'\n")
    script.write_text("import beside, os\nprint(beside.word, os.getcwd())\n")
    job = hpc_dl.submit(site="local", script=str(script), mode="async", workers=1)
    job.wait(60)
    assert job.state == "COMPLETED", job.run.log.read_text()
    assert job.logs()["worker:0"].read_text() == f"found {folder}\n", "the script itself finds what is beside it"


def test_an_agent_starts_there(folder: Path) -> None:
    records = folder / "t.records"
    records.mkdir()
    done = subprocess.run(
        agent_command(records, 1.0, "n1"), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert "of the user" not in done.stdout + done.stderr
    assert '"node":"n1"' in done.stdout


def test_a_module_runs_as_under_dash_m(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "shows.py").write_text("import sys\nprint(__name__, sys.argv[1:], '' in sys.path)\n")
    command = [*python_module(sys.executable), "shows", "a b", "-c"]
    environ = {**os.environ, "PYTHONPATH": str(folder / "elsewhere")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "__main__ ['a b', '-c'] False\n"
