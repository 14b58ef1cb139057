"""The templates of a search path: their names, what each extends, and which blocks it has."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jinja2.meta
from jinja2 import nodes

from hpc_dl.errors import UserError
from hpc_dl.templates.rendering import OURS, Renderer, builds_on_itself
from hpc_dl.templates.values import values_of


class Template:
    """One file of the search path.

    Args:
        name: how templates refer to it.
        path: the file.
        tree: its syntax tree.
    """

    def __init__(self, name: str, path: Path, tree: nodes.Template) -> None:
        self.name, self.path, self.tree = name, path, tree

    def where(self, node: nodes.Node) -> str:
        """Return file and line of one of its nodes."""
        return f"template {self.path}, line {node.lineno}"

    @property
    def description(self) -> str:
        """Return the comment at its beginning."""
        found = re.match(r"{#-?\s*(.*?)\s*-?#}", self.path.read_text(), re.DOTALL)
        return " ".join(found[1].split()) if found else ""

    @property
    def extends(self) -> nodes.Extends | None:
        """Return its ``extends`` tag, if it has one."""
        return self.tree.find(nodes.Extends)

    @functools.cached_property
    def blocks(self) -> dict[str, nodes.Block]:
        """Return its own blocks, in order."""
        return {block.name: block for block in self.tree.find_all(nodes.Block)}

    @functools.cached_property
    def names(self) -> set[str]:
        """Return the variables that it sets itself: by set, for, macro and import."""
        stored = {name.name for name in self.tree.find_all(nodes.Name) if name.ctx != "load"}
        stored |= {macro.name for macro in self.tree.find_all(nodes.Macro)}
        stored |= {one.target for one in self.tree.find_all(nodes.Import)}
        for one in self.tree.find_all(nodes.FromImport):
            stored |= {name if isinstance(name, str) else name[1] for name in one.names}
        return stored

    def references(self) -> list[str | None]:
        """Return the names that it extends, includes or imports; None for a name that only rendering can tell."""
        return list(jinja2.meta.find_referenced_templates(self.tree))


class Library:
    """All templates of a search path.

    Args:
        folders: strongest first, without ours.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)
        self._renderer = Renderer(folders)
        self._ours = self._renderer.folders[-1]
        self._known: dict[str, Template] = {}

    @functools.cached_property
    def ours(self) -> list[str]:
        """Return the names of our templates that may be overridden."""
        names = (path.relative_to(self._ours).as_posix() for path in self._ours.rglob("*.j2"))
        return sorted(name for name in names if values_of(name))

    def has(self, name: str) -> bool:
        """Return whether there is a template of this name."""
        return self._renderer.has(name)

    def get(self, name: str) -> Template:
        """Return the template that a name means.

        Raises:
            UserError: there is none, or it is malformed.
        """
        if name not in self._known:
            self._known[name] = Template(name, *self._renderer.parse(name))
        return self._known[name]

    def read(self, name: str, path: Path) -> Template:
        """Return the template of a file, which a file in a stronger folder may hide.

        Raises:
            UserError: it is malformed.
        """
        return Template(name, *self._renderer.parse(name, path))

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of each file in the folders, but for hidden ones and copies that editors leave."""
        for top in self.folders:
            for place, folders, files in os.walk(top):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for file in sorted(files):
                    if not file.startswith(".") and not file.endswith("~"):
                        path = Path(place, file)
                        yield path.relative_to(top).as_posix(), path

    def ancestors(self, template: Template) -> list[Template] | None:
        """Return the templates that a template extends, the nearest first; None if only rendering can tell.

        Raises:
            UserError: one is missing or malformed, or extends itself.
        """
        found = [template]
        while tag := found[-1].extends:
            if not isinstance(tag.template, nodes.Const):
                return None
            parent = self.get(str(tag.template.value))
            if parent.path in [one.path for one in found]:
                raise UserError(builds_on_itself(template.name.removeprefix(OURS)))
            found.append(parent)
        return found[1:]

    def closure(self, names: Iterable[str]) -> dict[str, Path]:
        """Return name and file of all templates that the rendering of some templates may read.

        Where a name is computed, a template of ours must find it among `names`. An override may mean any other file.

        Raises:
            UserError: one is malformed.
        """
        found: dict[str, Path] = {}
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in found or not self.has(name):  # rendering says what is missing
                continue
            template = self.get(name)
            found[name] = template.path
            for reference in template.references():
                if reference is not None:
                    waiting.append(reference)
                elif not template.path.is_relative_to(self._ours):
                    waiting += [name for name, _ in self.files() if name.endswith(".j2")]
        return found
