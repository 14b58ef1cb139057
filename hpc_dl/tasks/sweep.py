"""Sweeps: a template and a table of values give a task file."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_dl.config import read_toml
from hpc_dl.errors import UserError
from hpc_dl.rendering import Renderer
from hpc_dl.tasks.parser import parse


def expand_sweep(template: Path, table: Path) -> str:
    """Return a task file: the template once for each row of the table, with the row's values quoted for the shell.

    The template sees the columns by name, and ``number``, the row from 1. It may give several lines for a row; one
    depends on the other by ``[# -1 #]``.

    Raises:
        UserError: template or table can't be read, or the tasks are not valid.
    """
    if not template.is_file():
        raise UserError(f"template {template}: no such file")
    renderer = Renderer([template.absolute().parent])
    lines: list[str] = []
    for number, row in enumerate(read_table(table), 1):
        if "number" in row:
            raise UserError(f"{table}: 'number' is the row's own number; choose another name")
        lines += [
            line for line in renderer.render(template.name, {**row, "number": number}).split("\n") if line.strip()
        ]
    text = "".join(f"{line}\n" for line in lines)
    parse(text, f"tasks from {template} and {table}")
    return text


def read_table(path: Path) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a table: those of a CSV file, or every combination of a TOML file's lists.

    Raises:
        UserError: the file can't be read, is malformed or gives no row.
    """
    if path.suffix == ".toml":
        lists = {key: value if isinstance(value, list) else [value] for key, value in read_toml(path).values.items()}
        if nested := [key for key, value in lists.items() if any(isinstance(item, (list, dict)) for item in value)]:
            raise UserError(f"{path}: {nested[0]}: expected a list of values")
        rows = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())] if lists else []
    elif path.suffix == ".csv":
        rows = _read_csv(path)
    else:
        raise UserError(f"{path}: expected a table in .csv or .toml")
    if not rows:
        raise UserError(f"{path}: has no row of values")
    return rows


def _read_csv(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # as spreadsheets write it
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if bad := [name for name in header if not name.isidentifier() or header.count(name) > 1]:
            raise UserError(f"{path}, line 1: {bad[0]!r}: expected different names of letters, digits and '_'")
        rows = []
        for values in reader:
            if len(values) != len(header) and values:
                columns = f"{len(header)} columns: {', '.join(header)}"
                raise UserError(f"{path}, line {reader.line_num}: {len(values)} values for {columns}")
            if values:
                rows.append(dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    return rows
