"""The options that every job key has, made from JobSpec itself: one list, one validation."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource

from hpc_dl.errors import UserError
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.options import NOT_SHOWN, fields, pairs, words


def job_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each job key; the command gets them all as ``**settings``, None where not given.

    An environment variable ``HPC_DL_<KEY>`` has the effect of its option. The Makefile sets these from its variables.
    """
    for field in reversed(fields(JobSpec)):
        variable = None if field.is_table else f"HPC_DL_{field.name.upper()}"
        declarations, settings = field.option(envvar=variable)
        function = click.option(*declarations, **settings)(function)
    return function


def layers(settings: dict[str, Any]) -> list[Layer]:
    """Return the given options as layers that know where each came from.

    Raises:
        UserError: a value can't be parsed.
    """
    context = click.get_current_context()
    found: list[Layer] = []
    for field in fields(JobSpec):
        if field.name not in settings:
            continue
        key, value, origin = field.name, settings[field.name], field.flag
        if context.get_parameter_source(key) == ParameterSource.ENVIRONMENT:
            if key == "start_from" and "HPC_DL_RUN" in os.environ and "HPC_DL_MAKE" not in os.environ:
                continue  # it belongs to the job whose process we are in
            origin = _variable(key)
        _check_text(value, origin, key)
        if field.is_table and (text := os.environ.get(f"HPC_DL_{key.upper()}")):
            found.append(Layer({key: pairs(words(text, _variable(key)), _variable(key))}, _variable(key)))
        if value not in (None, ()):
            found.append(Layer({key: field.parse(value, origin)}, origin))
    return found


def _variable(key: str) -> str:
    """Return the name of a key's variable in messages. Users of make have set a make variable."""
    return f"make variable {key.upper()}" if "HPC_DL_MAKE" in os.environ else f"HPC_DL_{key.upper()}"


def _check_text(value: Any, origin: str, key: str) -> None:
    try:
        "".join(value if isinstance(value, tuple) else str(value)).encode()
    except UnicodeEncodeError:
        shown = "" if key in NOT_SHOWN else f" = {value!r}"
        raise UserError(f"{origin}{shown}: is not UTF-8") from None
