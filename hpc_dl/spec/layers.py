"""Layers of settings (files, command line, keywords) become one checked object, or one clear error.

A value keeps its origin ("jobs/train.toml, line 3", "--nodes"), so that an error can point at the place to mend.
"""

from __future__ import annotations

import re
import reprlib
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.spec.options import NOT_SHOWN

_SHORT = reprlib.Repr()  # shows values in messages; tables may be deeper than `repr` can go
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 4, 200, 60, 200
_TABLES = 3  # how deep tables are merged key by key
_DEEPEST = 200  # dots in a line of TOML: the time to parse a dotted key grows with their square
T = TypeVar("T", bound=msgspec.Struct)

# The end of msgspec's messages: "- at `$.args[1]`", "- at `key` in `$.env`". The text before it may be the user's.
_KEY = re.compile(r" - at (?:`key` in )?`\$\.(\w+)[^`]*`$")


class BadValueError(UserError):
    """A value that is wrong although its type allows it; `build` adds where `key` was set."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Layer:
    """Some settings and where they come from.

    Args:
        values: key to value; a dict as value is a table that is merged key by key.
        origin: the source's name in messages; ``{key}`` in it is replaced by the key.
        lines: line numbers of keys, if the source is a file.
    """

    def __init__(self, values: Mapping[str, Any], origin: str, lines: Mapping[str, int] | None = None) -> None:
        self.values = values
        self._origin = origin
        self._lines = lines

    def without(self, keys: Collection[str]) -> Layer:
        """Return the layer without some keys."""
        return Layer({key: value for key, value in self.values.items() if key not in keys}, self._origin, self._lines)

    def inside(self, *tables: str) -> Layer:
        """Return the settings in a table in a table; none if it is not there."""
        values: Any = self.values
        for table in tables:
            values = values.get(table, {}) if isinstance(values, Mapping) else {}
        lines = None
        if self._lines is not None:
            name, prefix = ".".join(tables), ".".join(tables) + "."
            of_table = next((self._lines[part] for part in _parts(name) if part in self._lines), 0)
            of_keys = {key.removeprefix(prefix): line for key, line in self._lines.items() if key.startswith(prefix)}
            lines = {"": of_table, **of_keys}  # keys of an inline table have no line of their own
        return Layer(values if isinstance(values, Mapping) else {}, self._origin, lines)

    def where(self, key: str) -> str:
        """Return the place of `key`, or of ``key.part`` or ``key[0]``, in words."""
        place = self._origin.replace("{key}", _top(key))
        lines = self._lines or {}
        line = next((line for part in _parts(key) if (line := lines.get(part))), lines.get("", 0))
        return f"{place}, line {line}" if line else place

    @property
    def file(self) -> str:
        """Return the file's name; empty if the source is no file."""
        return self._origin if self._lines is not None else ""


def read_toml(path: Path) -> Layer:
    """Read a TOML file as a layer that knows its line numbers.

    Raises:
        UserError: the file can't be read or is no TOML; the message has the line and column.
    """
    # Here, since the training program reads no TOML: a container needs no tomli.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    if deep := next((number for number, line in enumerate(text.splitlines(), 1) if line.count(".") > _DEEPEST), 0):
        raise UserError(f"{path}, line {deep}: more than {_DEEPEST} dots in a line")  # keys that take minutes to read
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also for a number of 5,000 digits, or brackets as deep
        raise UserError(f"{path}: {error}") from None
    return Layer(values, str(path), _line_numbers(text))


def _top(key: str) -> str:
    """Return ``key`` of ``key.part`` and ``key[0]``."""
    return re.split(r"[.\[]", key, maxsplit=1)[0]


def _parts(key: str) -> Iterator[str]:
    """Yield ``a.b.c``, ``a.b`` and ``a`` of the key ``a.b.c``; for ``a[0]`` itself and ``a``."""
    while key:
        yield key
        key = re.sub(r"([.\[]|^)[^.\[]*\Z", "", key)


def _line_numbers(text: str) -> dict[str, int]:
    """Return the line of every ``key =`` and ``[table]``; keys of tables as ``table.key``, also of tables in tables."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.fullmatch(r"\s*\[([\w. \"'*?-]+)\]\s*(#.*)?", line):
            table = re.sub(r"[\"']", "", header[1]).strip()
            for part in _parts(table):  # [a.b] makes the table a too
                lines.setdefault(part, number)
        elif entry := re.match(r"\s*([\w-]+|\"[^\"]+\"|'[^']+')(\s*\.[^=]+)?\s*=", line):
            key = entry[1].strip("\"'")
            lines.setdefault(f"{table}.{key}" if table else key, number)
    return lines


class Merged(msgspec.Struct, frozen=True):
    """Layers merged key by key, and the layer from which each value comes."""

    values: dict[str, Any]
    origins: dict[str, Layer]
    """The keys of tables are here too, as ``table.key``."""

    def where(self, key: str) -> str:
        """Return the place of `key`, or of ``key.part`` or ``key[0]``, in words; empty if no layer has it."""
        layer = next((layer for part in _parts(key) if (layer := self.origins.get(part))), None)
        return layer.where(key) if layer else ""


def merge(layers: Sequence[Layer], names: Sequence[str], what: str) -> Merged:
    """Merge `layers`, of which the last wins, key by key, also inside tables.

    Raises:
        UserError: a key is not in `names`.
    """
    merged = Merged({}, {})
    for layer in layers:
        for key in layer.values:
            if key not in names:
                unknown = f"unknown {what} key {key!r}{near_match(key, names)}"
                raise UserError(f"{layer.where(key)}: {unknown}; known keys: {allowed(names)}")
        _lay(merged.values, layer.values, merged.origins, layer)
    return merged


def _lay(
    below: dict[str, Any], above: Mapping[str, Any], origins: dict[str, Layer], layer: Layer, table: str = ""
) -> None:
    for key, value in above.items():
        origins[f"{table}{key}"] = layer
        if isinstance(value, dict) and table.count(".") < _TABLES:
            old = below.get(key)
            below[key] = {**old} if isinstance(old, dict) else {}
            _lay(below[key], value, origins, layer, f"{table}{key}.")
        else:
            below[key] = value


def build(kind: type[T], layers: Sequence[Layer], what: str, check: Callable[[T], None] | None = None) -> T:
    """Merge `layers`, the last wins, and convert them to `kind`. Text such as ``"4"`` is taken for a number.

    Args:
        kind: a `msgspec.Struct`; its field types and `msgspec.Meta` say what is valid.
        layers: the sources, weakest first.
        what: "job" or "site", for messages.
        check: checks the whole object and raises `BadValueError` for what the types of single fields can't show.

    Raises:
        UserError: an unknown key or an invalid value, with its origin, what was found and what is allowed.
    """
    merged = merge(layers, kind.__struct_fields__, what)
    try:
        value = msgspec.convert(merged.values, kind, strict=False, dec_hook=lambda kind, value: kind(value))  # Path
        if check is not None:
            check(value)
        return value
    except BadValueError as error:
        place = merged.where(error.key)
        raise UserError(f"{place}: {error}" if place else str(error)) from None
    except msgspec.ValidationError as error:
        found_key = _KEY.search(str(error))
        key = found_key[1] if found_key else ""
        if key not in merged.origins:  # no value is wrong: one is missing
            file = next((layer.file for layer in layers if layer.file), what)
            raise UserError(f"{file}: {_plain(str(error))}") from None
        reason = _reason(kind, key, merged.values[key], str(error))
        found = key if key in NOT_SHOWN else f"{key} = {_SHORT.repr(merged.values[key])}"
        raise UserError(f"{merged.where(key)}: {found}: {reason}") from None


def _reason(kind: type[msgspec.Struct], key: str, value: object, message: str) -> str:
    """Return what is wrong with a value, in words, with the choices if there is a list of them."""
    hint = typing.get_type_hints(kind)[key]
    if choices := [c for c in typing.get_args(hint) if isinstance(c, str)]:
        return f"not a known {key}{near_match(str(value), choices)}; allowed: {allowed(choices)}"
    for field in msgspec.structs.fields(kind):
        for meta in typing.get_args(field.type)[1:]:
            if field.name == key and isinstance(meta, msgspec.Meta) and meta.pattern and meta.title:
                return f"expected {meta.title}" + ("" if isinstance(value, str) else "; as text, in quotes")
    return _plain(message)


def _plain(message: str) -> str:
    """Return a message of msgspec without its place and its backquotes."""
    text = _KEY.sub("", message).replace("`", "")
    return text[0].lower() + text[1:]


def check_lines(values: Mapping[str, Any]) -> None:
    """Check that every text in `values` can stand in one line of a script, also inside lists and tables.

    Raises:
        BadValueError: one has a control character, or bytes that are no UTF-8.
    """
    for key, value in values.items():
        if isinstance(value, str):
            if odd := re.search(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]", value):
                shown = "" if key.partition(".")[0] in NOT_SHOWN else f" = {value!r}"
                raise BadValueError(key, f"{key}{shown}: {odd[0]!r} can't stand in a line of a script")
        elif isinstance(value, Mapping):
            check_lines({f"{key}.{name}": item for name, item in value.items()})
        elif isinstance(value, (list, tuple)):
            check_lines({f"{key}[{number}]": item for number, item in enumerate(value)})


def is_file(path: Path) -> bool:
    """Return whether there is a file that we may see; False for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False
