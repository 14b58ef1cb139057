"""Rendering: templates to text. Every value that a template prints becomes one quoted shell word by itself."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from hpc_dl.errors import UserError
from hpc_dl.shipped_files import share
from hpc_dl.templates.values import Values


class Shell(str):
    """Text that is shell code already: what blocks and macros return. It is printed as it stands."""

    __slots__ = ()


_word = functools.lru_cache(maxsize=1 << 17)(shlex.quote)


def shell(value: object) -> object:
    """Return a value as a quoted shell word; a list as several."""
    kind = type(value)
    if kind is str:
        return _word(value)
    if kind is Shell or kind is int or isinstance(value, jinja2.Undefined):
        return value
    if isinstance(value, Sequence):
        return Shell(" ".join([_word(str(item)) for item in value]))
    return _word(str(value))


def comment(value: object) -> Shell:
    """Return a value for the rest of a comment line: no line break gets through."""
    return Shell(re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", "?", str(value)))


def directive(value: object) -> Shell:
    """Return a value for an ``#SBATCH`` line, where Slurm takes a backslash even between single quotes."""
    return Shell(shlex.quote(str(value).replace("\\", "\\\\")))


class _Environment(jinja2.Environment):
    """Jinja2 that quotes for the shell where it would else escape for HTML."""

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join the parts of a template, block or macro."""
        return Shell("".join(parts))


def template_folders(job_file: Path | None, site_file: Path, config: Path) -> list[Path]:
    """Return where templates are looked for, strongest first: job, user, site. Ours come last by themselves."""
    folders = [config / "hpc_dl" / "templates", site_file.parent / site_file.stem / "templates"]
    if job_file is not None:
        folders.insert(0, job_file.absolute().parent / "templates")
    return [folder for folder in folders if folder.is_dir()]


class Renderer:
    """Renders templates from a search path.

    A template may ``{% extends "hpc_dl/NAME" %}`` to build on ours, whatever stands before it on the path.
    """

    def __init__(self, folders: Sequence[Path], ours: Path | None = None) -> None:
        ours = ours or share() / "templates"
        self.folders = [*folders, ours]
        own = jinja2.FileSystemLoader(str(ours))
        loaders = [jinja2.FileSystemLoader([str(f) for f in folders]), own, jinja2.PrefixLoader({"hpc_dl": own})]
        self._environment = _Environment(
            loader=jinja2.ChoiceLoader(loaders),
            undefined=jinja2.StrictUndefined,
            finalize=shell,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.filters.update(comment=comment, directive=directive, raw=Shell)

    def render(self, name: str, values: Values | Mapping[str, Any]) -> str:
        """Return template `name` filled with `values`; it also sees its own file's name as ``template``.

        Raises:
            UserError: the template is missing, malformed or prints something undefined; names file and line.
        """
        try:
            template = self._environment.get_template(name)
            known = values.mapping() if isinstance(values, Values) else values
            return template.render(known, template=template.filename)
        except jinja2.TemplateNotFound as error:
            places = ", ".join(map(str, self.folders))
            raise UserError(f"template {error.name}: not found; looked in {places}") from None
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"template {error.filename or error.name}, line {error.lineno}: {error.message}") from None
        except RecursionError:
            ours = f'; a template that builds on ours of its own name extends "hpc_dl/{name}"'
            raise UserError(f"template {name}: extends or includes itself without end{ours}") from None
        except Exception as error:
            # What template code raises is the template's fault, be it a StrictUndefined or a TypeError.
            if not (place := _where(error)):
                raise
            raise UserError(f"template {place}: {error}") from error


def _where(error: BaseException) -> str:
    """Return file and line of the template code that raised `error`, which Jinja writes into the traceback."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename.endswith(".j2"):
            place = f"{code.co_filename}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place
