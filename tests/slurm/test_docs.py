"""The commands that the documentation shows for the private cluster do what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, Reader


@pytest.fixture
def reader(slurm: None, short_root: Path) -> Iterator[Reader]:
    one = Reader(short_root)
    yield one
    one.run("hpc-dl cluster stop")


@pytest.mark.timeout(180)
def test_the_page_of_the_private_cluster_can_be_followed(reader: Reader) -> None:
    reader.follow(DOCS / "tutorial" / "private-cluster.rst", kind="cluster")
