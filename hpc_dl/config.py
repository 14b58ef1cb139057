"""Layers of settings (files, command line, keywords) become one checked object, or one clear error.

A value keeps its origin ("jobs/train.toml, line 3", "--nodes"), so that an error can point at the place to mend.
"""

from __future__ import annotations

import re
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hpc_dl.errors import UserError, allowed, near_match

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T", bound=msgspec.Struct)

_KEY = re.compile(r"\$(?:\.|\[\.\.\.\])(\w+)")


class Layer:
    """Some settings and where they come from.

    Args:
        values: key to value; a dict as value is a table that is merged key by key.
        origin: what a message calls the source; ``{key}`` in it is replaced by the key.
        lines: line numbers of keys, where the source is a file.
    """

    def __init__(self, values: Mapping[str, Any], origin: str, lines: Mapping[str, int] | None = None) -> None:
        self.values = values
        self._origin = origin
        self._lines = lines or {}

    def where(self, key: str) -> str:
        """Return the place of `key` in words."""
        place = self._origin.replace("{key}", key.replace("_", "-"))
        return f"{place}, line {self._lines[key]}" if key in self._lines else place


def read_toml(path: Path) -> Layer:
    """Read a TOML file as a layer that knows its line numbers.

    Raises:
        UserError: the file can't be read or is no TOML; the message has the line and column.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from None
    return Layer(values, str(path), _line_numbers(text))


def _line_numbers(text: str) -> dict[str, int]:
    """Return the line of every ``key =`` and ``[table]``; keys of tables as ``table.key``."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w-]+)\s*\]", line):
            table = header[1]
            lines.setdefault(table, number)
        elif entry := re.match(r"\s*([\w-]+|\"[^\"]+\")\s*=", line):
            key = entry[1].strip('"')
            lines.setdefault(f"{table}.{key}" if table else key, number)
    return lines


def build(kind: type[T], layers: Sequence[Layer], what: str) -> T:
    """Merge `layers`, the last wins, and convert them to `kind`. Text such as ``"4"`` is taken for a number.

    Args:
        kind: a `msgspec.Struct`; its field types and `msgspec.Meta` say what is valid.
        layers: the sources, weakest first.
        what: "job" or "site", for messages.

    Raises:
        UserError: an unknown key or an invalid value, with its origin, what was found and what is allowed.
    """
    names = [field.name for field in msgspec.structs.fields(kind)]
    merged: dict[str, Any] = {}
    origins: dict[str, Layer] = {}
    for layer in layers:
        for key, value in layer.values.items():
            if key not in names:
                raise UserError(
                    f"{layer.where(key)}: unknown {what} key {key!r}{near_match(key, names)}; known keys: {allowed(names)}"
                )
            old = merged.get(key)
            merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
            origins[key] = layer
    try:
        return msgspec.convert(merged, kind, strict=False)
    except msgspec.ValidationError as error:
        found = _KEY.search(str(error))
        key = found[1] if found else ""
        if key not in origins:
            raise UserError(f"{what}: {error}") from None
        reason = _reason(kind, key, merged[key], str(error))
        raise UserError(f"{origins[key].where(key)}: {key} = {merged[key]!r}: {reason}") from None


def _reason(kind: type[msgspec.Struct], key: str, value: object, message: str) -> str:
    """Return what is wrong with a value, in words; names the choices where there is a list of them."""
    hint = typing.get_type_hints(kind)[key]
    if choices := [c for c in typing.get_args(hint) if isinstance(c, str)]:
        return f"not a known {key}{near_match(str(value), choices)}; allowed: {allowed(choices)}"
    for field in msgspec.structs.fields(kind):
        for meta in typing.get_args(field.type)[1:]:
            if field.name == key and isinstance(meta, msgspec.Meta) and meta.pattern and meta.title:
                return f"expected {meta.title}"
    text = message.split(" - at ")[0].replace("`", "")
    return text[0].lower() + text[1:]
