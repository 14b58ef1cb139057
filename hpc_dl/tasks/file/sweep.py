"""Sweeps: a template and a table of values give a task file."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.spec.layers import read_toml
from hpc_dl.tasks.file.parser import scan
from hpc_dl.templates import Renderer

_MOST = 1_000_000  # combinations of a TOML file's lists


class TableRow(msgspec.Struct, frozen=True):
    """One row of a table: where it stands, for messages, and its values by column."""

    place: str
    values: Mapping[str, Any]


def expand_sweep(template: Path, table: Path) -> str:
    """Return a task file: the template once for each row of the table, with the row's values quoted for the shell.

    The template sees the columns by name, and ``number``, the row from 1. It may give several lines for a row; one
    depends on the other by ``[# -1 #]``.

    Raises:
        UserError: template or table can't be read, or the tasks are not valid; names the row that they come from.
    """
    if not template.is_file():
        raise UserError(f"template {template}: no such file")
    renderer = Renderer([template.absolute().parent])
    lines: list[str] = []
    places: list[str] = []
    for number, row in enumerate(read_table(table), 1):
        text = renderer.render(template.name, {**row.values, "number": number})
        new = [line for line in text.split("\n") if line.strip()]
        lines += new
        places += [row.place] * len(new)
    text = "".join(f"{line}\n" for line in lines)
    problems: dict[tuple[str, str], str] = {}  # a mistake in the template repeats in every row: report it once
    for problem in scan(text).problems:
        place = f"template {template} with {places[problem.line - 1]}"
        problems.setdefault((problem.reason, problem.text), problem.show(place))
    if problems:
        raise UserError("\n".join(problems.values()))
    return text


def read_table(path: Path) -> list[TableRow]:
    """Return the rows of a table: those of a CSV file, or every combination of a TOML file's lists.

    Raises:
        UserError: the file can't be read, is malformed, gives no row or has values that no task can hold.
    """
    if path.suffix == ".toml":
        rows = _read_toml(path)
    elif path.suffix == ".csv":
        rows = _read_csv(path)
    else:
        raise UserError(f"{path}: expected a table in .csv or .toml")
    if not rows:
        raise UserError(f"{path}: has no row of values")
    for name, meaning in (("number", "the row's own number"), ("template", "the template's own name")):
        if name in rows[0].values:
            raise UserError(f"{path}: {name!r} is {meaning}; choose another name")
    for row in rows:
        for key, value in row.values.items():
            if isinstance(value, str) and ("\n" in value or "\0" in value):
                raise UserError(f"{row.place}: {key} = {value!r}: a task is one line, without line breaks and NUL")
    return rows


def _read_toml(path: Path) -> list[TableRow]:
    lists = {key: value if isinstance(value, list) else [value] for key, value in read_toml(path).values.items()}
    if nested := [key for key, value in lists.items() if any(isinstance(item, (list, dict)) for item in value)]:
        raise UserError(f"{path}: {nested[0]}: expected a list of values")
    if (count := math.prod(map(len, lists.values()))) > _MOST:
        raise UserError(f"{path}: gives {count} combinations; allowed are {_MOST}")
    combinations = itertools.product(*lists.values()) if lists else ()
    return [
        TableRow(f"{path}, combination {number}", dict(zip(lists, values, strict=True)))
        for number, values in enumerate(combinations, 1)
    ]


def _read_csv(path: Path) -> list[TableRow]:
    try:
        text = path.read_bytes().decode("utf-8-sig")  # as spreadsheets write it
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows: list[TableRow] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if bad := [name for name in header if not name.isidentifier() or header.count(name) > 1]:
            raise UserError(f"{path}, line 1: {bad[0]!r}: expected different names of letters, digits and '_'")
        for values in reader:
            place = f"{path}, line {reader.line_num}"
            if len(values) != len(header) and values:
                raise UserError(f"{place}: {len(values)} values for {len(header)} columns: {', '.join(header)}")
            if values:
                rows.append(TableRow(place, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    return rows
