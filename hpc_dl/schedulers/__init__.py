"""Schedulers, which start jobs. Each is a folder with a module `scheduler`; a new folder adds a scheduler."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpc_dl.runfolder.folder import RunFolder
    from hpc_dl.schedulers.protocol import Scheduler
    from hpc_dl.spec.site import Site


def scheduler_of(site: Site) -> Scheduler:
    """Return the scheduler of a site."""
    return _scheduler(site.scheduler, site.name)


def scheduler_of_run(run: RunFolder) -> Scheduler:
    """Return the scheduler that has the job of a run folder; Slurm where the folder does not say."""
    try:
        text = run.site_file.read_text()
    except (OSError, UnicodeDecodeError):
        text = ""
    # We wrote the file, with a line for each key. A TOML parser would be slow for a list of many jobs.
    kind, name = (re.search(rf'^{key} = "(.*)"$', text, re.MULTILINE) for key in ("scheduler", "name"))
    return _scheduler(kind[1] if kind else "slurm", name[1] if name else "")


def schedulers() -> Iterator[Scheduler]:
    """Yield all schedulers, each for a site without a name."""
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            yield _scheduler(module.name, "")


def _scheduler(kind: str, site_name: str) -> Scheduler:
    module = importlib.import_module(f"{__name__}.{kind}.scheduler")
    found: Scheduler = module.scheduler(site_name)
    return found
