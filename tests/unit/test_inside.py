"""A module of ours that runs with the Python of a container."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import msgspec
import pytest

import hpc_dl

INSIDE = Path(hpc_dl.__file__).with_name("inside.py")
PACKAGES = Path(msgspec.__file__).parents[1]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has nothing but Python."""
    folder = tmp_path_factory.mktemp("image")
    venv.create(folder, with_pip=False, symlinks=True)
    return folder


def inside(image: Path, *words: str, packages: Path = PACKAGES) -> tuple[int, str]:
    command = [str(image / "bin" / "python"), str(INSIDE), str(packages), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=image)
    return done.returncode, done.stdout + done.stderr


def test_small_packages_come_from_the_host(image: Path) -> None:
    (image / "random.py").write_text("raise SystemExit('random.py of the user')\n")
    code, said = inside(image, "hpc_dl.data", "--help")
    assert (code, said) == (2, f"error: {python(image)} has no numpy: {HOW}\n")
    (image / "numpy.py").touch()
    code, said = inside(image, "hpc_dl.check.python", "click", "rich", "numpy")
    assert code == 0
    assert f'"executable": "{image}/bin/python"' in said
    assert '"rich": ' in said  # the host has it, but it is not for here
    assert '"click": ' not in said


def test_the_launcher_of_a_rank_can_run_in_the_image(image: Path) -> None:
    modules = ("hpc_dl.cli.job_script", "hpc_dl.node.launcher", "hpc_dl.node.mpi_rank", "hpc_dl.planning.process_env")
    code, said = inside(image, "hpc_dl.check.python", *modules)
    assert (code, '"failed": {}' in said) == (0, True), said


HOW = "install it in the image, or name another Python as container_python"


def python(image: Path) -> str:
    return f"the container's Python ({image}/bin/python, {sys.version.split()[0]})"


def test_what_the_image_lacks_is_told_before_the_training_starts(image: Path) -> None:
    assert inside(image, "hpc_dl.train") == (2, f"error: {python(image)} has no tensorflow: {HOW}\n")
    code, said = inside(image, "hpc_dl.train", packages=image)
    assert (code, said) == (
        2,
        f"error: {python(image)} can't import msgspec (No module named 'msgspec'): install it in the image\n",
    )


def test_a_python_that_is_too_old_is_told(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpc_dl import inside as module

    monkeypatch.setattr(sys, "version_info", (3, 8, 1))
    assert module.lacking("hpc_dl.train").endswith(" is too old: hpc_dl needs 3.10 or newer")
