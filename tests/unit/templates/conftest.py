"""A site with a folder of its own templates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site_files import load_site


@dataclass(frozen=True)
class OwnSite:
    """A site's file, and what is planned there."""

    file: Path

    def put(self, name: str, text: str) -> Path:
        """Write a template of the site."""
        path = self.file.parent / self.file.stem / "templates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def plan(self, job: str | None = "train", **settings: Any) -> Plan:
        return make_plan(job, load_site(self.file), self.file, [Layer(settings, "keyword {key}")])

    def tasks(self, **settings: Any) -> str:
        plan = self.plan(**settings)
        return plan.task_file(plan.placement(), "/run")


@pytest.fixture
def own_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnSite:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sites" / "my.toml"
    file.parent.mkdir()
    file.write_text("cores = 4\nmodules = ['tf']\nnodes = 'n[1-9]'\nenv = { A = 'b' }\n")
    return OwnSite(file)
