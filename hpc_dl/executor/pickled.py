"""A function and its arguments as a file, which a process of the job loads, and the file of what came out.

Functions are pickled by cloudpickle, as submitit does: lambdas, closures and what the main program defines go by value,
everything in modules by name.
"""

from __future__ import annotations

import json
import pickle
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hpc_dl.errors import UserError


class Call(NamedTuple):
    """A function with its arguments."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """Return the function's name for people."""
        return name_of(self.function)


def name_of(function: object) -> str:
    """Return the name of a function, of what a partial calls, or of the class of a callable object."""
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__qualname__", type(inner).__qualname__)).rpartition(".")[2]


def dumps(value: object, what: str) -> bytes:
    """Return a value as cloudpickle writes it.

    Raises:
        UserError: it can't be pickled; the message begins with `what`.
    """
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))
    except Exception as error:  # whatever a __reduce__ of the user's raises
        raise UserError(f"{what} can't be pickled: {type(error).__name__}: {error}") from error


def describe(call: Call) -> dict[str, Any]:
    """Return what the process that runs a call must know before it loads the pickle."""
    return {"name": call.name, "python": platform.python_version(), "path": own_path()}


def own_path() -> list[str]:
    """Return the folders from which this program imports, without those of its Python."""
    own = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    folders = [str(Path(folder).absolute()) for folder in sys.path]
    return [folder for folder in folders if not any(Path(folder).is_relative_to(prefix) for prefix in own)]


def load(submitted: Path, description: Mapping[str, Any]) -> Call:
    """Return the call in a file.

    Raises:
        UserError: another Python wrote it, this one lacks a module, or the file is damaged.
    """
    here, there = platform.python_version(), description["python"]
    what = f"the function {description['name']!r}"
    if here.split(".")[:2] != there.split(".")[:2]:
        raise UserError(
            f"{what} was submitted by Python {there}, and {sys.executable} of this node is Python {here}:"
            " pickled functions need the same one; see python in the site file"
        )
    return Call(*_loads(submitted, what))


def load_outcome(path: Path) -> tuple[str, Any]:
    """Return what a process has left: ``success`` and the result, or ``error`` and the traceback.

    Raises:
        UserError: this Python lacks a module, or the file is damaged.
    """
    outcome, value = _loads(path, f"the result in {path}")
    return outcome, value


def _loads(path: Path, what: str) -> Sequence[Any]:
    try:
        with path.open("rb") as file:
            return pickle.load(file)  # type: ignore[no-any-return]  # noqa: S301 - it is in the user's own run folder
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} needs the module {error.name!r}, which {sys.executable} does not have on"
            f" {platform.node()}: install it there, or give the module to cloudpickle.register_pickle_by_value"
        ) from error
    except OSError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {path} can't be unpickled: {type(error).__name__}: {error}") from error


def read_description(path: Path) -> dict[str, Any]:
    """Return what `describe` told."""
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found
