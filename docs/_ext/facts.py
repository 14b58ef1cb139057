"""What the reference pages say, read from the code: pure functions that return tables. Cells are reStructuredText."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
import msgspec

from hpc_dl.cli.main import commands as hpc_dl_commands
from hpc_dl.data import DATASETS
from hpc_dl.models import MODELS
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.options import fields
from hpc_dl.spec.site import Site
from hpc_dl.templates.library import Library
from hpc_dl.templates.values import Value, Values, described, values_of

ROOT = Path(__file__).resolve().parents[2]


class Table(NamedTuple):
    """A table; `names` has what other pages may link to, a name per row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: Sequence[str] = ()


def struct_keys(kind: type[msgspec.Struct]) -> Table:
    """Return a row for each field of a struct whose fields are described by `msgspec.Meta`."""
    hints = typing.get_type_hints(kind, include_extras=True)
    rows, names = [], []
    for field in fields(kind):
        meaning, _, otherwise = field.description.partition("; default: ")
        default = _default(field.default) or _rst(otherwise)
        rows.append((f"``{field.name}``", _kind(hints[field.name]), default, _rst(meaning)))
        names.append(field.name)
    return Table(("Key", "Value", "Default", "Meaning"), rows, names)


def job_keys() -> Table:
    """Return the keys of a job file."""
    return struct_keys(JobSpec)


def site_keys() -> Table:
    """Return the keys of a site file."""
    return struct_keys(Site)


def make_targets() -> Table:
    """Return the targets of the Makefile that `make help` lists, in its order in the file."""
    found = re.findall(r"^([a-z-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    rows = []
    for name, text in found:
        meaning, _, example = text.partition(": make ")
        rows.append((f"``make {name}``", _rst(meaning) + (f". Example: ``make {example}``" if example else "")))
    return Table(("Target", "What it does"), rows, [name for name, _ in found])


def make_variables() -> list[str]:
    """Return the Makefile's variables that become settings of `hpc-dl`."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    lines = re.findall(r"^SETTINGS\s*[:+]?=(.*)$", text, re.MULTILINE)
    return sorted({word for line in lines for word in line.split()})


class Command(NamedTuple):
    """A command of `hpc-dl`."""

    name: str
    """With those that it belongs to: ``hpc-dl tasks run``."""
    usage: str
    help: str
    options: Table
    flags: frozenset[str]
    """All of its options, job keys too: ``--nodes``."""


def commands() -> list[Command]:
    """Return the commands that people call, groups left out."""
    return [_command(context) for context in _contexts(click.Context(hpc_dl_commands, info_name="hpc-dl"))]


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """Yield a context for each command that people call."""
    if not isinstance(group := context.command, click.Group) or group.invoke_without_command:
        yield context
    if not isinstance(group, click.Group):
        return
    for name in group.list_commands(context):
        if (command := group.get_command(context, name)) and not command.hidden:
            yield from _contexts(click.Context(command, context, info_name=name))


def _command(context: click.Context) -> Command:
    command = context.command
    options = [option for option in command.params if isinstance(option, click.Option)]
    keys = {field.name for field in msgspec.structs.fields(JobSpec)}
    of_jobs = keys <= {option.name for option in options}
    rows = [_option(option, context) for option in options if not (of_jobs and option.name in keys)]
    if of_jobs:
        rows.append(("``--KEY VALUE``", "each :doc:`job key <job-keys>`, such as ``--nodes 4``"))
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    flags = frozenset(flag for option in options for flag in (*option.opts, *option.secondary_opts))
    text = _rst(inspect.cleandoc(command.help or ""))
    return Command(context.command_path, usage, text, Table(("Option", "Meaning"), rows), flags)


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    record = option.get_help_record(context)
    flags, text = record or ("", "")
    return ", ".join(f"``{part.strip()}``" for part in flags.split(", ")), _rst(text)


def make_options() -> Table:
    """Return the variables of make that are no job keys, and what they stand for."""
    keys = {field.name.upper() for field in msgspec.structs.fields(JobSpec)}
    wanted = [name for name in make_variables() if name not in keys]
    meanings = {"JOB": "the job; see above"}
    users: dict[str, list[str]] = {name: [] for name in wanted}
    for context in _contexts(click.Context(hpc_dl_commands, info_name="hpc-dl")):
        for option in context.command.params:
            name = str(option.envvar).removeprefix("HPC_DL_")
            if name in users:
                short = context.command_path.removeprefix("hpc-dl ")
                users[name].append(f":cmd:`{short} <{context.command_path}>`")
                if isinstance(option, click.Option):
                    meanings.setdefault(name, option.help or "")
    rows = [(f"``{name}``", _rst(meanings.get(name, "")), ", ".join(users[name])) for name in wanted]
    return Table(("Variable", "Meaning", "Commands"), rows, wanted)


def templates() -> Table:
    """Return the templates that a site may override, with their blocks."""
    library = Library([])
    rows = []
    for name in library.ours:
        template = library.get(name)
        base = "".join(f":template:`{parent.name}`" for parent in (library.ancestors(template) or ())[:1])
        blocks = ", ".join(f"``{block}``" for block in template.blocks)
        rows.append((f"``{name}``", _rst(template.description), base, blocks))
    return Table(("Template", "What it is", "Extends", "Blocks of its own"), rows, library.ours)


def template_variables() -> Table:
    """Return the variables that templates may use."""
    found: dict[Value, list[str]] = {}
    for name in Library([]).ours:
        for value in described(values_of(name) or Values):
            found.setdefault(value, []).append(name)
    everywhere = list(described(Values))
    rows = []
    for value, names in found.items():
        where = "all" if value in everywhere else ", ".join(f":template:`{name}`" for name in names)
        rows.append((f"``{value.name}``", value.kind, _rst(value.description), where))
    return Table(("Variable", "Kind", "Meaning", "Templates"), rows)


_WORKER_PER = {"gpu": "one per GPU", "node": "one per node", "job": "one"}


def modes() -> Table:
    """Return the modes."""
    rows = [
        (f"``{name}``", mode.summary, _WORKER_PER[mode.worker_per], str(mode.learning_rate))
        for name, mode in MODES.items()
    ]
    return Table(("Mode", "How", "Workers", "Learning rate"), rows, list(MODES))


def mode_keys() -> Table:
    """Return the job keys that not every mode uses, by mode."""
    rows = [(f"``{name}``", ", ".join(f":job:`{key}`" for key in mode.keys)) for name, mode in MODES.items()]
    return Table(("Mode", "Keys"), rows, list(MODES))


def modes_after_death() -> Table:
    """Return what each mode does when a worker dies."""
    rows = []
    for name, mode in MODES.items():
        one = "it is started again alone" if mode.restarts_alone else "all processes start again"
        often = "the others go on without it" if mode.goes_on_without else "all processes start again"
        rows.append((f"``{name}``", one, often if mode.restarts_alone else ""))
    head = ("Mode", "A worker dies", "It has died more than ``restarts`` times")
    return Table(head, rows, list(MODES))


def networks() -> Table:
    """Return the built-in networks."""
    rows = [(f"``{name}``", model.description, f"{model.parameters:,}") for name, model in MODELS.items()]
    return Table(("``model``", "Network", "Parameters"), rows)


def data_sets() -> Table:
    """Return the built-in data sets."""
    rows = [
        (f"``{name}``", data.description, f"{data.train_images:,}", f"{data.test_images:,}")
        for name, data in DATASETS.items()
    ]
    return Table(("``data``", "Images", "Training", "Test"), rows)


def _rst(text: str) -> str:
    """Return the text of a docstring or comment, with `code` in backquotes, as reStructuredText."""
    parts = re.split(r"`([^`]+)`", text)
    return "".join(f"``{part}``" if number % 2 else _escape(part) for number, part in enumerate(parts))


def _escape(text: str) -> str:
    return re.sub(r"([*`|\\_])", r"\\\1", text)


def _metas(hint: Any) -> Iterator[msgspec.Meta]:
    """Yield the `msgspec.Meta` of a type hint, also inside ``X | None``."""
    yield from (meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta))
    for part in typing.get_args(hint):
        if not isinstance(part, msgspec.Meta):
            yield from _metas(part)


def _default(value: object) -> str:
    if value is msgspec.NODEFAULT:
        return "required"
    if value is None or value in ("", (), {}):
        return ""
    return f"``[{', '.join(map(_toml, value))}]``" if isinstance(value, tuple) else f"``{_toml(value)}``"


def _toml(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kind(hint: Any) -> str:
    """Return in words what a value may be."""
    limits: dict[str, Any] = {}
    while typing.get_origin(hint) is typing.Annotated:
        for meta in _metas(hint):
            for name in ("ge", "gt", "le", "lt", "title"):
                if (limit := getattr(meta, name)) is not None:
                    limits.setdefault(name, limit)
        hint = typing.get_args(hint)[0]
    origin, parts = typing.get_origin(hint), [part for part in typing.get_args(hint) if part is not types.NoneType]
    if origin is Literal:
        return (" or " if len(parts) < 3 else ", ").join(f"``{part}``" if part else "empty" for part in parts)
    if origin in (typing.Union, types.UnionType):
        return _kind(parts[0]) if len(parts) == 1 else "text, number or true/false"
    if origin in (tuple, list):
        return f"list: {_kind(parts[0])}" if parts[-1] is Ellipsis else f"{len(parts)} values: {_kind(parts[0])}"
    if origin is dict:
        return f"table of {_kind(parts[1])}"
    if hint is Any:
        return "keys"
    if hint is str:
        return str(limits.get("title", "text"))
    if hint is bool:
        return "true or false"
    return ("integer" if hint is int else "number") + _range(limits)


def _range(limits: dict[str, Any]) -> str:
    low = f" from {limits['ge']}" if "ge" in limits else f" above {limits['gt']}" if "gt" in limits else ""
    high = f" to {limits['le']}" if limits.get("le", 1e300) < 1e300 else ""
    below = f", below {_power(limits['lt'])}" if "lt" in limits else ""
    return low + high + below


def _power(number: float) -> str:
    return "2³¹" if number == 2**31 else str(number)
