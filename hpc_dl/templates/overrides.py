"""Overrides: finds what is wrong with the templates of a job, a user or a site, before one of them is rendered.

Jinja does not report a block that no parent has, text outside of the blocks, or a file that nothing uses.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import jinja2
import jinja2.meta
from jinja2 import nodes

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.templates.library import Library, Template
from hpc_dl.templates.rendering import OURS
from hpc_dl.templates.values import TEMPLATE, VALUES, fields, keys, values_of


def check_overrides(folders: Sequence[Path]) -> None:
    """Check all templates of the folders, once for each state of their files.

    Raises:
        UserError: the first thing that is wrong, with file and line.
    """
    if folders:
        stats = [(path, path.stat()) for _, path in Library(folders).files() if path.exists()]
        _check(tuple(folders), tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats))


@functools.lru_cache
def _check(folders: tuple[Path, ...], _state: tuple[tuple[Path, int, int], ...]) -> None:
    for problem in problems(Library(folders)):
        raise UserError(problem)


def problems(library: Library) -> Iterator[str]:
    """Yield what is wrong with the templates in the folders of a library."""
    try:
        used = _used(library)
    except UserError as error:
        yield str(error)
        return
    for name, path in library.files():
        if name in used:
            try:
                yield from _problems_of(library, library.read(name, path))
            except UserError as error:
                yield str(error)
        elif name.endswith(".j2"):
            yield f"template {path}: nothing uses it{near_match(name, library.ours)}; known: {allowed(library.ours)}"
        else:
            meant = {f"{name}.j2", str(PurePosixPath(name).with_suffix(".j2"))} & set(library.ours)
            for other in meant:
                yield f"template {path}: nothing uses it (did you mean {other!r}?)"


def _used(library: Library) -> set[str]:
    """Return the names of templates that rendering may read. Hidden files count as read."""
    waiting, used = list(library.ours), set()
    files: dict[str, list[Path]] = {}
    for name, path in library.files():
        files.setdefault(name, []).append(path)
    while waiting:
        name = waiting.pop().removeprefix(OURS)
        if name in used:
            continue
        used.add(name)
        for path in files.get(name, ()):
            found = library.read(name, path).references()
            waiting += [one for one in found if one is not None]
            if None in found:
                waiting += [other for other in files if other.endswith(".j2")]
    return used


def _problems_of(library: Library, template: Template) -> Iterator[str]:
    for node in template.tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
        yield from _missing(library, template, node)
    parents = library.ancestors(template)
    if parents is not None:  # else only rendering can tell
        yield from _unknown_blocks(template, parents)
        yield from _unknown_variables(template, parents)


def _missing(library: Library, template: Template, node: nodes.Node) -> Iterator[str]:
    name = getattr(node, "template", None)
    word = name.value if isinstance(name, nodes.Const) and not getattr(node, "ignore_missing", False) else None
    if isinstance(word, str) and not library.has(word):
        yield f"{template.where(node)}: template {word!r} is not found{near_match(word, library.ours)}"


def _unknown_blocks(template: Template, parents: Sequence[Template]) -> Iterator[str]:
    """Yield the outermost blocks that no parent has, and text outside of the blocks, which is never printed."""
    if not parents:
        return
    known = {name for parent in parents for name in parent.blocks}
    inside = {block.name for outer in template.blocks.values() for block in outer.find_all(nodes.Block)}
    for name, block in template.blocks.items():
        if name not in known and name not in inside:
            what = f"block {name!r} is in no template that this one extends{near_match(name, known)}"
            yield f"{template.where(block)}: {what}; known: {allowed(sorted(known))}"
    for node in template.tree.body:
        for part in node.nodes if isinstance(node, nodes.Output) else ():
            text = part.data if isinstance(part, nodes.TemplateData) else "{{"
            if printed := text.lstrip():
                line = part.lineno + text.removesuffix(printed).count("\n")
                what = "text outside of the blocks is never printed: put it into a block"
                yield f"template {template.path}, line {line}: {what}"


def _unknown_variables(template: Template, parents: Sequence[Template]) -> Iterator[str]:
    values = values_of(template.name)
    types = fields(values) if values else {name: kind for one in VALUES.values() for name, kind in fields(one).items()}
    set_here = template.names.union(*(parent.names for parent in parents))
    asked = [test.node for test in template.tree.find_all(nodes.Test) if test.name in ("defined", "undefined")]
    known = {*types, *set_here, TEMPLATE, *(node.name for node in asked if isinstance(node, nodes.Name))}
    try:
        unknown = jinja2.meta.find_undeclared_variables(template.tree) - known
    except jinja2.TemplateSyntaxError as error:  # a filter or test that Jinja does not have
        yield f"template {template.path}, line {error.lineno}: {error.message}"
        return
    for name in template.tree.find_all(nodes.Name):
        if name.name in unknown:
            unknown.remove(name.name)
            what = f"unknown variable {name.name!r}{near_match(name.name, known)}"
            yield f"{template.where(name)}: {what}; known: {allowed(sorted(known))}"
    for part in template.tree.find_all(nodes.Getattr):
        of = part.node.name if isinstance(part.node, nodes.Name) else ""
        kind = types.get(of)
        if kind is None or of in template.names or part in asked or hasattr(kind, part.attr):
            continue
        yield f"{template.where(part)}: {of!r} has no key {part.attr!r}{near_match(part.attr, keys(kind))}"
