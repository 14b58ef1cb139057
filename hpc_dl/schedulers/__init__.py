"""Schedulers, which start jobs. Each is a folder with a module `scheduler`; a new folder adds a scheduler."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hpc_dl.runfolder.folder import RunFolder
    from hpc_dl.schedulers.protocol import Scheduler
    from hpc_dl.spec.site import Site


class Which(NamedTuple):
    """Which scheduler of its kind is meant: keys of a site."""

    name: str = ""
    clusters: str = ""
    slurm_conf: str = ""


def scheduler_of(site: Site) -> Scheduler:
    """Return the scheduler of a site."""
    return _scheduler(site.scheduler, which_of(site))


def which_of(site: Site) -> Which:
    """Return which scheduler a site means."""
    return Which(*(getattr(site, key) for key in Which._fields))


def scheduler_of_run(run: RunFolder) -> Scheduler:
    """Return the scheduler that has the job of a run folder; Slurm where the folder does not say."""
    try:
        text = run.site_file.read_text()
    except (OSError, UnicodeDecodeError):
        text = ""
    # We wrote the file, with a line for each key. A TOML parser would be slow for a list of many jobs.
    kind, *which = (re.search(rf'^{key} = "(.*)"$', text, re.MULTILINE) for key in ("scheduler", *Which._fields))
    return _scheduler(kind[1] if kind else "slurm", Which(*(found[1] if found else "" for found in which)))


def schedulers() -> Iterator[Scheduler]:
    """Yield all schedulers, each for a site without a name."""
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            yield _scheduler(module.name, Which())


def _scheduler(kind: str, which: Which) -> Scheduler:
    module = importlib.import_module(f"{__name__}.{kind}.scheduler")
    found: Scheduler = module.scheduler(which)
    return found
