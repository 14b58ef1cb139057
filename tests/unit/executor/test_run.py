"""One process of a job with a function."""

from __future__ import annotations

import errno
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpc_dl import disk
from hpc_dl.executor import run
from hpc_dl.executor.pickled import Call, describe, dumps, load_outcome
from hpc_dl.runfolder.function import FunctionFiles

Start = Callable[..., int]


@pytest.fixture
def files(tmp_path: Path) -> FunctionFiles:
    return FunctionFiles(tmp_path)


@pytest.fixture
def start(files: FunctionFiles, monkeypatch: pytest.MonkeyPatch) -> Start:
    """What runs a function as worker 0 of a job, and returns the exit code."""

    def _start(function: Callable[..., Any], *args: Any) -> int:
        call = Call(function, args)
        files.folder.mkdir(exist_ok=True)
        files.description.write_text(json.dumps(describe(call)))
        files.submitted().write_bytes(dumps(tuple(call), "it"))
        return run.main()

    task = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    variables = {"TF_CONFIG": json.dumps(task), "HPC_DL_RUN": str(files.folder.parent), "HPC_DL_ATTEMPT": "0"}
    for key, value in {**variables, "SUBMITIT_EXECUTOR": ""}.items():
        monkeypatch.setenv(key, value)
    return _start


def test_what_it_returned_is_written(files: FunctionFiles, start: Start) -> None:
    assert start(pow, 2, 3) == 0
    assert load_outcome(files.result(0, "worker:0")) == ("success", 8)
    assert files.result(0, "worker:0").stat().st_mode & 0o777 == 0o600


def test_a_process_that_is_started_again_after_its_result_does_nothing(files: FunctionFiles, start: Start) -> None:
    assert start(pow, 2, 3) == 0
    assert start(pow, 2, 4) == 0
    assert load_outcome(files.result(0, "worker:0")) == ("success", 8)


def test_what_it_raised_is_written_and_shown(
    files: FunctionFiles, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(lambda: [][1]) == 1
    outcome, text = load_outcome(files.result(0, "worker:0"))
    assert outcome == "error"
    assert text.endswith("IndexError: list index out of range\n")
    assert "hpc_dl/executor/run.py" not in text
    assert capsys.readouterr().err == text


def test_a_result_that_the_disk_does_not_take_is_named(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run, "insist", functools.partial(disk.insist, patience=0.0))
    monkeypatch.setattr(run, "write_whole", full)
    assert start(bytes, 5000) == 74
    assert "the result of worker:0, 5," in (said := capsys.readouterr().err)
    assert said.endswith("No space left on device\n")


def test_a_function_that_this_python_can_not_load_is_one_message(
    files: FunctionFiles, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(pow, 2, 3) == 0
    files.result(0, "worker:0").unlink()
    description = json.loads(files.description.read_text())
    files.description.write_text(json.dumps({**description, "python": "2.7.18"}))
    assert run.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("hpc-dl: the function 'pow' was submitted by Python 2.7.18, and ")
    assert said.count("\n") == 1
    assert load_outcome(files.result(0, "worker:0"))[0] == "error"
