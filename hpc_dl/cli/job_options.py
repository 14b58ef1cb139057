"""The options that every job key has, made from JobSpec itself: one list, one validation."""

from __future__ import annotations

import os
import shlex
import typing
from collections.abc import Callable
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from hpc_dl.errors import UserError
from hpc_dl.spec.job import JobSpec, pairs
from hpc_dl.spec.layers import Layer

_TABLES = ("slurm", "env")
_NUMBERS = ("lr_boundaries", "trace_steps")


def job_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each job key; the command gets them all as ``**settings``, None where not given.

    Environment variables ``HPC_DL_<KEY>`` stand in for options; the Makefile sets them from its variables.
    """
    hints = typing.get_type_hints(JobSpec, include_extras=True)
    for field in reversed(msgspec.structs.fields(JobSpec)):
        text = _description(hints[field.name])
        variable = f"HPC_DL_{field.name.upper()}"
        flag = f"--{field.name.replace('_', '-')}"
        option: dict[str, Any] = {"envvar": variable, "help": text, "default": None}
        if field.name in _TABLES:
            option.update(multiple=True, metavar="KEY=VALUE", envvar=None)
        elif isinstance(field.default, bool):
            flag += f"/--no-{field.name.replace('_', '-')}"
        function = click.option(flag, field.name, **option)(function)
    return function


def layers(settings: dict[str, Any]) -> list[Layer]:
    """Return the given options as layers that know where each came from.

    Raises:
        UserError: a value can't be taken apart.
    """
    context = click.get_current_context()
    found: list[Layer] = []
    for key, value in settings.items():
        origin = f"--{key.replace('_', '-')}"
        if context.get_parameter_source(key) == ParameterSource.ENVIRONMENT:
            if key == "start_from" and "HPC_DL_RUN" in os.environ and "HPC_DL_MAKE" not in os.environ:
                continue  # we are in a process of a job, and it is that job's
            origin = _variable(key)
        _check_text(value, origin)
        if key in _TABLES:
            if text := os.environ.get(f"HPC_DL_{key.upper()}"):
                found.append(Layer({key: pairs(_words(text, _variable(key)), _variable(key))}, _variable(key)))
            value = pairs(value, origin) or None
        elif key == "args" and value is not None:
            value = _words(value, origin)
        elif key in _NUMBERS and value is not None:
            value = [part for part in value.split(",") if part.strip()]
        if value is not None:
            found.append(Layer({key: value}, origin))
    return found


def _variable(key: str) -> str:
    """Return what to call the environment variable of a key: make users have set a make variable."""
    return f"make variable {key.upper()}" if "HPC_DL_MAKE" in os.environ else f"HPC_DL_{key.upper()}"


def _check_text(value: Any, origin: str) -> None:
    try:
        "".join(value if isinstance(value, tuple) else str(value)).encode()
    except UnicodeEncodeError:
        raise UserError(f"{origin} = {value!r}: is not UTF-8") from None


def _words(text: str, origin: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{origin} = {text!r}: {str(error).lower()}") from None


def _description(hint: Any) -> str:
    """Return the text of a `msgspec.Meta` in a type hint, also inside ``X | None``."""
    for part in (hint, *typing.get_args(hint)):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, msgspec.Meta) and meta.description:
                return meta.description
    return ""
