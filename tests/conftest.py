"""Options of the test run."""

from __future__ import annotations

import importlib.util
import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-golden", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture(scope="session")
def horovod() -> None:
    """Horovod is built; else the tests are skipped, or fail in continuous integration."""
    if importlib.util.find_spec("horovod") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Horovod is not built: make setup-horovod")
        pytest.skip("Horovod is not built: make setup-horovod")
