"""Templates: quoting by itself, the search path, a site's own blocks, errors that point."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site_files import load_site
from hpc_dl.tasks.file.parser import parse
from hpc_dl.templates import Renderer, comment, directive, shell, template_folders

LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def render(folder: Path, text: str, **values: Any) -> str:
    write(folder / "t.j2", text)
    return Renderer([folder]).render("t.j2", values)


@given(st.lists(LINES, min_size=1, max_size=6))
@settings(max_examples=25)
def test_bash_reads_every_printed_value_as_one_word(words: list[str]) -> None:
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {shell(words)}"], capture_output=True, check=True)
    assert done.stdout == "".join(f"{word}\0" for word in words).encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ v }}", "'a b'"),
        ("{{ [v, 'c'] }}", "'a b' c"),
        ("{{ v ~ '/c' }}", "'a b/c'"),
        ("{{ v | upper }}", "'A B'"),
        ("{{ '$x' }}", "'$x'"),
        ("{{ 3 }} {{ 1.5 }} {{ true }}", "3 1.5 True"),
        ("{% macro m(x) %}-{{ x }}{% endmacro %}{{ m(v) }}", "-'a b'"),
        ("{% set x %}-{{ v }}{% endset %}{{ x }}", "-'a b'"),
        ("{% set x %}-{{ v }}{% endset %}{{ x ~ 'c' }}", "'-'\"'\"'a b'\"'\"'c'"),
        ("{% block b %}{{ v }}{% endblock %} {{ self.b() }}", "'a b' 'a b'"),
        ("{% for x in [v] %}{{ x }}{% endfor %}", "'a b'"),
        ("{{ v | raw }}", "a b"),
        ("# {{ v | comment }}", "# a b"),
    ],
)
def test_values_are_quoted_once_wherever_they_come_from(tmp_path: Path, text: str, expected: str) -> None:
    assert render(tmp_path, text, v="a b") == expected


@given(LINES)
def test_a_comment_stays_on_its_line(text: str) -> None:
    assert len(f"# {comment(text)}.".splitlines()) == 1


def test_a_directive_survives_slurms_backslashes() -> None:
    assert directive("a\\b") == "'a\\\\b'"
    assert directive("plain-1:2") == "plain-1:2"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a site, in whose own folder templates may stand."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return write(tmp_path / "sites" / "my.toml", "cores = 4\nmodules = ['tf']\nnodes = 'n[1-9]'\n")


def plan_on(site: Path, job: str | None = "train", **settings: Any) -> Plan:
    return make_plan(job, load_site(site), site, [Layer(settings, "keyword {key}")])


def tasks_of(plan: Plan) -> str:
    return plan.task_file(plan.placement(), "/run")


def own(site: Path, name: str, text: str) -> Path:
    return write(site.parent / site.stem / "templates" / name, text)


def test_a_site_puts_the_command_into_a_container(site: Path) -> None:
    block = "{% block command %} singularity exec {{ image }} {{ command }}{% endblock %}"
    own(site, "tasks/line.j2", '{% extends "hpc_dl/tasks/line.j2" %}{% set image = "my image.sif" %}' + block)
    (task,) = parse(tasks_of(plan_on(site)))
    assert task.command.count(" singularity exec 'my image.sif' ") == 2
    assert "taskset" not in task.command
    assert task.command.count("CUDA_VISIBLE_DEVICES=''") == 2, "the other blocks are ours"


def test_a_site_adds_a_variable(site: Path) -> None:
    block = "{% block variables %}{{ super() }} PLACE={{ p.name ~ ' x' }}{% endblock %}"
    own(site, "tasks/line.j2", '{% extends "hpc_dl/tasks/line.j2" %}' + block)
    (task,) = parse(tasks_of(plan_on(site)))
    assert " TF_NUM_INTEROP_THREADS=2 PLACE='ps:0 x' taskset" in task.command
    assert " TF_NUM_INTEROP_THREADS=2 PLACE='worker:0 x' taskset" in task.command


def test_a_site_loads_modules_in_its_own_way(site: Path) -> None:
    assert "module load tf" in plan_on(site).script()
    block = "{% block modules %}\nml {{ site.modules }}\n{% endblock %}"
    path = own(site, "sbatch.sh.j2", '{% extends "hpc_dl/sbatch.sh.j2" %}' + block)
    script = plan_on(site).script()
    assert "\nml tf\n" in script
    assert "module load" not in script
    assert f"\n# from template {path}\n" in script
    assert "\n#SBATCH --nodes=1\n" in script, "the other blocks are ours"


def test_the_search_path_is_job_user_site_ours(site: Path, tmp_path: Path) -> None:
    job = write(tmp_path / "myjob" / "my.toml", "")
    assert "hpc_dl launch" in tasks_of(plan_on(site, str(job)))
    folders = [
        site.parent / site.stem / "templates",
        tmp_path / "config" / "hpc_dl" / "templates",
        job.parent / "templates",
    ]
    for folder in folders:
        write(folder / "tasks" / "line.j2", f"from {folder.parent.name}")
        (task,) = parse(tasks_of(plan_on(site, str(job))))
        assert task.command == f"from {folder.parent.name}"
    assert template_folders(job, site, tmp_path / "config") == folders[::-1]


def test_templates_lie_beside_each_of_the_files_of_a_site(site: Path, tmp_path: Path) -> None:
    above = write(tmp_path / "above" / "mine.toml", f"base = '{site}'\n")
    folders = [path.parent / path.stem / "templates" for path in (above, site)]
    write(folders[1] / "tasks" / "line.j2", "from below")
    assert template_folders(None, above, tmp_path / "config") == folders[1:]
    write(folders[0] / "tasks" / "line.j2", "from above")
    assert template_folders(None, above, tmp_path / "config") == folders


def test_a_frozen_job_renders_with_the_templates_of_its_submission(site: Path, tmp_path: Path) -> None:
    path = own(site, "tasks/line.j2", "before")
    plan = plan_on(site)
    run = RunFolder.create(tmp_path / "runs" / "a-1")
    run.freeze(plan.job, plan.asked, plan.site, plan.script(), plan.task_templates())
    path.write_text("after")
    values: dict[str, Any] = {"job": run.read_job()}
    assert run.renderer().render("tasks/line.j2", values) == "before"
    assert "hpc_dl launch" not in run.renderer().render("tasks/line.j2", values)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("\n{{ site.env.nothing }}", 2, "has no attribute 'nothing'"),
        ("\n{{ job.nodes", 2, "unexpected end of template"),
        ("\n{% block x %}", 2, "Unexpected end of template"),
        ("\n\n\n{{ job.nodes | nofilter }}", 4, "No filter named 'nofilter'"),
        ("\n{{ 1 / 0 }}", 2, "division by zero"),
        ("\n{{ job() }}", 2, "not callable"),
        ("\n{{ job.nodes + 'x' }}", 2, "unsupported operand"),
    ],
)
def test_an_error_names_the_file_and_the_line(site: Path, text: str, line: int, message: str) -> None:
    path = own(site, "tasks/line.j2", text)
    with pytest.raises(UserError) as caught:
        tasks_of(plan_on(site))
    assert str(caught.value).startswith(f"template {path}, line {line}: ")
    assert message in str(caught.value)


def test_a_missing_template_is_named_with_the_places(site: Path) -> None:
    own(site, "tasks/line.j2", '{% extends ["tasks/mine.j2"][0] %}')
    with pytest.raises(UserError, match=r"template tasks/mine\.j2: not found; looked in .*/my/templates, .*templates"):
        tasks_of(plan_on(site))


def test_a_template_that_extends_itself_learns_how_to_extend_ours(site: Path) -> None:
    own(site, "sbatch.sh.j2", '{% extends "sbatch.sh.j2" %}')
    with pytest.raises(
        UserError, match=r'template sbatch\.sh\.j2: extends .* itself .* extends "hpc_dl/sbatch\.sh\.j2"'
    ):
        plan_on(site).script()


def test_a_folder_of_templates_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"x\xff\ny")
    assert render(folder, "# {{ template | comment }}") == f"# {tmp_path}/x??y/t.j2"


def test_the_data_set_has_the_umask_of_the_user_who_submits(site: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho 0\numask > "$3.umask"\n[ "$4" != again ]\n')
    python.chmod(0o755)
    plan = msgspec.structs.replace(
        plan_on(site), site=load_site(site, scheduler="local", python=str(python), modules=[])
    )
    code = f"umask 0027\n{plan.script()}"
    subprocess.run(["bash", "-c", code], env={**os.environ, "HPC_DL_JOB_ID": "1"}, check=True, timeout=60)
    assert (tmp_path / "hpc_dl.data.umask").read_text() == "0027\n"
    assert (tmp_path / "hpc_dl.umask").read_text() == "0077\n"


def test_the_variables_of_a_job_script_are_not_for_env_to_change(site: Path) -> None:
    for mode in ("async", "horovod"):
        plan = plan_on(site, mode=mode)
        script = plan.script() + msgspec.structs.replace(plan, site=load_site(site, scheduler="local")).script()
        names = set(re.findall(r"(?:^|[;{'] *|local |for )([a-z]+)(?==| in )", script, re.MULTILINE))
        assert len(names) > 10
        for name in names:
            with pytest.raises(UserError, match=f"'{name}' is a variable that the job script can't change"):
                plan_on(site, env={name: "x"})


def test_an_error_outside_template_code_is_not_called_the_templates(tmp_path: Path) -> None:
    write(tmp_path / "t.j2", "")
    with pytest.raises(TypeError):
        Renderer([tmp_path]).render("t.j2", 3)  # type: ignore[arg-type]
