"""Rendering: templates to text. Every value that a template prints becomes one quoted shell word by itself."""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.bccache
import jinja2.nodes

from hpc_dl.errors import UserError
from hpc_dl.shipped_files import share
from hpc_dl.spec.site_files import site_layers
from hpc_dl.templates.values import TEMPLATE, Values

OURS = "hpc_dl/"
"""With this prefix, a name means a template of ours, even if the search path has an override."""


class Shell(str):
    """Text that is shell code already, such as a block or macro returns. It is printed as it stands."""

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
    """Return a value for the rest of a comment line: control characters and bytes that are not UTF-8 become ``?``."""
    return Shell(re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]", "?", str(value)))


def directive(value: object) -> Shell:
    """Return a value for an ``#SBATCH`` line, where Slurm takes a backslash even between single quotes."""
    return Shell(shlex.quote(str(value).replace("\\", "\\\\")))


class _Environment(jinja2.Environment):
    """Jinja2 that quotes for the shell where it would else escape for HTML."""

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join the parts of a template, block or macro."""
        return Shell("".join(parts))


class _Compiled(jinja2.BytecodeCache):
    """Templates that this process has compiled, for all renderers: to compile one takes longer than to render it."""

    def __init__(self) -> None:
        self._code: dict[tuple[str, str], Any] = {}

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        return f"{name} {filename}"  # Jinja's hash takes no path that is not UTF-8

    def load_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        bucket.code = self._code.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        self._code[bucket.key, bucket.checksum] = bucket.code


_compiled = _Compiled()


def template_folders(job_file: Path | None, site_file: Path, config: Path) -> list[Path]:
    """Return where templates are looked for, strongest first: job, user, site. `Renderer` adds ours at the end.

    Beside each of the files that make up a site, it may have templates.
    """
    below = (
        [Path(layer.file) for layer in reversed(site_layers(site_file)) if layer.file] if site_file.is_file() else []
    )
    files = dict.fromkeys([site_file, *below])
    folders = [config / "hpc_dl" / "templates", *(file.parent / file.stem / "templates" for file in files)]
    if job_file is not None:
        folders.insert(0, job_file.absolute().parent / "templates")
    ours = share() / "templates"  # it stands beside a job file at the top of a checkout
    return [folder for folder in folders if folder.is_dir() and not folder.samefile(ours)]


class Renderer:
    """Renders templates from a search path.

    Our own templates, too, find one another through the path. A template that extends ours of the same name uses the
    prefix: ``{% extends "hpc_dl/NAME" %}``.
    """

    def __init__(self, folders: Sequence[Path], ours: Path | None = None) -> None:
        ours = ours or share() / "templates"
        self.folders = [*folders, ours]
        own = jinja2.FileSystemLoader(str(ours))
        loaders = [
            jinja2.FileSystemLoader([str(f) for f in folders]),
            own,
            jinja2.PrefixLoader({OURS.rstrip("/"): own}),
        ]
        self._loader = jinja2.ChoiceLoader(loaders)
        self._environment = _Environment(
            loader=self._loader,
            undefined=jinja2.StrictUndefined,
            finalize=shell,
            bytecode_cache=_compiled,
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
        with self._errors_of(name):
            template = self._environment.get_template(name)
            known = values.mapping() if isinstance(values, Values) else values
            return template.render(known, **{TEMPLATE: template.filename})

    def parse(self, name: str, path: Path | None = None) -> tuple[Path, jinja2.nodes.Template]:
        """Return the file of template `name` and its syntax tree.

        Args:
            name: the template's name.
            path: its file, if it is another one than the search path has.

        Raises:
            UserError: the template is missing or malformed; names file and line.
        """
        with self._errors_of(name):
            text, file = (path.read_text("utf-8"), path) if path else self._source(name)
            return file, self._environment.parse(text, name, str(file))

    def has(self, name: str) -> bool:
        """Return whether the search path has a template of this name."""
        try:
            self._source(name)
        except (jinja2.TemplateNotFound, UnicodeDecodeError):
            return False
        return True

    def _source(self, name: str) -> tuple[str, Path]:
        text, file, _ = self._loader.get_source(self._environment, name)
        return text, Path(str(file))

    @contextlib.contextmanager
    def _errors_of(self, name: str) -> Iterator[None]:
        """Turn Jinja's errors into `UserError`."""
        try:
            yield
        except jinja2.TemplateNotFound as error:
            places = ", ".join(map(str, self.folders))
            raise UserError(f"template {error.name}: not found; looked in {places}") from None
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"template {error.filename or error.name}, line {error.lineno}: {error.message}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"template {name}: is not UTF-8: {error}") from None
        except RecursionError:
            raise UserError(builds_on_itself(name)) from None
        except Exception as error:
            # Whatever template code raises is the template's fault, such as an undefined variable or a TypeError.
            if not (place := _where(error)):
                raise
            raise UserError(f"template {place}: {error}") from error


def builds_on_itself(name: str) -> str:
    """Return the message on a template that extends or includes itself. It says how to extend ours."""
    ours = f'a template that builds on ours of its own name extends "{OURS}{name}"'
    return f"template {name}: extends or includes itself without end; {ours}"


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
