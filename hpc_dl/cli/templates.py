"""`templates`: what a site can override, what it does override, and whether its templates are valid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hpc_dl.templates.library import Library
    from hpc_dl.templates.values import Value

_SITE = "site name or file; default: where this machine is"


@click.group(invoke_without_command=True)
@click.option("--site", default="", envvar="HPC_DL_SITE", help=_SITE)
@click.pass_context
def templates(context: click.Context, site: str) -> None:
    """List the templates with their blocks and variables, and which of them the site or the user overrides."""
    if context.invoked_subcommand is None:
        from hpc_dl.spec.site_files import config_home
        from hpc_dl.submission.choose_site import choose_site
        from hpc_dl.templates import template_folders
        from hpc_dl.templates.library import Library

        path = choose_site(site).path
        for line in _listing(Library(template_folders(None, path, config_home()))):
            click.echo(line)


def _listing(library: Library) -> Iterator[str]:
    from hpc_dl.templates.values import STRUCTS, Values, described, keys, values_of

    yield "Every template may use these variables:"
    yield from _variables(described(Values))
    for kind, struct in STRUCTS.items():
        yield f"keys of a {kind}: {', '.join(keys(struct))}"
    for name in library.ours:
        ours = library.get(f"hpc_dl/{name}")
        yield f"\n{name}: {ours.description}"
        if ours.extends:
            yield f"  extends {', '.join(parent.name for parent in library.ancestors(ours) or ())}"
        used = library.get(name)
        if used.path != ours.path:
            below = [parent.path for parent in library.ancestors(used) or ()]
            how = "builds on ours" if ours.path in below else "takes the place of ours"
            yield f"  {used.path} {how}: {ours.path}"
            yield f"  its blocks: {', '.join(used.blocks)}"
        if ours.blocks:
            yield f"  blocks: {', '.join(ours.blocks)}"
        values = values_of(name) or Values
        like, more = "", list(described(values))
        for other in library.ours[: library.ours.index(name)]:
            of_other = values_of(other) or Values
            rest = [value for value in described(values) if value not in list(described(of_other))]
            if issubclass(values, of_other) and len(rest) < len(more):
                like, more = other, rest
        yield f"  variables: {f'those of {like}' if like else ''}{', and' if like and more else ''}".rstrip()
        yield from _variables(value for value in more if value not in list(described(Values)))


def _variables(values: Iterable[Value]) -> Iterator[str]:
    for value in values:
        yield f"    {value.name:<14} {value.kind:<16} {value.description}"


@templates.command()
@click.argument("site", default="", envvar="HPC_DL_SITE")
def test(site: str) -> int:
    """Render the templates of SITE (default: where this machine is) in all modes; shellcheck reads the scripts."""
    from hpc_dl.check.templates import rendered, shellcheck
    from hpc_dl.errors import UserError
    from hpc_dl.spec.site_files import config_home
    from hpc_dl.submission.choose_site import choose_site
    from hpc_dl.templates import template_folders
    from hpc_dl.templates.library import Library
    from hpc_dl.templates.overrides import problems

    chosen, path, _ = choose_site(site)
    folders = template_folders(None, path, config_home())
    found = list(problems(Library(folders)))
    scripts: dict[str, str] = {}
    if not found:
        try:
            scripts = dict(rendered(chosen, folders))
        except UserError as error:
            found.append(str(error))
    if not found:
        found += map(str, shellcheck(scripts))
    for one in found:
        click.echo(one)
    if not found:
        where = f"; own templates: {', '.join(map(str, folders))}" if folders else "; it has no templates of its own"
        click.echo(f"Nothing is wrong with the {len(scripts)} scripts of site {chosen.name}{where}")
    return 1 if found else 0
