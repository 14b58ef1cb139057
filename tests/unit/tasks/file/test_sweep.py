"""Sweeps: a template and a table give a task file, whatever the values are."""

from __future__ import annotations

import csv
import itertools
import subprocess
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.tasks.file.parser import parse
from hpc_dl.tasks.file.sweep import expand_sweep


def write(folder: Path, template: str, table: str, suffix: str = ".csv") -> tuple[Path, Path]:
    paths = folder / "t.j2", folder / f"t{suffix}"
    for path, text in zip(paths, (template, table), strict=True):
        path.write_text(text)
    return paths


def test_a_row_gives_its_lines(tmp_path: Path) -> None:
    template = "#@ name=r{{ number }}\ntrain --lr {{ lr }} {{ tag }}\n\n[# -1 #] test {{ lr }}\n"
    assert expand_sweep(*write(tmp_path, template, "lr, tag\n0.1,a b\n\n0.01,$(id)\n")) == (
        "#@ name=r1\ntrain --lr 0.1 'a b'\n[# -1 #] test 0.1\n#@ name=r2\ntrain --lr 0.01 '$(id)'\n[# -1 #] test 0.01\n"
    )


def test_lists_give_every_combination(tmp_path: Path) -> None:
    paths = write(tmp_path, "run {{ lr }} {{ tag }} {{ on }}", "lr = [0.1, 1]\ntag = ['a b', 'c']\non = true", ".toml")
    assert expand_sweep(*paths) == "run 0.1 'a b' True\nrun 0.1 c True\nrun 1 'a b' True\nrun 1 c True\n"


VALUES = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "$(touch pwned)",
        "`touch pwned`",
        "it's",
        '"',
        "a  b",
        "; touch pwned",
        "*",
        "-n",
        "\\",
        "#",
        "[# 1 #]",
        "$HOME",
        "é",
        "\r",
    ]
)


@settings(max_examples=60)
@given(st.lists(VALUES, min_size=1, max_size=3), st.lists(VALUES, min_size=1, max_size=3), st.booleans())
def test_any_value_reaches_its_command_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str], toml: bool
) -> None:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "t.j2").write_text("printf '%s\\0' {{ a }} {{ b }}\n")
    path = folder / ("t.toml" if toml else "t.csv")
    table = list(itertools.product(first, second))
    if toml:
        path.write_text(tomli_w.dumps({"a": first, "b": second}))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *table])
    said = [
        subprocess.run(["sh", "-c", task.command], cwd=folder, capture_output=True, check=True).stdout
        for task in parse(expand_sweep(folder / "t.j2", path))
    ]
    assert [tuple(words.decode().split("\0")[:-1]) for words in said] == table
    assert not (folder / "pwned").exists()


@pytest.mark.parametrize(
    ("template", "table", "suffix", "message"),
    [
        ("x", "lr,tag\n0.1\n", ".csv", "t.csv, line 2: 1 values for 2 columns: lr, tag"),
        ("x", "lr,l r\n", ".csv", "t.csv, line 1: 'l r': expected different names"),
        ("x", "lr,lr\n", ".csv", "t.csv, line 1: 'lr': expected different names"),
        ("x", 'lr,tag\n1,"x\n', ".csv", "t.csv, line 2: unexpected end of data"),
        ("x", 'lr,tag\n1,2\n3,"x\ny"\n', ".csv", "t.csv, line 4: tag = 'x\\ny': a task is one line"),
        ("x", "lr\n", ".csv", "t.csv: has no row of values"),
        ("x", "number\n1\n", ".csv", "t.csv: 'number' is the row's own number"),
        ("x", "lr,template\n1,2\n", ".csv", "t.csv: 'template' is the template's own name"),
        ("x", "lr = [1, [2]]", ".toml", "t.toml: lr: expected a list of values"),
        ("x", 'lr = [1, "a\\nb"]', ".toml", "t.toml, combination 2: lr = 'a\\nb': a task is one line"),
        ("x", "lr = [1,\n2 3]", ".toml", "line 2"),
        ("x", "".join(f"k{n} = [{'1,' * 10}]\n" for n in range(7)), ".toml", "t.toml: gives 10000000 combinations"),
        ("x", "", ".yaml", "t.yaml: expected a table in .csv or .toml"),
        ("a\n{{ l }}", "lr\n1\n", ".csv", "t.j2, line 2: 'l' is undefined"),
        ("a\n{{ lr", "lr\n1\n", ".csv", "t.j2, line 2: unexpected end of template"),
    ],
)
def test_an_error_names_file_and_line(tmp_path: Path, template: str, table: str, suffix: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        expand_sweep(*write(tmp_path, template, table, suffix))
    assert message in str(caught.value)


def test_an_invalid_task_names_its_row_once(tmp_path: Path) -> None:
    template, table = write(tmp_path, "true\n[# 9 #] false\n#@ name={{ lr }}\ntrue", "lr\n1\n''\n\"\"\n2\n")
    with pytest.raises(UserError) as caught:
        expand_sweep(template, table)
    lines = str(caught.value).split("\n")
    assert lines[0] == f"template {template} with {table}, line 2, line 2: there is no task 9 before this one"
    assert lines[1:3] == ["  [# 9 #] false", "     ^"]
    assert f"with {table}, line 4, line 11: expected KEY=VALUE, found 'name='" in lines[3]
    assert len(lines) == 6
