"""Arrays of jobs that differ in single settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hpc_dl
from hpc_dl.submission.array import array_numbers, read_elements
from hpc_dl.submission.handle import find_job, find_jobs
from tests.unit.fakes.processes import names

_SCRIPT = """
import json, os, pathlib, sys
pathlib.Path(os.environ["HPC_DL_RUN"], "result.json").write_text(json.dumps({"args": sys.argv[1:]}))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "it's 50% of $(touch x)"
    place.mkdir()
    monkeypatch.chdir(place)
    (place / "own.py").write_text(_SCRIPT)
    return place


def test_each_element_has_its_settings_and_a_run_folder(folder: Path) -> None:
    array = [{"args": [word]} for word in ("a", "$(b)", "c d")]
    jobs = hpc_dl.map(array, site="local", script="own.py", mode="single", name="own")
    assert [job.result() for job in jobs] == [{"args": ["a"]}, {"args": ["$(b)"]}, {"args": ["c d"]}]
    assert names(folder / "runs") == ["own-L1", "own-L2", "own-L3"]
    assert [job.run.read_job().args for job in jobs] == [("a",), ("$(b)",), ("c d",)]
    assert {oct(path.stat().st_mode & 0o777) for path in (folder / "runs" / "own-L2").iterdir() if path.is_file()} == {
        "0o600"
    }


def test_the_elements_of_a_table(folder: Path) -> None:
    (folder / "t.csv").write_text("seed,args,learning_rate\n1,a 'b c',0.5\n2,,\n")
    assert [one.values for one in read_elements(folder / "t.csv")] == [
        {"seed": "1", "args": ["a", "b c"], "learning_rate": "0.5"},
        {"seed": "2"},
    ]
    (folder / "t.toml").write_text("seed = [1, 2]\nbatch = [8, 16]\n")
    assert len(read_elements(folder / "t.toml")) == 4


def test_the_command_line_submits_a_table(folder: Path) -> None:
    (folder / "t.csv").write_text("args\n1\n2\n")
    command = [
        sys.executable,
        "-m",
        "hpc_dl",
        "submit",
        "--site=local",
        "--mode=single",
        "--script=own.py",
        "--array=t.csv",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Started local jobs L1 to L2: 2 jobs, with run folders in ")
    assert done.stdout.count("COMPLETED") == 2


def test_what_one_script_can_say_only_once_must_not_differ(folder: Path) -> None:
    array: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2, "time": "5", "nodes": 2}]
    with pytest.raises(
        hpc_dl.UserError, match=r"^element 1 of the array, nodes: nodes = 2, and the first element has 1"
    ):
        hpc_dl.map(array, site="minotauro", mode="async")
    assert not (folder / "runs").exists()


def test_bad_elements_are_named(folder: Path) -> None:
    with pytest.raises(hpc_dl.UserError, match="element 0 of the array, sed: unknown job key 'sed'"):
        hpc_dl.map([{"sed": 1}], site="local")
    with pytest.raises(hpc_dl.UserError, match="an array has no elements"):
        hpc_dl.map([], site="local")
    with pytest.raises(hpc_dl.UserError, match="parallel = 0: expected how many elements"):
        hpc_dl.map([{}], site="local", parallel=0)
    (folder / "t.csv").write_text("sed\n1\n")
    command = [sys.executable, "-m", "hpc_dl", "submit", "--site=local", "--array=t.csv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "t.csv, line 2: unknown job key 'sed' (did you mean 'seed'?)" in done.stderr


def test_the_numbers_of_an_array() -> None:
    assert array_numbers(1000, None) == "0-999"
    assert array_numbers(1, 3) == "0-0%3"


def test_the_number_of_an_array_means_all_of_its_elements(folder: Path) -> None:
    for number in (10, 2, 0):
        run = folder / "runs" / f"own-7_{number}"
        run.mkdir(parents=True)
        (run / "job.toml").touch()
        os.utime(run / "job.toml", (number, number))
    assert [job.job_id for job in find_jobs(["7"], Path("runs"))] == ["7_0", "7_2", "7_10"]
    assert find_job("7_2", Path("runs")).job_id == "7_2"
    with pytest.raises(hpc_dl.UserError, match="job 7 is an array of 3 jobs; name one, such as 7_0"):
        find_job("7", Path("runs"))
