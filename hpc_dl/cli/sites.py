"""`sites`: the clusters that are known, and a first site file for this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpc_dl.spec.site import Site


@click.command()
@click.option("--describe", is_flag=True, help="print a site file for the cluster that answers here")
def sites(describe: bool) -> int:
    """List the sites, and which one is chosen here."""
    from hpc_dl.errors import UserError
    from hpc_dl.spec.site_files import load_site, site_files
    from hpc_dl.submission.choose_site import choose_site

    if describe:
        click.echo("\n".join(_file(_described())))
        return 0
    chosen = choose_site().site
    for name, path in site_files().items():
        mark = "*" if name == chosen.name else " "
        try:
            text = load_site(path).description
        except UserError as error:  # it must not hide the others
            text = f"not valid: {error}"
        click.echo(f"{mark} {name:<14} {text}  ({path})")
    if chosen.name not in site_files():
        click.echo(f"* {chosen.name:<14} {chosen.description}; hpc-dl sites --describe prints its file")
    return 0


def _described() -> Site:
    from hpc_dl.errors import UserError
    from hpc_dl.schedulers import schedulers

    for scheduler in schedulers():
        if cluster := scheduler.cluster_name():
            return scheduler.describe(cluster, "")
    raise UserError(
        "no Slurm answers here: there is no sbatch on PATH that has a configuration, and no private cluster runs"
    )


def _file(site: Site) -> Iterator[str]:
    """Yield the lines of a site file: each key after its description. A key with its default value is commented out."""
    from hpc_dl.spec.options import fields
    from hpc_dl.spec.site import Site

    for field in list(fields(Site))[1:]:  # the first is the name, which comes from the file's name
        value = getattr(site, field.name)
        unset = "# " if value in (field.default, None, {}) else ""
        yield f"# {field.description}\n{unset}{field.name} = {'…' if value is None else _toml(value)}"


def _toml(value: object) -> str:
    import tomli_w

    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return "{}" if value == {} else tomli_w.dumps({"x": value}).removeprefix("x = ").strip()
