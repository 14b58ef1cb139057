"""The commands of the tutorial and the how-to pages do what the pages say, on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, Reader, blocks, commands, matches


def _pages() -> list[Path]:
    """Return the pages with commands for this machine."""
    pages = [page for folder in ("tutorial", "howto") for page in sorted((DOCS / folder).glob("*.rst"))]
    return [page for page in pages if any(one.language == "console" and not one.kind for one in blocks(page))]


@pytest.mark.tensorflow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", _pages(), ids=lambda page: page.stem)
def test_a_page_can_be_followed(page: Path, tmp_path: Path) -> None:
    Reader(tmp_path, site="local").follow(page)


def test_the_commands_of_the_readme_are_those_of_the_first_job_and_the_tests() -> None:
    first, second = next(commands(block) for block in blocks(ROOT / "README.rst") if block.language == "console")
    tutorial = [shown for block in blocks(DOCS / "tutorial" / "first-job.rst") for shown in commands(block)]
    assert first.command == tutorial[0].command == "make submit NODES=2 MODE=async"
    assert second.command == "make test"


def test_output_with_other_numbers_is_what_the_page_shows() -> None:
    shown = ["Job L1 COMPLETED after 16 s", "...", "Run folder: /home/you/hpc_dl/runs/train-L1", "exit code 2"]
    assert matches(shown, "Job L2 COMPLETED after 1:05 min\nanything\nRun folder: /tmp/x/runs/train-L2\nexit code 2\n")
    assert not matches(shown, "Job L2 COMPLETED after 3 s\nRun folder: /tmp/x/runs/train-L2\nexit code 1\n")
    assert not matches(shown, "Job L2 FAILED after 3 s\nRun folder: /tmp/x/runs/train-L2\nexit code 2\n")
