"""Task files: Greasy's format, read and written."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.tasks.file.parser import parse, read, scan
from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.file.writer import lines_of


def write(tasks: Iterable[Task]) -> str:
    """Return a task file in which each task keeps its number; blank lines fill the gaps."""
    lines: list[str] = []
    for task in tasks:
        written = lines_of(task)
        lines += [""] * (task.number - len(written) - len(lines))
        lines += written
    return "".join(f"{line}\n" for line in lines)


def test_a_task_has_the_number_of_its_line() -> None:
    text = "# first\n\n/bin/a\n  /bin/b 'x y' # c\n"
    assert parse(text) == [Task(3, "/bin/a"), Task(4, "/bin/b 'x y' # c")]


@pytest.mark.parametrize(
    ("brackets", "after"),
    [
        ("[# 3 #]", (3,)),
        ("[#1,3#]", (1, 3)),
        ("[# 1-3 #]", (1, 2, 3)),
        ("[# 3 - 1 #]", (1, 2, 3)),
        ("[# -1 #]", (3,)),
        ("[# - 2, 3 #]", (2, 3)),
        ("[# 3, 3, -1 #]", (3,)),
        ("[##]", ()),
        ("[# , #]", ()),
    ],
)
def test_dependencies(brackets: str, after: tuple[int, ...]) -> None:
    assert parse(f"a\nb\nc\n{brackets} d")[-1] == Task(4, "d", after)
    assert parse(f"a\nb\nc\n{brackets}d")[-1] == Task(4, "d", after)


@pytest.mark.parametrize("line", ["[# 1 #] [@ /a b @] c", "[@ /a b @] [# 1 #] c", "[@/a b@][#1#]c"])
def test_a_folder_may_stand_before_or_after_the_dependencies(line: str) -> None:
    assert parse(f"a\n{line}")[-1] == Task(2, "c", (1,), "/a b")


def test_a_setting_belongs_to_the_next_task_alone() -> None:
    assert parse("#@ node='n 1'\na\nb") == [Task(2, "a", node="n 1"), Task(3, "b")]


def test_windows_line_ends_do_no_harm() -> None:
    assert parse("#@ node=n1\r\na b\r\n") == [Task(2, "a b", node="n1")]


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("[# 2 #] b", 3, "there is no task 2 before this one"),
        ("[# 1, 7-9 #] b", 6, "there is no task 7 before this one"),
        ("[# 1-999999999 #] b", 3, "there is no task 2 before this one"),
        ("[# -2 #] b", 3, "there is no task 0 before this one"),
        ("[# -0 #] b", 3, "there is no task 2 before this one"),
        ("[# 1 x #] b", 3, "'1 x' is no dependency"),
        ("[# " + "9" * 5000 + " #] b", 3, "is no dependency"),
        ("[# ٣ #] b", 3, "is no dependency"),
        ("[# 1 b", 0, "'[#' without '#]'"),
        ("[@ /a b", 0, "'[@' without '@]'"),
        ("[@ @] b", 2, "expected a folder"),
        ("[# 1 #] [# 1 #] b", 8, "a second '[#'"),
        ("[# 1 #]", 7, "expected a command"),
        ("#@ nod=n1", 3, "(did you mean 'node'?); known keys: 'node', 'name'"),
        ("#@ node", 3, "expected KEY=VALUE"),
        ("#@ node='n1", 11, "no closing quotation"),
    ],
)
def test_an_error_points_at_its_place(line: str, column: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(f"a\n{line}", "tasks.txt")
    first, shown, caret = str(caught.value).split("\n")
    assert first.startswith("tasks.txt, line 2: ")
    assert message in first
    assert (shown, caret) == (f"  {line}", " " * (column + 2) + "^")


def test_all_invalid_lines_are_named() -> None:
    with pytest.raises(UserError) as caught:
        parse("[# 9 #] a\nb\n[@ @] c")
    assert [line[:17] for line in str(caught.value).split("\n")[::3]] == ["task file, line 1", "task file, line 3"]


def test_the_dependency_on_an_invalid_task_is_invalid() -> None:
    with pytest.raises(UserError, match="line 2: task 1 is invalid, so this one could never start"):
        parse("[# 9 #] a\n[# 1 #] b")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tasks.txt"
    file.write_bytes(b"echo \xff\n")
    with pytest.raises(UserError, match=f"{file}: can't be read"):
        read(file)
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "none")


@pytest.mark.parametrize("item", ["1-999999999", "999999999-1", "999999999", "-999999999", "1-" + "9" * 18])
def test_a_huge_range_costs_nothing(item: str) -> None:
    started = time.process_time()
    with pytest.raises(UserError, match="there is no task"):
        parse("a\n" * 3 + f"[# {item} #] b")
    assert time.process_time() - started < 10


PIECES = st.sampled_from(
    ["[#", "#]", "[@", "@]", "#@", "node=", "1", "-", ",", "9" * 20, "a", " ", "\n", "\t", "'", "#"]
)


@given(st.text(max_size=60) | st.lists(PIECES, max_size=25).map("".join))
def test_any_text_gives_tasks_or_a_user_error(text: str) -> None:
    try:
        tasks = parse(text)
    except UserError:
        return
    assert all(task.command for task in tasks)
    assert all(other < task.number for task in tasks for other in task.after)
    # What was read once is written and read again.
    assert parse(write(tasks)) == tasks


WORD = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x3FF, exclude_categories=["Cc", "Z"]), min_size=1, max_size=12
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "node": WORD,
        "name": WORD,
        "gpus": st.integers(0, 999),
        "cores": st.integers(1, 999),
        "memory": st.integers(1, 10**8),
        "time": st.integers(1, 10**8),
        "retries": st.integers(0, 999),
        "nodes": st.integers(1, 999),
        "env": st.dictionaries(
            st.from_regex(r"[A-Za-z_]\w*", fullmatch=True, alphabet=st.characters(max_codepoint=127)), WORD
        ).map(lambda variables: tuple(variables.items())),
    },
)


@st.composite
def task_lists(draw: st.DrawFn) -> list[Task]:
    tasks: list[Task] = []
    number = 0
    for command in draw(st.lists(WORD, max_size=8)):
        assume(not command.startswith(("[#", "[@")))
        number += draw(st.integers(2, 4))
        earlier = [task.number for task in tasks]
        after = draw(st.sets(st.sampled_from(earlier), max_size=4)) if earlier else ()
        workdir = draw(st.just("") | WORD.filter(lambda word: "@]" not in word and not word.endswith("@")))
        tasks.append(msgspec.structs.replace(Task(number, command, tuple(sorted(after)), workdir), **draw(SETTINGS)))
    return tasks


@given(task_lists())
def test_what_is_written_is_read_the_same(tasks: list[Task]) -> None:
    assert parse(write(tasks)) == tasks


def test_a_task_that_is_a_shell_comment_stays_a_task() -> None:
    tasks = parse("[##] # nothing\n[# 1 #] true")
    assert tasks == [Task(1, "# nothing"), Task(2, "true", (1,))]
    assert parse(write(tasks)) == tasks


def test_all_settings() -> None:
    text = "#@ name='a b' gpus=2 cores=4 memory=4G\n#@ time=1-2:03:04 retries=2 nodes=3 env.A=1 env.B='x y'\n"
    text += "#@ node=n[1-2]\nrun\n"
    assert parse(text) == [
        Task(4, "run", (), "", "n[1-2]", "a b", 2, 4, 4096, 93784, 2, (("A", "1"), ("B", "x y")), 3),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus=-1", "gpus=-1: expected a number of GPUs"),
        ("cores=0", "cores=0: expected a number of cores from 1"),
        ("nodes=0", "nodes=0: expected a number of nodes from 1"),
        ("memory=4", "memory=4: expected a number with M, G or T"),
        ("time=90", "time=90: expected 90s, 10m, 2h, 1d, H:MM:SS or D-HH:MM:SS"),
        ("time=0s", "time=0s: expected"),
        ("env.1A=x", "'1A' is no name of an environment variable"),
        ("gpu=1", "(did you mean 'gpus'?)"),
        ("name=a name=b", "a second 'name'"),
        ("env.A=a env.A=b", "a second 'env.A'"),
        ("env.A=a\n#@ env.A=b", "a variable twice"),
        ("name=a'", "no closing quotation"),
    ],
)
def test_a_wrong_setting_spoils_its_task_alone(text: str, message: str) -> None:
    file = scan(f"a\n#@ {text}\nb\nc\n[# -2 #] d")
    assert [task.command for task in file.tasks] == ["a", "c"]
    assert len(file.invalid) == 2
    assert message in file.problems[0].reason


SEED_TEXT = """\
# comment
/bin/sleep 1
#@ name=first gpus=2 time=90s env.A='b c'
[# 2 #] [@ /tmp/a b @] FOO=1 ./run --x 'y z' | tee log # text

#@ node=n[1-3] nodes=2 cores=4 memory=4G retries=2
[@ $HOME @][# -3, 2-4 #] a && b
[##] last
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_file_gives_no_traceback_and_no_invalid_task(seed: int) -> None:
    # HPC_DL_FUZZ=25000 makes it 100,000 mutations.
    chance = random.Random(seed)
    signs = [
        *"#@[]-,= \t\n'\"\\0123456789abénode\0\r\x85\u2028\ufeff",
        "[#",
        "#]",
        "[@",
        "@]",
        "#@",
        "gpus=",
        "99999999999",
    ]
    for _ in range(int(os.environ.get("HPC_DL_FUZZ", "800"))):
        text = SEED_TEXT
        for _ in range(chance.randint(1, 6)):
            at, end = sorted(chance.randrange(len(text) + 1) for _ in range(2))
            piece = chance.choice(
                [chance.choice(signs), text[at:end], "", text[at : at + 1] * chance.randint(1, 99), text[at:end][::-1]]
            )
            text = text[:at] + piece + text[chance.choice([at, min(at + chance.randint(1, 3), len(text)), end]) :]
        file = scan(text, "mutated")
        lines = text.split("\n")
        numbers = {task.number for task in file.tasks}
        assert bool(file.invalid) <= bool(file.problems)
        assert not numbers & file.invalid
        assert not numbers & {problem.line for problem in file.problems}
        for task in file.tasks:
            assert task.command
            assert lines[task.number - 1].rstrip().endswith(task.command)
            assert "\0" not in task.command
            assert set(task.after) <= numbers
        for problem in file.problems:
            assert problem.show("mutated").startswith(f"mutated, line {problem.line}: ")
        assert parse(write(file.tasks)) == file.tasks
