"""Overrides take effect wherever ours are used, and one that would do nothing is an error."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from hpc_dl.check.facts import here_script
from hpc_dl.check.nodes import node_script
from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan
from hpc_dl.planning.task_file import task_file
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.spec.site_files import load_site
from hpc_dl.tasks.submit import Request
from hpc_dl.tasks.submit import script as tasks_script
from hpc_dl.templates import overrides
from hpc_dl.templates.library import Library
from tests.unit.templates.conftest import OwnSite

LINE = '{% extends "hpc_dl/tasks/line.j2" %}'
BASE = '{% extends "hpc_dl/base.sh.j2" %}'
JOB = '{% extends "hpc_dl/job.sh.j2" %}'


def scripts(site: OwnSite) -> dict[str, str]:
    """Return every script of ours, as this site has it."""
    plan = site.plan()
    local = msgspec.structs.replace(plan, site=msgspec.structs.replace(plan.site, scheduler="local"))
    file = site.file.with_name("tasks.txt")
    return {
        "sbatch": plan.script(),
        "local": local.script(),
        "tasks": tasks_script(file, Request(1), load_site(site.file), plan.templates),
        "nodes": node_script(plan),
        "here": here_script(plan),
    }


@pytest.mark.parametrize("mode", ["async", "mixed", "sync", "multiworker", "single"])
def test_a_line_of_the_sites_own_is_that_of_every_mode(own_site: OwnSite, mode: str) -> None:
    own_site.put("tasks/line.j2", LINE + "{% block command %} apptainer exec x{{ super() }}{% endblock %}")
    assert " apptainer exec x " in own_site.tasks(mode=mode)


@pytest.mark.parametrize("block", ["directives", "modules", "environment"])
def test_what_all_scripts_do_is_overridden_once(own_site: OwnSite, block: str) -> None:
    own_site.put("base.sh.j2", BASE + f"{{% block {block} %}}\nown {block}\n{{% endblock %}}")
    for name, text in scripts(own_site).items():
        assert f"\nown {block}\n" in text, name
    assert all(("module load tf" in text) == (block != "modules") for text in scripts(own_site).values())


def test_a_job_script_of_the_sites_own_is_that_of_slurm_and_of_local_runs(own_site: OwnSite) -> None:
    own_site.put("job.sh.j2", JOB + "{% block data %}\nown data\n{% endblock %}")
    found = scripts(own_site)
    assert [name for name, text in found.items() if "\nown data\n" in text] == ["sbatch", "local"]


def test_a_stronger_folder_builds_on_ours(own_site: OwnSite) -> None:
    """What a user's template extends by the prefix is ours, also where the site has one of that name."""
    own_site.put("tasks/line.j2", LINE + "{% block command %} of-site{% endblock %}")
    user = own_site.file.parents[1] / "config" / "hpc_dl" / "templates" / "tasks" / "line.j2"
    user.parent.mkdir(parents=True)
    user.write_text(LINE + "{% block variables %} USER=1{% endblock %}")
    assert " USER=1 " in own_site.tasks()
    assert " of-site" not in own_site.tasks()


@pytest.mark.parametrize(
    ("name", "text", "line", "message"),
    [
        ("base.sh.j2", f"\n{BASE}\n{{% block moduls %}}{{% endblock %}}", 3, "block 'moduls' is in no template"),
        ("base.sh.j2", f"{BASE}\n\n{{% block moduls %}}{{% endblock %}}", 3, "(did you mean 'modules'?)"),
        ("sbatch.sh.j2", '{% extends "hpc_dl/sbatch.sh.j2" %}{% block lunch %}{% endblock %}', 1, "'launch'?"),
        ("base.sh.j2", f"{BASE}\nmodule load x", 2, "text outside of the blocks is never printed"),
        ("base.sh.j2", f"{BASE}\n{{{{ version }}}}", 2, "text outside of the blocks is never printed"),
        ("tasks/line.j2", LINE + "\n{% block command %}{{ comand }}{% endblock %}", 2, "unknown variable 'comand'"),
        ("tasks/line.j2", LINE + "\n{% block command %}{{ comand }}{% endblock %}", 2, "did you mean 'command'?"),
        ("tasks/line.j2", "\n\n{% if nothing %}{% endif %}", 3, "unknown variable 'nothing'"),
        ("tasks/line.j2", "\n{{ [nothing] }}", 2, "unknown variable 'nothing'"),
        ("tasks/line.j2", "\n{{ job.nodse }}", 2, "'job' has no key 'nodse' (did you mean 'nodes'?)"),
        ("tasks/line.j2", "\n{{ p.nam }}", 2, "'p' has no key 'nam' (did you mean 'name'?)"),
        ("base.sh.j2", BASE + "\n{% block modules %}{{ site.moduls }}{% endblock %}", 2, "did you mean 'modules'?"),
        ("base.sh.j2", BASE + "\n{% block modules %}{{ job.name }}{% endblock %}", 2, "unknown variable 'job'"),
        ("tasks/line.j2", '\n{% include "mine.j2" %}', 2, "template 'mine.j2' is not found"),
        ("tasks/line.j2", "\n{{ job.nodes", 2, "unexpected end of template"),
        ("tasks/line.j2", "\n\n\n{{ job.nodes | nofilter }}", 4, "No filter named 'nofilter'"),
        ("check/here.sh.j2", "\n{{ nothing }}", 2, "unknown variable 'nothing'"),
    ],
)
def test_what_has_no_effect_is_found_when_a_job_is_planned(
    own_site: OwnSite, name: str, text: str, line: int, message: str
) -> None:
    path = own_site.put(name, text)
    with pytest.raises(UserError) as caught:
        own_site.plan()
    assert str(caught.value).startswith(f"template {path}, line {line}: ")
    assert message in str(caught.value)
    with pytest.raises(UserError, match="template "):
        tasks_script(own_site.file, Request(1), load_site(own_site.file), [path.parents[name.count("/")]])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tasks/lin.j2", "nothing uses it (did you mean 'tasks/line.j2'?)"),
        ("line.j2", "nothing uses it (did you mean 'tasks/line.j2'?)"),
        ("sbatch.j2", "nothing uses it (did you mean 'sbatch.sh.j2'?)"),
        ("base.sh", "nothing uses it (did you mean 'base.sh.j2'?)"),
        ("base.sh.jinja2", "nothing uses it (did you mean 'base.sh.j2'?)"),
        ("minicluster/slurm.conf.j2", "nothing uses it"),
        ("prolog.sh.j2", "nothing uses it"),
    ],
)
def test_a_file_that_nothing_uses_is_found(own_site: OwnSite, name: str, message: str) -> None:
    path = own_site.put(name, "")
    with pytest.raises(UserError) as caught:
        own_site.plan()
    assert str(caught.value).startswith(f"template {path}: {message}")


def test_what_has_an_effect_is_taken(own_site: OwnSite) -> None:
    own_site.put("README", "{{ these are our templates")
    own_site.put("tasks/line.j2~", "{{ ")
    own_site.put(".tasks/line.j2.swp", "{{ ")
    own_site.put("index.html", "{{ of another program }}")
    own_site.put(
        "own/container.j2", "{% set image = 'x' %}{% macro inside(y) %} in {{ y }}{{ job.name }}{% endmacro %}"
    )
    own_site.put(
        "tasks/line.j2",
        LINE + '{% from "own/container.j2" import inside with context %}{% set where = "i" %}'
        "{% block command %}{{ inside(where) }}{% block more %} {{ p.name }}{% endblock %}"
        "{% if hope is defined %}{{ hope }}{% endif %}{% for q in range(2) %}{{ loop.index }}{{ q }}{% endfor %}"
        "{% endblock %}",
    )
    own_site.put("job.sh.j2", JOB + "{% block data %}\n{% block more %}{% endblock %}{% endblock %}")
    own_site.put(
        "sbatch.sh.j2",
        '{% extends "hpc_dl/sbatch.sh.j2" %}{% block launch %}\n{{ srun() }} {{ self.title() }}{% endblock %}'
        "{% block more %}deep{% endblock %}",
    )
    assert " in itrain ps:01021" in own_site.tasks(mode="async")
    assert "\nsrun --nodes" in own_site.plan().script()
    assert "\ndeep\n" in own_site.plan().script()


def test_a_template_of_its_own_name_without_the_prefix_learns_of_it(own_site: OwnSite) -> None:
    own_site.put("base.sh.j2", '{% extends "base.sh.j2" %}')
    with pytest.raises(UserError, match=r'base\.sh\.j2: extends .* itself .* extends "hpc_dl/base\.sh\.j2"'):
        own_site.plan()


def test_files_are_looked_at_again_only_after_a_change(own_site: OwnSite, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    real = overrides.problems

    def look(library: Library) -> Iterator[str]:
        looked.append(library)
        return real(library)

    monkeypatch.setattr(overrides, "problems", look)
    own_site.plan()
    assert looked == [], "there is no folder"
    own_site.put("tasks/line.j2", LINE)
    own_site.plan()
    own_site.plan()
    assert len(looked) == 1
    own_site.put("tasks/line.j2", LINE + "{% block commnd %}{% endblock %}")
    with pytest.raises(UserError, match="commnd"):
        own_site.plan()


def test_ours_are_in_order_as_overrides_too(own_site: OwnSite) -> None:
    library = Library([])
    for name in library.ours:
        own_site.put(name, library.get(name).path.read_text())
    assert not list(overrides.problems(Library([own_site.file.parent / "my" / "templates"])))


def frozen(plan: Plan, folder: RunFolder) -> list[str]:
    folder.path.mkdir()
    folder.freeze(plan.job, plan.asked, plan.site, "", plan.task_templates())
    files = [path for path in folder.templates.rglob("*") if path.is_file()]
    return sorted(path.relative_to(folder.templates).as_posix() for path in files)


def test_a_run_folder_has_the_templates_that_the_job_renders(own_site: OwnSite) -> None:
    plan = own_site.plan(mode="horovod")
    assert frozen(plan, RunFolder(own_site.file.parent / "a-1")) == ["tasks.txt.j2", "tasks/ranks.j2"]
    own_site.put("tasks/line.j2", LINE + '{% block command %} {% include "own/x.j2" %}{% endblock %}')
    own_site.put("own/x.j2", "before")
    plan, run = own_site.plan(mode="async"), RunFolder(own_site.file.parent / "a-2")
    assert {"hpc_dl/tasks/line.j2", "own/x.j2", "tasks.txt.j2", "tasks/line.j2"} <= set(frozen(plan, run))
    own_site.put("own/x.j2", "after")
    assert " before" in task_file(plan.job, plan.site, plan.placement(), "/run", run.renderer())
