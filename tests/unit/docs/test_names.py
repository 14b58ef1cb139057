"""Every name that people can use is documented, and the pages use no name that does not exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs._ext import facts
from hpc_dl.tasks.file.settings_comment import KEYS as TASK_KEYS
from hpc_dl.tasks.greasy_conf import _NAMES as GREASY_NAMES
from tests.docs.pages import DOCS, PAGES, ROOT

_TARGETS = set(facts.make_targets().names)
_VARIABLES = {*facts.make_variables(), "PYTHON", "KIND", "MPI", "PYTEST_ARGS"}
_FLAGS = {command.name: command.flags | {"--help"} for command in facts.commands()}
_GROUPS = {name.rpartition(" ")[0] for name in _FLAGS}


def _shown(page: Path) -> Iterator[str]:
    """Yield the texts of a page that may be commands: literals, and lines of indented blocks."""
    text = page.read_text()
    yield from (re.sub(r"\s+", " ", literal) for literal in re.findall(r"``(.+?)``", text, re.DOTALL))
    yield from (line.strip().removeprefix("$ ") for line in text.splitlines() if line.startswith(" "))


def _commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of make and hpc-dl on a page."""
    for text in _shown(page):
        for part in re.split(r"[|;&]|\$\(", text):
            part = re.sub(r"\s+#.*|[\[\]…]|\)?\"?$", "", part.strip())
            if re.match(r"(make|hpc-dl|\.venv/bin/hpc-dl)( |$)", part) and "'" not in re.sub(r"'[^']*'", "", part):
                yield shlex.split(part)


def _problem(words: list[str]) -> str:
    if words[0] == "make":
        wrong = [word for word in words[1:] if not _is_of_make(word)]
        return f"make: {wrong}" if wrong else ""
    name = "hpc-dl"
    rest = words[1:]
    while rest and f"{name} {rest[0]}" in {*_FLAGS, *_GROUPS}:
        name = f"{name} {rest.pop(0)}"
    if name not in _FLAGS:
        return f"{name}: no command {rest[:1]}" if rest and re.fullmatch("[a-z-]+", rest[0]) else ""
    flags = [word.partition("=")[0] for word in rest if re.match(r"--[a-z-]+(=|$)", word)]
    wrong = [flag for flag in flags if flag not in _FLAGS[name]]
    return f"{name}: {wrong}" if wrong else ""


def _is_of_make(word: str) -> bool:
    variable = re.match(r"([A-Z_]+)=", word)
    return variable[1] in _VARIABLES if variable else word in _TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_no_command_target_option_or_variable_that_does_not_exist(page: Path) -> None:
    assert [problem for words in _commands(page) if (problem := _problem(words))] == []
    alone = [found[1] for text in _shown(page) if (found := re.fullmatch(r"([A-Z][A-Z_]+)=\S*", text))]
    known = {*_VARIABLES, "HPC_DL_SITE", "HPC_DL_NODES", "TF_USE_LEGACY_KERAS"}
    assert [name for name in alone if name not in known] == []


@pytest.mark.parametrize(
    ("page", "table"), [("job-keys", "job_keys"), ("site-keys", "site_keys"), ("make", "make_targets")]
)
def test_each_key_and_target_has_a_row_with_a_meaning(page: str, table: str) -> None:
    rows = getattr(facts, table)().rows
    assert [row[0] for row in rows if not row[-1]] == []
    text = (DOCS / "reference" / f"{page}.rst").read_text()
    options = re.findall(rf"\.\. generated:: {table}\n((?:   :.*\n)*)", text)
    assert "only" not in options[-1], "the last table of the page has all rows that are left"


def test_each_command_and_option_has_a_help_text() -> None:
    for command in facts.commands():
        assert command.help, command.name
        assert [row[0] for row in command.options.rows if not row[1]] == [], command.name


def test_each_option_of_make_belongs_to_a_command() -> None:
    assert [row[0] for row in facts.make_options().rows if not (row[1] and row[2])] == []


@pytest.mark.parametrize("name", [*TASK_KEYS, *GREASY_NAMES])
def test_each_key_of_task_files_is_documented(name: str) -> None:
    assert f"* - ``{name}``" in (DOCS / "reference" / "task-files.rst").read_text()


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "hpc_dl").glob("*/__init__.py")))
def test_the_page_of_the_design_names_each_folder_of_the_package(folder: str) -> None:
    assert f"``{folder}/``" in (DOCS / "explanation" / "design.rst").read_text()


def test_a_page_with_a_wrong_name_is_found() -> None:
    assert _problem(["make", "submit", "NODS=4"])
    assert _problem(["make", "sumbit"])
    assert _problem(["hpc-dl", "submit", "--nods", "4"])
    assert _problem(["hpc-dl", "tasks", "rum"])
    assert not _problem(["hpc-dl", "tasks", "run", "--resume", "tasks.txt"])
