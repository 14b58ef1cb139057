"""Containers: how a process of a job is put into one. Site and job have the same keys; those of the job win.

Facts, launchers and supervision stay on the host. Each process is started by a command (``apptainer exec tf.sif``), or
by a step of its own whose srun options start it in a container (Pyxis: ``--container-image=tf.sqsh``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from string import Template
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from hpc_dl.errors import UserError, near_match
from hpc_dl.spec.layers import BadValueError, Layer, Merged

if TYPE_CHECKING:
    from hpc_dl.spec.job import JobSpec
    from hpc_dl.spec.site import Site

KEYS = ("container", "container_srun", "container_python")
_WITH_VARIABLES = (*KEYS, "python")
ENV = "/usr/bin/env"
"""Sets the variables of a process inside its container: whatever a runtime does with those of the host."""
T = TypeVar("T", bound=msgspec.Struct)


def check_container(settings: JobSpec | Site) -> None:
    """Check the keys of a container.

    Raises:
        BadValueError: they exclude each other.
    """
    words, options = settings.container or (), settings.container_srun or ()
    if words and options:
        raise BadValueError(
            "container_srun",
            f"container_srun = {list(options)}: container = {list(words)} starts processes in a container already;"
            " set one of the two",
        )
    if ENV in words:
        raise BadValueError("container", f"container = {list(words)}: {ENV} can't stand in it: hpc_dl adds it itself")
    if odd := next((option for option in options if not option.startswith("-")), None):
        raise BadValueError(
            "container_srun",
            f"container_srun = {list(options)}: {odd!r} is no option of srun; expected such as --container-image=…",
        )


def with_job(site: Site, job: JobSpec) -> Site:
    """Return the site with the job's own container.

    Raises:
        UserError: the job names a Python for its processes, which are in a container.
    """
    changes: dict[str, Any] = {key: value for key in KEYS if (value := getattr(job, key)) not in (None, "")}
    if changes.get("container"):
        changes.setdefault("container_srun", ())
    if changes.get("container_srun"):
        changes.setdefault("container", ())
    changed = msgspec.structs.replace(site, **changes)
    if job.python and changed.in_container:
        raise UserError(f"python = {job.python!r}: processes are in a container; container_python names their Python")
    return changed


def container_places(job: Sequence[Layer], site: Sequence[Layer]) -> dict[str, str]:
    """Return where each key of a container stands, in words, from the layers of a job and of its site."""
    found: dict[str, str] = {}
    for layer in (*site, *job):
        for key in KEYS:
            if key in layer.values:
                found[key] = layer.where(key)
    return found


def unexpanded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of a job in which variables have been replaced, so that `expanded` leaves them as they are."""

    def escaped(value: Any) -> Any:
        return value.replace("$", "$$") if isinstance(value, str) else [escaped(one) for one in value]

    return {key: escaped(value) if key in _WITH_VARIABLES else value for key, value in values.items()}


def expanded(settings: T, merged: Merged, environ: Mapping[str, str] | None = None) -> T:
    """Return settings with ``$NAME`` in the keys of containers replaced by the variable's value.

    Args:
        settings: a job.
        merged: the layers from which it was made: they tell where a key stands.
        environ: the variables; None: those of this process.

    Raises:
        UserError: a variable is not set.
    """
    environ = os.environ if environ is None else environ

    def replaced(key: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(replaced(key, one) for one in value)
        try:
            return value and Template(value).substitute(environ)
        except KeyError as error:
            reason = f"${error.args[0]} is not set where you submit{near_match(error.args[0], environ)}"
        except ValueError:
            reason = "a $ without a name"
        raise UserError(f"{merged.where(key)}: {key} = {value!r}: {reason}; $$ stands for a $") from None

    return msgspec.structs.replace(settings, **{key: replaced(key, getattr(settings, key)) for key in _WITH_VARIABLES})
