"""Can a job's processes be put into a container? Asked before submission, on the machine where the job is submitted."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan
from hpc_dl.schedulers import scheduler_of
from hpc_dl.spec.modes import MODES

_IMAGES = (".sif", ".sqsh", ".squashfs")
_OF_IMAGE = ("--container-image", "--environment", "--image")


def check_container_here(plan: Plan) -> None:
    """Check that the runtime and the image of a job's container are there, as far as this machine can tell.

    Raises:
        UserError: one is missing, or nothing here reads the srun options.
    """
    site = plan.site
    if site.container_srun:
        said = f"{plan.places.get('container_srun', '')}: container_srun = {list(site.container_srun)}"
        if scheduler_of(site).one_machine:
            raise UserError(f"{said}: jobs of site {site.name!r} start without srun; set container instead")
        if plan.job.ps_nodes:
            raise UserError(f"{said}: a job with ps_nodes can't start processes so; set container instead")
        if MODES[plan.job.mode].ranks and site.launcher != "srun":
            raise UserError(
                f"{said}: {site.launcher} starts the ranks of mode {plan.job.mode!r}; set container instead"
            )
    elif site.container:
        said = f"{plan.places.get('container', '')}: container = {list(site.container)}"
        # A module, or a line around them, may bring it.
        brought = site.modules or site.before_modules or site.after_modules
        if not brought and "/" not in site.container[0] and not shutil.which(site.container[0]):
            reason = f"{site.container[0]!r} is not on PATH; where only the nodes have it, write its full path"
            raise UserError(f"{said}: {reason}")
    else:
        return
    for image in (*_of_words(site.container), *_of_options(site.container_srun)):
        if not os.path.lexists(Path(plan.job.workdir, image)):
            raise UserError(f"{said}: no such image: {Path(plan.job.workdir, image)}")


def _of_words(words: tuple[str, ...]) -> Iterator[str]:
    """Yield the words of a command that are surely paths of images. A path after an option may be one of the nodes'."""
    for before, word in itertools.pairwise(words):
        path = word.startswith("./") or (word.startswith("/") and not before.startswith("-"))
        if not word.startswith("-") and ":" not in word and (path or word.endswith(_IMAGES)):
            yield word


def _of_options(options: tuple[str, ...]) -> Iterator[str]:
    """Yield the values of srun options that are surely paths of images."""
    for option in options:
        name, _, value = option.partition("=")
        path = value.startswith(("./", "/"))
        if name in _OF_IMAGE and ":" not in value and (path or value.endswith(_IMAGES)):
            yield value
