"""The names of the package: each works more than once, is listed, and says what is wrong."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import hpc_dl
from hpc_dl.schedulers.protocol import JobState
from hpc_dl.submission.handle import Job

_ALL = """
import hpc_dl
before = dir(hpc_dl)
assert [name for name in before if name[0] != "_"] == sorted(hpc_dl.__all__), before
for _ in range(2):
    for name in hpc_dl.__all__:
        assert callable(getattr(hpc_dl, name)), name
    print(hpc_dl.plan(site="minotauro").job.name)
"""


def test_every_public_name_is_listed_and_works_twice(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _ALL], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("job\njob\n", "")


def test_a_function_is_no_job() -> None:
    with pytest.raises(hpc_dl.UserError, match=r"job = <function .*: expected the name or the path of a job file; "):
        hpc_dl.submit(lambda x: x)  # type: ignore[arg-type]


def test_a_job_file_may_be_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("steps = 7\n")
    assert hpc_dl.plan(tmp_path / "mine.toml", site="minotauro").job.steps == 7


def test_a_pickled_job_is_the_same_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job("runs/own-L1")
    assert pickle.loads(pickle.dumps(job)) == job == Job(Path("runs/own-L1").absolute())  # noqa: S301 - it is ours
    assert len({job, Job("runs/own-L1"), Job("runs/own-L2")}) == 2


def test_a_state_shows_what_is_known() -> None:
    state = JobState("RUNNING", nodelist="n1", job_id="7")
    assert repr(state) == "JobState(state='RUNNING', nodelist='n1', job_id='7')"
