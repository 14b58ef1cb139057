"""The pages are built without a warning; a link to a key, command or page that does not exist is one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from docutils.core import publish_doctree

from tests.docs.pages import DOCS, ROOT


def test_the_pages_are_built_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--fresh-env", "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run([*command, DOCS, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert 'id="std-jobkey-mode"' in (tmp_path / "reference" / "job-keys.html").read_text()


def test_the_readme_is_plain_restructured_text() -> None:
    # Without Sphinx, as code hosts and package indexes show it: any warning is an error.
    settings = {"halt_level": 2, "report_level": 2, "syntax_highlight": "none"}
    assert publish_doctree((ROOT / "README.rst").read_text(), settings_overrides=settings).astext()


def test_the_readme_links_to_files_that_exist() -> None:
    text = (ROOT / "README.rst").read_text()
    links = re.findall(r"<([\w./-]+)>`_|image:: (\S+)", text)
    assert len(links) > 10
    assert [link for pair in links if not (ROOT / (link := "".join(pair))).exists()] == []
