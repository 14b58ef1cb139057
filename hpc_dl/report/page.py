"""A report as one HTML page, or as files: each figure as SVG, each table as CSV and JSON."""

from __future__ import annotations

import csv
import functools
import importlib.metadata
import io
import json
import re
import time
from pathlib import Path

import jinja2
import msgspec
from markupsafe import Markup

from hpc_dl.disk import write_whole
from hpc_dl.report.drawing import drawing, matrix_drawing
from hpc_dl.report.model import Cell, Figure, Matrix, Report, Table
from hpc_dl.shipped_files import share


@functools.cache
def _templates() -> jinja2.Environment:
    """Return the templates of reports. They escape what they print for HTML."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(share() / "templates" / "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(cell=cell_text, is_number=_is_number)
    return found


def cell_text(value: Cell) -> str:
    """Return a cell as people read it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def _is_number(table: Table, column: int) -> bool:
    """Return whether a column has numbers alone."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and not any(isinstance(cell, str) for cell in cells)


def _own(name: str) -> Markup:
    """Return a file of ours that stands in the page as it is."""
    return Markup((share() / "templates" / "report" / name).read_text())  # noqa: S704 - not from a user


def _plain_colours() -> Markup:
    """Return the style of figures in light colours, without variables: few programs but browsers know these."""
    text = _own("figure.css")
    values = dict(re.findall(r"(--\w+): (#\w+);", text[: text.index("}")]))
    font = re.search(r"font: .*;", text)
    rules = text[text.index("svg.figure text") :]
    plain = re.sub(r"var\((--\w+)\)", lambda found: values[found[1]], rules)
    return Markup(f"svg.figure {{ {font[0] if font else ''} }}\n{plain}")  # noqa: S704 - ours


def svg(figure: Figure | Matrix, alone: bool) -> str:
    """Return a figure as SVG.

    Args:
        figure: the figure.
        alone: it is a file of its own, with its colours.
    """
    style = _plain_colours() if alone else ""
    if isinstance(figure, Matrix):
        return _templates().get_template("matrix.svg.j2").render(d=matrix_drawing(figure), style=style)
    return _templates().get_template("figure.svg.j2").render(d=drawing(figure), style=style)


def html(report: Report) -> str:
    """Return a report as a page that needs no other file."""
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            report=report,
            figures=[Markup(svg(figure, alone=False)) for figure in report.figures],  # noqa: S704 - escaped by its template
            style=_own("figure.css") + _own("page.css"),
            script=_own("page.js"),
            version=importlib.metadata.version("hpc_dl"),
            made=time.strftime("%Y-%m-%d %H:%M"),
        )
    )


def write_files(report: Report, folder: Path) -> list[Path]:
    """Write the page, each figure as SVG, PNG and JSON, and each table as CSV and JSON; return the files.

    Without resvg-py there are no PNG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str | bytes] = {"report.html": html(report)}
    for figure in report.figures:
        files[f"{figure.name}.svg"] = drawn = svg(figure, alone=True)
        files[f"{figure.name}.json"] = msgspec.json.format(msgspec.json.encode(figure))
        if bitmap := png(drawn):
            files[f"{figure.name}.png"] = bitmap
    for table in report.tables:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        files[f"{table.name}.csv"] = _csv(table)
        files[f"{table.name}.json"] = json.dumps(rows, indent=1)
    for name, content in files.items():
        write_whole(folder / name, content)
    return [folder / name for name in files]


def png(text: str) -> bytes | None:
    """Return an SVG as PNG, twice as large; None without resvg-py."""
    try:
        import resvg_py
    except ImportError:
        return None
    return bytes(resvg_py.svg_to_bytes(svg_string=text, zoom=2))


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return text.getvalue()
