"""Shell lines that bash can't read are refused before submission."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_dl.errors import UserError
from hpc_dl.submission.choose_site import choose_site
from hpc_dl.submission.shell_lines import problem


@pytest.mark.parametrize(
    "line",
    [
        "module purge",
        "",
        "# only this",
        "source x || exit 1",
        "for i in 1 2; do echo $i; done",
        "f() { ls; }",
        "a=(b c)",
    ],
)
def test_bash_can_read_it(line: str) -> None:
    assert problem(line) == ""


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("fi", "syntax error near unexpected token `fi'"),
        ("if true; then", "unexpected end of file"),
        ("echo 'a", "unexpected EOF while looking for matching `''"),
        ("}", "unexpected token `}'"),
        ("cat <<END", "here-document"),
    ],
)
def test_bash_says_what_is_wrong(line: str, why: str) -> None:
    assert why in problem(line)


def test_the_file_and_the_line_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(
        "cores = 1\naddress = '127.0.0.1'\nscheduler = 'local'\nbefore_modules = ['ml a']\n"
        "[partitions.gpu]\nafter_modules = ['ml b', 'fi']\n"
    )
    assert choose_site("./my.toml").site.before_modules == ("ml a",)
    with pytest.raises(UserError, match=r"my\.toml, line 6: after_modules: 'fi' is no complete shell command: syntax"):
        choose_site("./my.toml", "gpu")
    Path("my.toml").write_text("cores = 1\nbefore_modules = [\n  'ml a',\n  'if',\n]\n")
    with pytest.raises(UserError, match=r"my\.toml, line 2: before_modules: 'if' is no complete shell command: "):
        choose_site("./my.toml")
