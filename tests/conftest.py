"""Options of the test run, and the proof that a test leaves nothing behind."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import leftovers

_TEMPORARY = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-golden", action="store_true", help="write the golden files anew instead of comparing")


def pytest_configure(config: pytest.Config) -> None:
    # How long an example takes is a matter of what else runs on the machine.
    hypothesis.settings.register_profile("hpc_dl")
    hypothesis.settings.load_profile("hpc_dl")
    # Where a script runs the tests in the background they ignore SIGINT, and all that they start would too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # `make test` runs the tests; a make that a test runs is no part of it.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
        os.environ.pop(name, None)
    # Those of pytest's own stay for a look at them.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # Short, since unix sockets lie in it.
    config.stash[_TEMPORARY] = Path(tempfile.mkdtemp(prefix="ht", dir="/tmp"))
    leftovers.begin(config.stash[_TEMPORARY])


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[_TEMPORARY], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, and begin with those that wait most, so that others can run beside them."""
    order = {"slurm": 0, "docs": 1, "train": 1, "unit": 2}
    for item in items:
        kind = _kind(item)
        if kind == "slurm":
            item.add_marker(pytest.mark.slurm)
            item.add_marker(pytest.mark.xdist_group("slurm"))  # they share a cluster
        if _needs_tensorflow(item.path):
            item.add_marker(pytest.mark.tensorflow)
    items.sort(key=lambda item: order.get(_kind(item), 4))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare the import of TensorFlow where no test that needs it is asked for."""
    unwanted = "not tensorflow" in config.option.markexpr
    return True if unwanted and collection_path.suffix == ".py" and _needs_tensorflow(collection_path) else None


def _kind(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


@functools.cache
def _needs_tensorflow(path: Path) -> bool:
    # The pages of the documentation show jobs that train.
    starts_training = path.relative_to(Path(__file__).parent).parts[0] in ("train", "docs")
    return starts_training or "import tensorflow as tf" in path.read_text()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_in_the_end() -> Iterator[None]:
    """What tests share, such as a cluster, leaves nothing behind when it ends."""
    before = leftovers.present()
    yield
    assert not leftovers.new_since(before)


@pytest.fixture(autouse=True)
def nothing_is_left(nothing_is_left_in_the_end: None) -> Iterator[None]:
    """Each test leaves no process, port, shared memory or temporary file behind."""
    before = leftovers.present()
    yield
    # That of a cluster that tests share may have been started again.
    assert not leftovers.new_since(before, may_stay="/slurmctld ")


@pytest.fixture(scope="session")
def horovod() -> None:
    """Horovod is built; else the tests are skipped, or fail in continuous integration."""
    if importlib.util.find_spec("horovod") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Horovod is not built: make setup-horovod")
        pytest.skip("Horovod is not built: make setup-horovod")
