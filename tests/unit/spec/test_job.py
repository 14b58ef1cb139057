"""Job descriptions: files, overrides, checks."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc_dl.disk import write_whole
from hpc_dl.errors import UserError
from hpc_dl.runfolder.folder import RunFolder, to_toml
from hpc_dl.spec.job import JobSpec, check, job_file, load_job
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.options import pairs
from hpc_dl.spec.site import Site


def keywords(**values: Any) -> Layer:
    return Layer(values, "keyword {key}")


def message(path: Path | None = None, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_job(path, [keywords(**values)] if values else [])
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my.toml"


def test_overrides_are_stronger_than_the_file_and_the_last_is_strongest(file: Path) -> None:
    file.write_text("nodes = 2\nsteps = 10\nbatch = 8\n[slurm]\nqos = 'a'\nmem = '1G'\n")
    layers = [Layer({"steps": "20", "batch": 16}, "--steps"), Layer({"batch": 64, "slurm": {"qos": "b"}}, "--batch")]
    job = load_job(file, layers)
    assert (job.name, job.nodes, job.steps, job.batch) == ("my", 2, 20, 64)
    assert job.slurm == {"qos": "b", "mem": "1G"}


def test_a_name_in_the_file_or_given_replaces_the_files_own(file: Path) -> None:
    file.write_text("name = 'inside'\n")
    assert load_job(file).name == "inside"
    assert load_job(file, [keywords(name="given")]).name == "given"


def test_every_job_that_we_ship_is_valid() -> None:
    job = load_job(job_file("train"))
    assert (job.name, job.mode, job.data) == ("train", "async", "digits")


def test_an_unknown_job_shows_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown job 'trian' \(did you mean 'train'\?\); known jobs: 'train'"):
        job_file("trian")
    for name in ("none.toml", "a/b", "a\0/", "x" * 300 + ".toml"):
        with pytest.raises(UserError, match="no such file"):
            job_file(name)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("nodes = 0", 1, "nodes = 0: expected int >= 1"),
        ("nodes = 1\nnodse = 1", 2, "unknown job key 'nodse' (did you mean 'nodes'?)"),
        ("\nmode = 'asynch'", 2, "not a known mode (did you mean 'async'?); allowed: 'async', "),
        ("\ntime = 30", 2, "expected minutes, HH:MM:SS or D-HH:MM:SS; as text, in quotes"),
        ("name = '../x'", 1, "expected a letter or digit, then letters"),
        ('name = "x\\n"', 1, "expected a letter or digit, then letters"),
        ("\nmodel = 'resnet8x'", 2, "unknown model 'resnet8x' (did you mean 'resnet8'?)"),
        ("\ndata = 'digit'", 2, "unknown data set 'digit' (did you mean 'digits'?)"),
        ("\nscript = 'none.py'", 2, "script = 'none.py': no such file; looked for "),
        ("\nchief = true", 2, "chief = true: only a script of your own can use it"),
        ("\nclassic_flags = true", 2, "classic_flags = true: only a script of your own can use it"),
        ("mode = 'single'\nnodes = 2", 2, "nodes = 2: mode 'single' has no use for it; only 'async', 'mixed'"),
        ("mode = 'horovod'\nps = 1", 2, "ps = 1: mode 'horovod' has no use for it; only 'async', 'mixed', 'sync'"),
        (
            "mode = 'multiworker'\nchief = true",
            2,
            "chief = true: mode 'multiworker' has no use for it; only 'async', 'mixed', 'sync'",
        ),
        (
            "mode = 'single'\ncompression = 'fp16'",
            2,
            "compression = fp16: mode 'single' has no use for it",
        ),
        (
            "mode = 'horovod'\ncompression = '1bit'",
            2,
            "compression = '1bit': mode 'horovod' has only",
        ),
        ("warmup_steps = 5", 1, "warmup_steps = 5: mode 'async' has no use for it; only 'multiworker', 'horovod'"),
        ("mode = 'single'\nps = 1", 2, "ps = 1: mode 'single' has no use for it"),
        ("mode = 'single'\nworkers = 2", 2, "workers = 2: mode 'single' has no use for it"),
        ("mode = 'single'\nchief = true", 2, "chief = true: mode 'single' has no use for it"),
        ("backup_workers = 1", 1, "backup_workers = 1: mode 'async' has no use for it; only 'sync'"),
        ("mode = 'sync'\ntowers = 2", 2, "towers = 2: mode 'sync' has no use for it; only 'mixed', 'single'"),
        ("mode = 'sync'\nstaleness = 0", 2, "staleness = 0: mode 'sync' has no use for it; only 'async', 'mixed'"),
        ("mode = 'single'\nn_push = 2", 2, "n_push = 2: mode 'single' has no use for it; only 'async', 'mixed'"),
        ("compression = '2bit'", 1, "not a known compression (did you mean '1bit'?); allowed: 'none', 'fp16', '1bit'"),
        ("n_fetch = 0", 1, "n_fetch = 0: expected int >= 1"),
        ("args = [\n  'x',\n  '''a\nb''',\n]", 1, "args[1] = 'a\\nb': '\\n' can't stand in a line"),
        ("[env]\nB = 'b'\nA = '''a\nb'''", 3, "env.A: '\\n' can't stand"),
        ("[env]\n1A = 'a'", 2, "env: '1A' is not a name of an environment variable"),
        ("[slurm]\nq = 'a'", 2, "slurm: 'q' is not an sbatch option; expected its long name"),
        ("[slurm]\ntime = '1'", 2, "slurm: 'time' has the job key 'time' in its place"),
        ("[slurm]\ngres = 'gpu:1'", 2, "slurm: 'gres' has the job key 'gres' in its place"),
        ("[slurm]\noutput = 'x'", 2, "slurm: 'output' is set by hpc_dl itself"),
        ("[slurm]\nwait = true", 2, "slurm: 'wait' is set by hpc_dl itself"),
        ("[slurm]\ncomment = '''a\nb'''", 2, "slurm.comment = 'a\\nb'"),
        ("\npartition = '''a\nb'''", 2, "partition = 'a\\nb'"),
        ("\nlearning_rate = inf", 2, "expected float <= "),
    ],
)
def test_an_invalid_file_is_named_with_the_line(file: Path, text: str, line: int, said: str) -> None:
    file.write_text(text)
    found = message(file)
    assert found.startswith(f"{file}, line {line}: ")
    assert said in found


def test_an_option_or_keyword_is_named() -> None:
    assert message(nodes=-1) == "keyword nodes: nodes = -1: expected int >= 1"
    assert message(lr_boundaries=[0]) == "keyword lr_boundaries: lr_boundaries = [0]: expected int >= 1"
    rising = "lr_boundaries = 48000,32000: must be rising global steps such as 32000,48000"
    assert message(lr_boundaries=[48000, 32000]) == f"keyword lr_boundaries: {rising}"
    with pytest.raises(UserError, match=r"^--model: unknown model 'smal' \(did you mean 'small'\?\)"):
        load_job(None, [Layer({"model": "smal"}, "--model")])


@pytest.mark.parametrize("time", ["1", "90", "1:30", "01:30:00", "2-12", "2-12:30", "2-12:30:59"])
def test_slurms_forms_of_a_time_limit_are_valid(time: str) -> None:
    assert load_job(None, [keywords(time=time)]).time == time


@pytest.mark.parametrize("time", ["", "x", "1h", "-1", "1:2:3:4", "1:234", "30\n", "٣", "1-", "infinite", "9" * 400])
def test_other_forms_of_a_time_limit_are_not(time: str) -> None:
    assert "expected minutes, HH:MM:SS or D-HH:MM:SS" in message(time=time)


@pytest.mark.parametrize("name", ["a\n", "", "-a", ".a", "a/b", "a b", "é", "a" * 65, "$(x)"])
def test_a_job_name_is_a_plain_word(name: str) -> None:
    assert "expected a letter or digit" in message(name=name)


def test_a_script_of_the_file_is_looked_for_beside_it_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = file.parent / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for folder in (here, file.parent):
        (folder / "train.py").touch()
    file.write_text("script = 'train.py'\n")
    assert load_job(file).script == str(file.parent / "train.py")
    assert load_job(file, [keywords(script="train.py")]).script == str(here / "train.py")
    (here / "train.py").unlink()
    assert load_job(file, [keywords(script="train.py")]).script == str(file.parent / "train.py")
    assert message(script="train.py").endswith(f"looked for {here / 'train.py'}")


def test_a_script_that_no_file_can_be_is_refused_like_a_missing_one(tmp_path: Path) -> None:
    for script in ("x" * 300, ".", "none", str(tmp_path)):
        assert "no such file" in message(script=script)
    assert "can't stand in a line" in message(script="a\0b")


def test_the_working_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_job(None).workdir == str(tmp_path)
    assert load_job(None, [keywords(workdir="a/b")]).workdir == str(tmp_path / "a" / "b")


def test_a_current_folder_with_a_line_break_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a\nb"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="current folder"):
        load_job(None)


@pytest.mark.parametrize("name", ["e\n touch canary #x", os.fsdecode(b"x\xffy")])
def test_a_job_files_folder_that_can_t_stand_in_a_script_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "job.toml").write_text("script = 's.sh'\n")
    (folder / "s.sh").touch()
    with pytest.raises(UserError, match=r"job file = .*can't stand in a line of a script"):
        load_job(folder / "job.toml")


@pytest.mark.parametrize(
    ("gpus", "workers", "mode", "per_node"),
    [
        (4, None, "async", 4),
        (0, None, "async", 1),
        (4, 2, "async", 2),
        (0, 3, "async", 3),
        (4, None, "single", 1),
        (4, None, "mixed", 1),
        (4, 2, "mixed", 2),
        (4, None, "sync", 4),
    ],
)
def test_workers_per_node(gpus: int, workers: int | None, mode: Any, per_node: int) -> None:
    assert JobSpec(gpus=gpus, workers=workers, mode=mode).per_node == per_node


def test_pairs() -> None:
    assert pairs(["A=1", "B=x=y", "C", "D="], "--env") == {"A": "1", "B": "x=y", "C": "true", "D": ""}
    with pytest.raises(UserError, match="--env: nothing stands before '=': expected KEY=VALUE"):
        pairs(["=x"], "--env")


@given(st.lists(st.text(max_size=8), max_size=5))
def test_any_pairs_give_a_table_or_a_user_error(texts: list[str]) -> None:
    try:
        table = pairs(texts, "--env")
    except UserError:
        assert any(text.startswith("=") or not text for text in texts)
    else:
        assert set(table) == {text.split("=")[0] for text in texts}


TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.just("\t"), max_size=10)
SCALARS: st.SearchStrategy[Any] = TEXT | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False)
JOBS = st.builds(
    JobSpec,
    nodes=st.integers(1, 10**6),
    gpus=st.none() | st.integers(0, 16),
    ps=st.none() | st.integers(1, 16),
    slurm=st.dictionaries(st.from_regex(r"[a-z][a-z-]{1,6}", fullmatch=True), SCALARS, max_size=3),
    env=st.dictionaries(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), TEXT, max_size=3),
    script=TEXT,
    args=st.lists(TEXT, max_size=4).map(tuple),
    chief=st.booleans(),
    learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    lr_boundaries=st.sets(st.integers(1, 10**9), max_size=3).map(sorted).map(tuple),
    workdir=TEXT,
)


@given(job=JOBS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_frozen_job_reads_back_equal(job: JobSpec, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_whole(run.job_file, to_toml(job))
    write_whole(run.site_file, to_toml(Site(cores=1, env=job.env)))
    assert run.read_job() == job
    assert run.read_site().env == job.env


VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["qos", "A", "a b"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(values=st.dictionaries(st.sampled_from([*JobSpec.__struct_fields__, "x"]), VALUES, max_size=4))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_toml_gives_a_valid_job_or_a_user_error(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(tomli_w.dumps(values), encoding="utf-8", newline="")
    try:
        job = load_job(file)
    except UserError as error:
        assert str(file) in str(error)  # noqa: PT017 - both outcomes are right
    else:
        check(job)
        assert math.isfinite(job.learning_rate or 0)


@given(values=st.dictionaries(st.sampled_from(JobSpec.__struct_fields__), st.text(max_size=8) | VALUES, max_size=3))
@settings(max_examples=80)
def test_any_keywords_give_a_valid_job_or_a_user_error(values: dict[str, Any]) -> None:
    try:
        check(load_job(None, [keywords(**values)]))
    except UserError as error:
        assert "keyword " in str(error)  # noqa: PT017 - both outcomes are right
