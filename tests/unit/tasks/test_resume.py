"""What is left of a run is run again, and nothing else: restart files, --resume, journals. Real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from hpc_dl.errors import UserError
from hpc_dl.tasks.journal import Journal, Run
from hpc_dl.tasks.locks import lock
from hpc_dl.tasks.records import Records
from tests.unit.fakes.tasks import background, eventually, output, run, states, tasks
from tests.unit.tasks.test_disk import no_space


def graph(chance: random.Random, size: int) -> tuple[str, dict[int, list[int]], dict[int, str]]:
    """Return a random task file, its tasks' dependencies, and what becomes of each while "mended" is not there.

    What becomes of them is as the user guide defines it: invalid if it names no earlier valid task, cancelled if one
    that it names did not end well.
    """
    lines: list[str] = []
    parents: dict[int, list[int]] = {}
    expected: dict[int, str] = {}
    for number in range(1, size + 1):
        kind = chance.choices(["ok", "fails", "invalid", "comment"], [12, 4, 1, 1])[0]
        if kind == "comment":
            lines.append(chance.choice(["", "# nothing"]))
            continue
        parents[number] = sorted(chance.sample(sorted(expected), min(len(expected), chance.randint(0, 2))))
        named = [str(parent if chance.random() < 0.5 else parent - number) for parent in parents[number]]
        if kind == "invalid":
            named.append(chance.choice([str(number), str(size + 1), "x", "0"]))
        after = f"[# {', '.join(named)} #] " if named else ""
        test = "test -e mended && " if kind == "fails" else ""
        lines.append(f"{after}{test}echo {number} >> ran")
        became = {expected[parent] for parent in parents[number]}
        if kind == "invalid" or "INVALID" in became:
            expected[number] = "INVALID"
        elif became - {"OK"}:
            expected[number] = "CANCELLED"
        else:
            expected[number] = "FAILED" if kind == "fails" else "OK"
    return "".join(f"{line}\n" for line in lines), parents, expected


def ran(folder: Path) -> list[int]:
    """Return the tasks that have run, in order."""
    path = folder / "ran"
    return [int(word) for word in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize("seed", range(6))
def test_the_restart_of_any_graph_completes_and_twice_is_once(tmp_path: Path, seed: int) -> None:
    text, parents, expected = graph(random.Random(seed), 25)
    assert states(run(tmp_path, text, "--no-strict", "--workers=3")) == expected
    valid = sorted(number for number, state in expected.items() if state != "INVALID")
    assert sorted(ran(tmp_path)) == [number for number in valid if expected[number] == "OK"]
    (tmp_path / "mended").touch()
    for _ in range(2):
        if set(expected.values()) != {"OK"}:
            assert tasks(tmp_path, "run", "t.txt-local.rst").returncode == 0
        order = ran(tmp_path)
        assert sorted(order) == valid
        assert all(order.index(parent) < order.index(number) for number in valid for parent in parents[number])


def far_enough(begun: Path, some: int, runner: subprocess.Popen[str]) -> bool:
    return runner.poll() is not None or (begun.exists() and begun.read_text().count("x") >= some)


@pytest.mark.parametrize("seed", range(3))
def test_what_a_killed_run_of_any_graph_has_left_is_run_and_nothing_else(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    text, parents, expected = graph(chance, 40)
    text = text.replace("echo", "echo x >> begun; sleep 0.03; echo")
    (tmp_path / "t.txt").write_text(text)
    valid = {number for number, state in expected.items() if state != "INVALID"}
    begun = tmp_path / "begun"
    done: set[int] = set()
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        begun.unlink(missing_ok=True)
        runner = background(tmp_path, "run", "t.txt", "--no-strict", "--resume", "--workers=3", "--grace=0")
        some = chance.randint(6, 9)
        eventually(partial(far_enough, begun, some, runner))
        runner.send_signal(number)
        runner.communicate(timeout=60)
        for journal in (tmp_path / "t.txt.records").glob("*.jsonl"):
            with journal.open("rb+") as file:
                lock(file.fileno(), wait=True)  # until its agent has ended
        ended = [end.task for end in Journal(tmp_path / "t.txt.records").ends if end.ok]
        assert len(ended) == len(set(ended))  # nothing that was OK ran again
        assert done <= set(ended)
        done = set(ended)
    assert done
    (tmp_path / "mended").touch()
    (tmp_path / "ran").unlink(missing_ok=True)
    report = json.loads(tasks(tmp_path, "run", "t.txt", "--no-strict", "--resume", "--json").stdout)
    assert {row["number"] for row in report["tasks"] if row["state"] == "OK"} == valid
    order = ran(tmp_path)
    assert sorted(order) == sorted(valid - done)
    place = {number: position for position, number in enumerate(order)}
    assert all(place.get(parent, -1) < place[number] for number in order for parent in parents[number])


def test_a_killed_runner_loses_nothing(tmp_path: Path) -> None:
    text = "".join(
        f"echo {n} >> ran; test {n} -lt 20 || test -e go || sleep 60; echo {n} >> ended\n" for n in range(40)
    )
    (tmp_path / "t.txt").write_text(text)
    runner = background(tmp_path, "run", "t.txt", "--workers=3")
    ran = tmp_path / "ran"
    eventually(lambda: ran.exists() and ran.read_text().count("\n") >= 22)
    runner.kill()
    runner.communicate(timeout=60)
    (tmp_path / "go").touch()
    done = tasks(tmp_path, "run", "t.txt", "--resume", "--json")
    assert set(states(json.loads(done.stdout)).values()) == {"OK"}
    assert Counter((tmp_path / "ended").read_text().split()) == Counter(str(n) for n in range(40))
    # What had ended was not started again.
    assert [n for n, times in Counter(ran.read_text().split()).items() if times > 1 and int(n) < 20] == []
    again = tasks(tmp_path, "run", "t.txt", "--resume")
    assert again.returncode == 0
    assert len((tmp_path / "ended").read_text().split()) == 40


def test_an_edited_line_runs_again(tmp_path: Path) -> None:
    run(tmp_path, "echo a >> log\necho b >> log\n")
    run(tmp_path, "echo a >> log\necho c >> log\n", "--resume")
    assert Counter((tmp_path / "log").read_text().split()) == {"a": 1, "b": 1, "c": 1}


def test_a_new_restart_file_does_not_take_the_records_of_an_old_one(tmp_path: Path) -> None:
    text = "test -e mended && echo x >> ran\n"
    for expected in (1, 2):
        (tmp_path / "mended").unlink(missing_ok=True)
        run(tmp_path, text)
        (tmp_path / "mended").touch()
        assert tasks(tmp_path, "run", "t.txt-local.rst").returncode == 0
        assert (tmp_path / "ran").read_text().count("x") == expected


def test_a_journal_that_a_crash_has_cut_is_read(tmp_path: Path) -> None:
    run(tmp_path, "true\ntrue\n")
    (journal,) = (tmp_path / "t.txt.records").glob("*.jsonl")
    whole = journal.read_text()
    journal.write_text(whole[: len(whole) * 3 // 4])
    report = run(tmp_path, "true\ntrue\n", "--resume")
    assert [row.get("attempts", 0) for row in report["tasks"]] in ([0, 1], [1, 0])
    # What was written after the cut counts.
    assert [row.get("attempts", 0) for row in run(tmp_path, "true\ntrue\n", "--resume")["tasks"]] == [0, 0]


@pytest.mark.parametrize(
    "words", [["--cores=9999"], ["--log-file=/none/log"], ["--workers=1", "--log-level=6"]], ids=lambda words: words[0]
)
def test_a_run_that_is_refused_leaves_the_records_of_the_last_one(tmp_path: Path, words: list[str]) -> None:
    text = "echo x >> ran\ntest -e mended\n"
    run(tmp_path, text)
    assert tasks(tmp_path, "run", "t.txt", *words).returncode == 2
    (tmp_path / "mended").touch()
    assert set(states(run(tmp_path, text, "--resume")).values()) == {"OK"}
    assert (tmp_path / "ran").read_text() == "x\n"
    assert not (tmp_path / "t.txt.records.1").exists()


def test_a_run_that_is_killed_before_it_begins_leaves_the_records_of_the_last_one(tmp_path: Path) -> None:
    text = "echo x >> ran\n"
    run(tmp_path, text)
    code = "import os; from hpc_dl.tasks.executor import Agents; Agents.greet = lambda *_: os.kill(os.getpid(), 9)"
    code += "; from hpc_dl.cli.main import main; main()"
    words = [sys.executable, "-c", code, "tasks", "run", "t.txt"]
    assert subprocess.run(words, cwd=tmp_path, check=False, timeout=60).returncode == -signal.SIGKILL
    run(tmp_path, text, "--resume")
    assert (tmp_path / "ran").read_text() == "x\n"


def test_a_disk_that_is_full_at_the_beginning_leaves_the_records_of_the_last_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "echo x\n")
    folder = tmp_path / "t.txt.records"
    records = Records(folder, "", resume=False)
    monkeypatch.setattr(os, "write", no_space)
    with pytest.raises(UserError, match="No space left on device"):
        records.begin(Run(1.0, "1", "", 1, 0))
    records.close()
    assert output(tmp_path, 1) == "x\n"
    assert [path.name for path in tmp_path.iterdir() if "records" in path.name] == ["t.txt.records"]


def test_who_has_opened_what_was_moved_aside_waits_as_before(tmp_path: Path) -> None:
    run(tmp_path, "echo x\n")
    folder = tmp_path / "t.txt.records"
    records = Records(folder, "", resume=False)
    with (folder / "journal").open("rb+") as waiting:
        records.begin(Run(1.0, "1", "", 1, 0))
        with pytest.raises(BlockingIOError):
            lock(waiting.fileno(), wait=False)
        records.close()
        lock(waiting.fileno(), wait=False)


def test_a_new_run_moves_the_records_of_the_last_one_aside(tmp_path: Path) -> None:
    for number in (1, 2):
        run(tmp_path, "echo x >> ran; echo $(grep -c x ran)\n")
        (journal,) = (tmp_path / "t.txt.records").glob("*.jsonl")
        assert len(journal.read_text().splitlines()) == 1
        assert output(tmp_path, 1) == f"{number}\n"
    assert (tmp_path / "t.txt.records.1" / "output" / "1.out").read_text() == "1\n"
    assert len((tmp_path / "t.txt.records.1" / journal.name).read_text().splitlines()) == 1
