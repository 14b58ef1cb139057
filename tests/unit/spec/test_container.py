"""The keys of containers, of a site and of a job."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hpc_dl.errors import UserError
from hpc_dl.spec.container import unexpanded, with_job
from hpc_dl.spec.job import JobSpec, load_job
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import load_site

SITE = Site(name="s", cores=1, container=("apptainer", "exec", "a.sif"), python="/opt/python")


def test_keys_of_the_job_win() -> None:
    assert with_job(SITE, JobSpec()) == SITE
    job = JobSpec(container=("podman", "run", "b"), container_python="python3.12")
    found = with_job(SITE, job)
    assert (found.container, found.container_python, found.python) == (job.container, "python3.12", "/opt/python")


def test_a_python_of_the_job_is_for_processes_outside_of_containers() -> None:
    with pytest.raises(UserError, match="python = '/own': processes are in a container; container_python names their"):
        with_job(SITE, JobSpec(python="/own"))
    assert with_job(SITE, JobSpec(python="/own", container=())).python == "/opt/python"


def test_the_srun_options_of_a_job_take_the_place_of_its_sites_command() -> None:
    found = with_job(SITE, JobSpec(container_srun=("--container-image=b",)))
    assert (found.container, found.container_srun) == ((), ("--container-image=b",))
    back = with_job(found, JobSpec(container=("enroot", "start", "c")))
    assert (back.container, back.container_srun) == (("enroot", "start", "c"), ())


def test_a_job_can_do_without_the_container_of_its_site() -> None:
    assert not with_job(SITE, JobSpec(container=())).in_container


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "container_srun = ['--image=b']\ncontainer = ['a']",
            "line 1: container_srun = ['--image=b']: container = ['a'] st",
        ),
        (
            "container = ['a', '/usr/bin/env']",
            "line 1: container = ['a', '/usr/bin/env']: /usr/bin/env can't stand in it",
        ),
        ("container_srun = ['b.sqsh']", "line 1: container_srun = ['b.sqsh']: 'b.sqsh' is no option of srun"),
        ("container = ['a\\u0000']", "'\\x00' can't stand in a line"),
    ],
)
@pytest.mark.parametrize("what", ["job", "site"])
def test_keys_that_do_not_fit_are_told_with_file_and_line(tmp_path: Path, text: str, said: str, what: str) -> None:
    path = tmp_path / "one.toml"
    path.write_text(text.replace("'", '"') + "\n" + ("cores = 1\n" if what == "site" else ""))
    with pytest.raises(UserError) as raised:
        load_site(path) if what == "site" else load_job(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_variables_of_the_shell_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES", "/my images")
    monkeypatch.delenv("IMAGE", raising=False)
    job = load_job(None, [Layer({"container": ["run", "$IMAGES/a.sif", "$$x"]}, "--container")])
    assert job.container == ("run", "/my images/a.sif", "$x")
    values = {key: value for key, value in msgspec.to_builtins(job).items() if value is not None}  # as in TOML
    frozen = Layer(unexpanded(values), "asked.toml")
    assert load_job(None, [frozen]) == job
    with pytest.raises(UserError) as raised:
        load_job(None, [Layer({"container": ["run", "$IMAGE/a.sif"]}, "--container")])
    assert "--container: container = '$IMAGE/a.sif': $IMAGE is not set where you submit (did you mean" in str(
        raised.value
    )
    with pytest.raises(UserError, match=r"a \$ without a name; \$\$ stands for a \$"):
        load_job(None, [Layer({"python": "$"}, "--python")])
