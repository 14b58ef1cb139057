"""Directives for what `facts` reads from the code, so that no page can be stale.

.. code-block:: rst

    .. generated:: job_keys
       :only: name mode
       :linked: job

    .. generated:: job_keys
       :rest:

    .. commands::

`only` chooses rows by name, in this order; `rest` shows the rows that no earlier directive of the page has shown.
`linked` makes each row a target of the role of that name: ``:job:`mode```.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from docs._ext import facts

ROLES = {
    "job": "job key",
    "site": "site key",
    "make": "make target",
    "cmd": "command",
    "template": "template",
    "mode": "mode",
}


class Generated(SphinxDirective):
    """A table from the code."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "only": directives.unchanged,
        "rest": directives.flag,
        "linked": directives.unchanged,
    }

    def run(self) -> list[nodes.Node]:
        """Return the table's nodes."""
        name = self.arguments[0]
        table: facts.Table = getattr(facts, name)()
        rows = dict(zip(table.names or map(str, range(len(table.rows))), table.rows, strict=True))
        shown: set[str] = self.env.temp_data.get(f"generated {name}") or set()  # by earlier directives of this page
        chosen = self.options["only"].split() if "only" in self.options else list(rows)
        if unknown := set(chosen) - rows.keys():
            raise self.error(f"{name} has no {', '.join(sorted(unknown))}")
        if "rest" in self.options:
            chosen = [key for key in chosen if key not in shown]
        self.env.temp_data[f"generated {name}"] = shown | set(chosen)
        if not chosen:
            return []
        lines = _list_table(table.header, {key: rows[key] for key in chosen}, self.options.get("linked"))
        return self.parse_text_to_nodes("\n".join(lines))


def _list_table(header: Sequence[str], rows: dict[str, Sequence[str]], role: str | None = None) -> list[str]:
    lines = [".. list-table::", "   :header-rows: 1", "   :class: generated", ""]
    for key, row in {"": header, **rows}.items():
        for number, cell in enumerate(row):
            start = "   * - " if number == 0 else "     - "
            if number == 0 and role and key:
                lines += [f"{start}.. {role}key:: {key}", ""]
                start = "       "
            lines.append(start + cell)
    return lines


class Commands(SphinxDirective):
    """A section for each command of `hpc-dl` that people call."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        lines: list[str] = []
        for command in facts.commands():
            lines += [f".. cmdkey:: {command.name}", "", command.name, "-" * len(command.name), ""]
            lines += [f"``{command.usage}``", "", *command.help.splitlines(), ""]
            if command.options.rows:
                lines += [*_list_table(command.options.header, _numbered(command.options.rows)), ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _numbered(rows: Sequence[Sequence[str]]) -> dict[str, Sequence[str]]:
    return {str(number): row for number, row in enumerate(rows, 1)}


def setup(app: Sphinx) -> ExtensionMetadata:
    """Add the directives, and a role for each kind of name that pages link to."""
    app.add_directive("generated", Generated)
    app.add_directive("commands", Commands)
    for role, what in ROLES.items():
        app.add_crossref_type(f"{role}key", role, objname=what)
    return {"parallel_read_safe": True}
