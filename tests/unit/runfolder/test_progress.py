"""Progress: the metrics of the workers, read while they are written."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.runfolder.metrics import figures
from hpc_dl.runfolder.progress import Progress, Totals, totals


def record(step: int, **values: Any) -> dict[str, Any]:
    return {
        "time": 1.0,
        "step": step,
        "steps_per_s": 1.0,
        "global_steps_per_s": 2.0,
        "images_per_s": 64.0,
        "loss": 0.5,
        "accuracy": 0.25,
        **values,
    }


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    folder.metrics.mkdir()
    return folder


def append(run: RunFolder, name: str, *texts: str) -> None:
    with (run.metrics / f"{name}.jsonl").open("a") as file:
        file.writelines(texts)


def line(*args: Any, **values: Any) -> str:
    return json.dumps(record(*args, **values)) + "\n"


def test_the_jobs_figures_are_those_of_all_workers() -> None:
    last = {Path("a"): record(40), Path("b"): record(42, global_steps_per_s=3.0, loss=1.5, accuracy=None)}
    assert totals(last) == Totals(
        step=42,
        steps_per_s=2.5,
        images_per_s=128.0,
        loss=1.0,
        accuracy=0.25,
        workers=2,
        evaluating=False,
        last_step=1.0,
    )


def test_steps_that_all_make_together_count_once() -> None:
    last = {Path(name): {**record(1, steps_per_s=2.0), "global_steps_per_s": 2.0} for name in "ab"}
    found = totals(last)
    assert (found.steps_per_s, found.images_per_s) == (2.0, 128.0)


def test_the_age_of_the_last_step_is_told_once_it_is_notable(run: RunFolder) -> None:
    now = time.time()
    append(run, "worker-0", line(20, time=now - 160), line(40, time=now - 150))
    append(run, "worker-1", line(20, time=now - 190), line(40, time=now - 180))
    progress = Progress(run)
    assert 150 <= progress.look().quiet < 200
    append(run, "worker-1", line(60, time=now - 40))
    assert progress.look().quiet == 0
    assert progress.look().last_step == now - 40


def test_lines_that_are_minutes_apart_are_no_reason_to_worry(run: RunFolder) -> None:
    now = time.time()
    append(run, "worker-0", line(20, time=now - 400), line(40, time=now - 200))
    assert Progress(run).look().quiet == 0
    append(run, "worker-0", line(60, time=now - 199))
    assert 199 <= Progress(run).look().quiet < 240


def test_before_the_first_line_there_is_nothing(tmp_path: Path) -> None:
    assert Progress(RunFolder(tmp_path)).look() == Totals()
    assert totals({}, evaluating=True) == Totals(evaluating=True)


def test_time_left_needs_a_speed() -> None:
    assert Totals(step=40, steps_per_s=2.0).seconds_left(100) == 30
    assert Totals(step=101, steps_per_s=2.0).seconds_left(100) == 0
    assert Totals().seconds_left(100) is None


def test_each_look_shows_the_last_whole_line(run: RunFolder) -> None:
    progress = Progress(run)
    append(run, "worker-0", line(1), line(2))
    assert progress.look().step == 2
    whole = line(3)
    append(run, "worker-0", whole[:10])
    assert progress.look().step == 2
    append(run, "worker-0", whole[10:-1])
    assert progress.look().step == 2, "the line end is still missing"
    append(run, "worker-0", "\n", line(4)[:5])
    assert progress.look().step == 3
    append(run, "worker-1", line(7))
    assert (progress.look().step, progress.look().workers) == (7, 2)


def test_a_half_written_character_does_no_harm(run: RunFolder) -> None:
    progress = Progress(run)
    text = line(1).replace('"accuracy"', '"é"').encode()
    cut = text.index("é".encode()) + 1
    file = run.metrics / "worker-0.jsonl"
    file.write_bytes(text[:cut])
    assert progress.look() == Totals()
    file.write_bytes(text)
    assert progress.look().step == 1


def test_what_was_read_is_not_read_again(run: RunFolder) -> None:
    progress = Progress(run)
    append(run, "worker-0", line(1))
    progress.look()
    file = run.metrics / "worker-0.jsonl"
    file.write_bytes(b"x" * file.stat().st_size)
    assert progress.look().step == 1


@pytest.mark.parametrize("text", ["\0\0\0\n", '{"step": 7\n', '{"epoch": 1}\n', '{"time": "x", "step": 9}\n', "[1]\n"])
def test_what_is_not_ours_or_damaged_is_passed_over(run: RunFolder, text: str) -> None:
    append(run, "worker-0", line(5), text)
    append(run, "own", text, '{"event": "evaluating"}\n')
    assert (Progress(run).look().step, Progress(run).look().workers) == (5, 1)
    assert figures(run.metrics) == {}


def test_events_are_no_steps(run: RunFolder) -> None:
    progress = Progress(run)
    append(run, "ps-0", json.dumps({"time": 1.0, "event": "started"}) + "\n")
    assert progress.look() == Totals()
    append(run, "worker-0", line(5), json.dumps({"time": 1.0, "event": "evaluating"}) + "\n")
    now = progress.look()
    assert (now.step, now.workers, now.evaluating) == (5, 1, True)


def test_a_worker_that_was_given_up_counts_no_more(run: RunFolder) -> None:
    for number in range(2):
        append(run, f"worker-{number}", line(5))
    progress = Progress(run)
    assert progress.look().workers == 2
    run.lost.mkdir(parents=True)
    (run.lost / "worker-1").touch()
    assert progress.look().workers == 1


def test_only_the_current_attempt_counts(run: RunFolder) -> None:
    old, new = 1000.0, 3000.0
    append(run, "worker-0", line(500, time=old), json.dumps({"time": old, "event": "evaluating"}) + "\n")
    append(run, "worker-1", line(490, time=old))
    watching = Progress(run)
    assert (watching.look().step, watching.look().evaluating) == (500, True)
    run.attempt_file.write_text("1")
    os.utime(run.attempt_file, (2000.0, 2000.0))
    for progress in (watching, Progress(run)):
        assert progress.look() == Totals(begun=2000.0)
    append(run, "worker-0", line(410, time=new))
    for progress in (watching, Progress(run)):
        now = progress.look()
        assert (now.step, now.workers, now.evaluating) == (410, 1, False)
    append(run, "worker-0", json.dumps({"time": new, "event": "evaluating"}) + "\n")
    assert watching.look().evaluating


def test_the_end_of_a_long_file_is_enough(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    append(run, "worker-0", "not JSON at all\n", *(line(step) for step in range(3000)))
    progress = Progress(run)
    assert progress.look().step == 2999
    append(run, "worker-0", line(3000))
    assert progress.look().step == 3000


@pytest.mark.parametrize("tail", range(1, 40))
def test_the_first_look_begins_with_a_whole_line(run: RunFolder, monkeypatch: pytest.MonkeyPatch, tail: int) -> None:
    monkeypatch.setattr("hpc_dl.runfolder.progress._TAIL", tail + len(line(7)) - 20)
    append(run, "worker-0", line(6), line(7))
    found = Progress(run).look().step
    assert found == 7 or (found == 0 and tail < 20)


def test_a_loss_that_is_no_number_is_shown_as_such(run: RunFolder) -> None:
    append(run, "worker-0", line(5, loss=math.nan))
    loss = Progress(run).look().loss
    assert loss is not None
    assert math.isnan(loss)


def test_a_result_that_is_no_number_can_be_read(run: RunFolder) -> None:
    assert run.read_result() is None
    run.result.write_text(json.dumps({"test_loss": math.nan}))
    result = run.read_result()
    assert result is not None
    assert math.isnan(result["test_loss"])
