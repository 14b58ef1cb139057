"""A new job goes on from an earlier one: what it takes over, where it starts, what can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc_dl.cli.job_options import job_options, layers
from hpc_dl.disk import write_whole
from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.planning.task_file import command
from hpc_dl.runfolder.checkpoints import Checkpoint
from hpc_dl.runfolder.folder import RunFolder, Summary, to_toml
from hpc_dl.runfolder.start_from import checkpoints
from hpc_dl.schedulers.protocol import JobState
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer, build, read_toml
from hpc_dl.spec.site import Site
from hpc_dl.submission.handle import Job
from hpc_dl.submission.resume import plan_resumption

SITE = Site(name="k80", cores=16, gpus=4, scheduler="slurm")
SMALL = Site(name="small", cores=8, gpus=2)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm: the job's own record counts


def ended(number: int, state: str = "CANCELLED", **settings: Any) -> Job:
    """Return a job that has a run folder and has ended."""
    run = RunFolder.create(Path(f"runs/train-{number}"))
    settings = {"name": "train", **settings}
    planned = make_plan(None, SITE, Path("k80.toml"), [Layer(settings, "keyword {key}")])
    run.freeze(planned.job, planned.asked, SITE, "", {})
    if state:
        write_whole(run.summary, msgspec.json.encode(Summary(state, 143, 1.0, 2.0)))
    return Job(run)


def save(job: Job, name: str, parts: int = 1, written: int = 1) -> None:
    """Write a checkpoint's files, or not all of them."""
    job.run.checkpoints.mkdir(exist_ok=True)
    (job.run.checkpoints / f"{name}.index").write_text("x")
    for part in range(written):
        (job.run.checkpoints / f"{name}.data-{part:05}-of-{parts:05}").write_text("x")


def resumed(job: Job, site: Site = SITE, from_start: bool = False, **settings: Any) -> tuple[Plan, list[str]]:
    Path("s.toml").write_text(to_toml(site))
    return plan_resumption(job.run, job.query(), "./s.toml", [Layer(settings, "keyword {key}")], from_start)


def test_what_was_asked_for_stays_and_what_was_derived_is_derived_anew() -> None:
    job = ended(1, steps=500, learning_rate=0.2, cores=None, batch=16)
    save(job, "step-200")
    assert (job.run.read_job().gpus, job.run.read_job().cores, job.run.read_job().ps) == (4, 16, 1)
    plan, notes = resumed(job, SMALL, nodes=3, mode="multiworker")
    assert notes == []
    assert (plan.job.nodes, plan.job.gpus, plan.job.cores, plan.job.ps) == (3, 2, 8, None)
    assert (plan.job.steps, plan.job.learning_rate, plan.job.batch) == (500, 0.2, 16)
    assert plan.job.start_from == str(job.run.path.absolute())
    assert f"--start-from={job.run.path.absolute()}" in command(plan.job, SMALL, "/run")


def test_what_another_mode_has_no_use_for_is_dropped_with_a_note() -> None:
    job = ended(1, mode="sync", backup_workers=1, ps=2, compression="1bit", steps=500)
    save(job, "step-200")
    plan, (note,) = resumed(job, mode="horovod")
    assert note == (
        "mode 'horovod' has no use for what job 1 had for mode 'sync': ps = 2, backup_workers = 1, compression = 1bit"
    )
    assert (plan.job.backup_workers, plan.job.ps, plan.job.compression) == (0, None, "none")
    with pytest.raises(UserError, match="keyword staleness: staleness = 3: mode 'horovod' has no use for it"):
        resumed(job, mode="horovod", staleness=3)  # what is said now is no remainder of before
    plan, (note,) = resumed(ended(2, nodes=2, workers=2), mode="single", from_start=True)
    assert note.endswith(": nodes = 2, workers = 2")
    assert (plan.job.nodes, plan.job.start_from) == (1, "")


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_job_that_has_not_ended_is_not_resumed(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ended(1)
    monkeypatch.setattr(Job, "query", lambda _: JobState(state))
    with pytest.raises(UserError, match=rf"job 1 is {state}: only .* ended .*`hpc-dl cancel runs/train-1` ends it"):
        resumed(job)


def test_a_job_of_which_nobody_knows_is_resumed_with_a_note() -> None:
    job = ended(1, state="")
    save(job, "step-200")
    assert resumed(job)[1] == ["nobody knows whether job 1 has ended"]


def test_the_newest_checkpoint_is_that_of_the_last_attempt_and_torn_ones_do_not_count() -> None:
    job = ended(1)
    save(job, "step-300")
    save(job, "step-250-1")
    save(job, "step-400-1", parts=2)
    save(job, "step-500-1", written=0)
    save(job, "best-500")
    (job.run.checkpoints / "step-1-2.index").touch()
    assert checkpoints(job.run) == [Checkpoint(0, 300), Checkpoint(1, 250)]


def test_without_a_checkpoint_it_says_what_there_is() -> None:
    job = ended(1)
    with pytest.raises(
        UserError,
        match=r"^no whole checkpoint to start from: none in .*runs/train-1/checkpoints; --from-start begins at step 0$",
    ):
        resumed(job)
    save(job, "step-200", written=0)
    with pytest.raises(
        UserError, match=r"train-1/checkpoints has step-200\.index without all data; --from-start begins"
    ):
        resumed(job)
    assert resumed(job, from_start=True)[0].job.start_from == ""


def test_a_chain_of_resumed_jobs_starts_where_the_last_checkpoint_is() -> None:
    first = ended(1)
    save(first, "step-200")
    second = ended(2, start_from="runs/train-1")
    third = ended(3, start_from="runs/train-2")
    assert third.run.read_job().start_from == str(first.run.path.absolute())
    assert resumed(third)[0].job.start_from == str(first.run.path.absolute())
    save(second, "step-300")
    # What was found when the third job was submitted stands; its own checkpoints win.
    assert resumed(third)[0].job.start_from == str(first.run.path.absolute())
    save(third, "step-250")
    assert resumed(third)[0].job.start_from == str(third.run.path.absolute())


def test_all_steps_done_asks_for_more() -> None:
    job = ended(1, "COMPLETED", steps=600)
    save(job, "step-601")
    with pytest.raises(UserError, match=r"steps = 600: .* is at step 601, nothing is left to do; .*\(--steps\)"):
        resumed(job)
    assert resumed(job, steps=700)[0].job.steps == 700


@pytest.mark.parametrize(("key", "value", "had"), [("model", "resnet8", "small"), ("data", "cifar10", "digits")])
def test_network_and_data_stay(key: str, value: str, had: str) -> None:
    job = ended(1)
    save(job, "step-200")
    with pytest.raises(UserError, match=f"keyword {key} = '{value}': job 1 has '{had}', and a resumed job keeps it"):
        plan_resumption(job.run, job.query(), "", [Layer({key: value}, "keyword {key}")])
    with pytest.raises(UserError, match=f"{key} = '{value}': the checkpoints in .* are of '{had}'"):
        ended(2, start_from="runs/train-1", **{key: value})


@pytest.mark.parametrize("name", ["own.py", "./own.py", "/own.py", "other.py"])
def test_the_same_script_may_be_named_again(name: str) -> None:
    Path("own.py").write_text("")
    Path("other.py").write_text("")
    job = ended(1, script="own.py")
    if name == "other.py":
        with pytest.raises(UserError, match=r"keyword script = 'other\.py': job 1 has '/.*/own\.py', and a"):
            resumed(job, script=name)
    else:
        name = str(Path(name[1:]).absolute()) if name.startswith("/") else name
        assert resumed(job, script=name)[0].job.script == str(Path("own.py").absolute())


def test_where_it_starts_is_not_to_be_said() -> None:
    with pytest.raises(UserError, match="start_from: a resumed job starts from the job that it resumes"):
        resumed(ended(1), start_from="runs/train-0")


def test_start_from_is_a_run_folder() -> None:
    with pytest.raises(UserError, match=r"start_from = '/.*/nowhere': no run folder of a job"):
        ended(1, start_from="nowhere")


def test_an_own_script_gets_the_folder_of_the_job_before() -> None:
    Path("own.py").write_text("")
    plan, _ = resumed(ended(1, script="own.py"))
    folder = str(Path("runs/train-1").absolute())
    assert plan.job.start_from == folder
    assert f"export HPC_DL_START_FROM={folder}\n" in plan.script()
    assert "--start-from" not in " ".join(command(plan.job, SITE, "/run"))
    with pytest.raises(UserError, match=r"start_from = .*: a run of '/.*/own\.py', not of the built-in program"):
        ended(2, start_from="runs/train-1")


def test_a_folder_of_an_earlier_version_names_the_way_around() -> None:
    job = ended(1)
    job.run.asked_file.unlink()
    with pytest.raises(UserError, match=r"asked\.toml: no such file: .* with --start-from runs/train-1"):
        resumed(job)


def test_a_job_inside_a_job_does_not_take_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    import click
    from click.testing import CliRunner

    @click.command()
    @job_options
    def show(**settings: Any) -> None:
        click.echo(repr([layer.values for layer in layers(settings)]))

    monkeypatch.delenv("HPC_DL_MAKE", raising=False)  # what make passes on is meant for this job
    monkeypatch.setenv("HPC_DL_START_FROM", "/before")
    assert CliRunner().invoke(show).output == "[{'start_from': '/before'}]\n"
    monkeypatch.setenv("HPC_DL_RUN", "/around")
    assert CliRunner().invoke(show).output == "[]\n"
    assert CliRunner().invoke(show, ["--start-from", "/x"]).output == "[{'start_from': '/x'}]\n"


def test_asked_is_the_job_as_it_was_given() -> None:
    run = ended(1, nodes=2).run
    asked = build(JobSpec, [read_toml(run.asked_file)], "job")
    assert (asked.nodes, asked.gpus, asked.cores, asked.ps) == (2, None, None, None)
