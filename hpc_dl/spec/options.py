"""Command-line options made from the fields of a struct: one list, one validation."""

from __future__ import annotations

import functools
import shlex
import types
import typing
from typing import TYPE_CHECKING, Any

import msgspec

from hpc_dl.errors import UserError

if TYPE_CHECKING:
    import click

NOT_SHOWN = ("env",)
"""Job and site keys whose values may be secrets."""


class Field(msgspec.Struct, frozen=True):
    """A field of a struct, as documentation and command line need it."""

    name: str
    description: str
    kind: Any
    """Its type, without ``Annotated`` and without None."""
    default: Any

    @property
    def flag(self) -> str:
        """Return ``--learning-rate``."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_table(self) -> bool:
        """Return whether it is a table of keys and values."""
        return typing.get_origin(self.kind) is dict

    def option(self, **more: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Return the arguments of `click.option` or `click.Option`; the value is None if it is not given."""
        flag = self.flag
        if self.kind is bool:
            flag += f"/--no-{self.name.replace('_', '-')}"
        elif self.is_table:
            more |= {"multiple": True, "metavar": "KEY=VALUE"}
        return (flag, self.name), {"help": self.description, "default": None, **more}

    def parse(self, value: Any, origin: str) -> Any:
        """Return a value from the command line, split if the field holds several values.

        Raises:
            UserError: it can't be split; the message has `origin`.
        """
        if self.is_table:
            return pairs(value, origin)
        if typing.get_origin(self.kind) is not tuple or not isinstance(value, str):
            return value
        if typing.get_args(self.kind)[0] is str:
            return words(value, origin)
        return [part for part in value.split(",") if part.strip()]


@functools.cache  # several commands of one command line have the same options
def fields(struct: type[msgspec.Struct]) -> tuple[Field, ...]:
    """Return the fields of a struct, its own before those of its base."""
    hints = typing.get_type_hints(struct, include_extras=True)
    inherited = set(getattr(struct.__base__, "__struct_fields__", ()))
    found = []
    for field in sorted(msgspec.structs.fields(struct), key=lambda field: field.name in inherited):
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        hint = hints[field.name]
        found.append(Field(field.name, _description(hint), _kind(hint), default))
    return tuple(found)


def _kind(hint: Any) -> Any:
    """Return a type without ``Annotated`` and without None."""
    if typing.get_origin(hint) is typing.Annotated:
        return _kind(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [part for part in typing.get_args(hint) if part is not type(None)]
        return _kind(found[0]) if len(found) == 1 else hint
    if typing.get_origin(hint) is tuple:
        return tuple[tuple(_kind(part) for part in typing.get_args(hint))]  # type: ignore[misc]
    return hint


def _description(hint: Any) -> str:
    """Return the text of a `msgspec.Meta` in a type hint, also inside ``X | None``."""
    for part in (hint, *typing.get_args(hint)):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, msgspec.Meta) and meta.description:
                return meta.description
    return ""


def command(struct: type[msgspec.Struct], name: str, text: str) -> click.Command:
    """Return a command whose options are the fields of a struct."""
    import click  # a third of the time in which this module is imported, also by processes of a job

    options = []
    for field in fields(struct):
        declarations, settings = field.option()
        if field.default is msgspec.NODEFAULT:
            settings = {"help": field.description, "required": True}
        elif field.default not in (None, "", ()):
            settings["help"] += f" (default: {field.default})"
        options.append(click.Option(declarations, **settings))
    return click.Command(name, params=list(options), help=text, context_settings={"max_content_width": 100})


def words(text: str, origin: str) -> list[str]:
    """Return the words of a text, quoted as in a shell.

    Raises:
        UserError: a quote has no end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        # The text is not repeated: a value of env may be a secret.
        raise UserError(f"{origin}: {str(error).lower()}; it is quoted as in a shell") from None


def pairs(texts: typing.Sequence[str], origin: str) -> dict[str, str]:
    """Return ``KEY=VALUE`` texts as a dict; ``KEY`` alone means ``KEY=true``.

    Raises:
        UserError: a text without a key.
    """
    table: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise UserError(f"{origin}: nothing stands before '=': expected KEY=VALUE")
        table[name] = value if equals else "true"
    return table
