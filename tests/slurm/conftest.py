"""A real Slurm for the tests here."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.network import in_namespaces
from hpc_dl.errors import UserError
from hpc_dl.minicluster import MiniCluster
from hpc_dl.minicluster.programs import find_programs


@pytest.fixture(scope="session")
def slurm() -> None:
    """Slurm's programs are here; else the tests are skipped, or fail in continuous integration."""
    try:
        find_programs()
    except UserError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def namespaces() -> None:
    """This user may make networks of its own; else the tests are skipped, or fail in continuous integration."""
    command = in_namespaces(["ip", "link", "add", "name", "probe", "type", "bridge"])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"no namespaces here: {done.stderr.strip()}; they need root, or kernel.unprivileged_userns_clone=1"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def short_root() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets, as pytest's own is not."""
    root = Path(tempfile.mkdtemp(prefix="hd"))
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(slurm: None) -> Iterator[MiniCluster]:
    """A running cluster: 2 nodes with 16 CPUs and 4 GPUs each."""
    root = Path(tempfile.mkdtemp(prefix="hd"))
    try:
        with MiniCluster(root) as running:
            yield running
    finally:
        shutil.rmtree(root, ignore_errors=True)
