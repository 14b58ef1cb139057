"""`sites`: the clusters that are known, one of them in full, and a first site file for this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hpc_dl.schedulers.cluster import Description
    from hpc_dl.spec.layers import Layer, Merged
    from hpc_dl.spec.site import Site

_PARTITION = click.option(
    "--partition", default="", envvar="HPC_DL_PARTITION", help="the partition of the jobs; default: the site's"
)


@click.group(invoke_without_command=True)
@click.option("--describe", is_flag=True, help="print a site file for the cluster that answers here")
@click.option("--on-node", is_flag=True, envvar="HPC_DL_ON_NODE", help="look at a node too, in a job of a minute")
@_PARTITION
@click.pass_context
def sites(context: click.Context, describe: bool, on_node: bool, partition: str) -> None:
    """List the sites with the GPUs of their nodes, and mark the one that is chosen here."""
    if context.invoked_subcommand is not None:
        return
    lines = _file(_described(partition, on_node)) if describe else _listing()
    click.echo("\n".join(lines))


@sites.command()
@click.argument("site", default="", envvar="HPC_DL_SITE")
@_PARTITION
@click.option("--all", "defaults", is_flag=True, help="show the keys that have their default value too")
def show(site: str, partition: str, defaults: bool) -> None:
    """Print the keys of SITE (default: the one that is chosen here) with the file and line of each value."""
    from hpc_dl.spec.layers import Layer
    from hpc_dl.spec.site_files import layers_in_partition, site_file
    from hpc_dl.submission.choose_site import choose_site

    if site:
        layers = layers_in_partition(site_file(site), partition)
    elif (chosen := choose_site("", partition)).path.exists():
        layers = layers_in_partition(chosen.path, partition)
    else:
        layers = [Layer(_set(chosen.site), "said by the scheduler")]
    click.echo("\n".join(_shown(layers, partition, defaults)))


def _set(site: Site) -> dict[str, object]:
    """Return the keys whose values are no defaults."""
    from hpc_dl.spec.options import fields
    from hpc_dl.spec.site import Site

    return {key.name: value for key in fields(Site) if (value := getattr(site, key.name)) != key.default}


def _listing() -> Iterator[str]:
    from hpc_dl.errors import UserError
    from hpc_dl.spec.site_files import site_files
    from hpc_dl.submission.choose_site import choose_site

    try:
        chosen, why_none = choose_site().site, ""
    except UserError as error:
        chosen, why_none = None, str(error)
    known = site_files()
    for name, path in known.items():
        mark = "*" if chosen and name == chosen.name else " "
        try:
            text = _summary(path)
        except UserError as error:  # it must not hide the others
            text = f"not valid: {error}"
        yield f"{mark} {name:<14} {text}  ({path})"
    if chosen is None:
        yield f"none is chosen here: {why_none}"
    elif chosen.name not in known:
        yield f"* {chosen.name:<14} {chosen.description}; hpc-dl sites --describe prints its file"


def _summary(path: Path) -> str:
    """Return the GPUs of a site's nodes and its description."""
    from hpc_dl.spec.site_files import load_site

    site = load_site(path)
    kinds = dict.fromkeys(map(_nodes, (site, *(load_site(path, name) for name in site.partitions))))
    return "; ".join(filter(None, (", ".join(filter(None, kinds)), site.description)))


def _nodes(site: Site) -> str:
    """Return ``4 x a100 40 GB (64 nodes)``, as far as the site says so; empty: no GPUs."""
    from hpc_dl.spec.nodelist import expand
    from hpc_dl.spec.options import fields
    from hpc_dl.spec.site import Site

    if not site.gpus:
        return ""
    unknown = next(field.default for field in fields(Site) if field.name == "nodes")
    many = "" if site.nodes == unknown else f" ({len(expand(site.nodes))} nodes)"
    memory = f" {site.gpu_memory_gb:g} GB" if site.gpu_memory_gb else ""
    return f"{site.gpus} x {site.gpu_type or 'GPU'}{memory}{many}"


def _shown(layers: list[Layer], partition: str, defaults: bool) -> Iterator[str]:
    """Yield the lines of a site file with all keys that count in a partition, and where each value comes from."""
    from hpc_dl.errors import near_match
    from hpc_dl.spec.layers import merge
    from hpc_dl.spec.options import fields
    from hpc_dl.spec.site import Site
    from hpc_dl.spec.site_files import tables_of

    merged = merge(layers, Site.__struct_fields__, "site")
    for field in fields(Site)[1:]:  # the first is the name, which comes from the file's name
        if field.name == "partitions":
            continue
        if field.name in merged.values:
            yield from _lines({field.name: merged.values[field.name]}, merged)
        elif defaults:
            yield f"# {field.name} = {'…' if field.default is None else _toml(field.default)}  # default"
    tables = merged.values.get("partitions", {})
    own = tables_of(partition, tables)
    if tables and partition and not own:
        yield f"\n# no table for partition {partition!r}{near_match(partition, tables)}"
    for name in tables if not own else ():  # else their keys stand above
        yield f"\n[partitions.{_key(name)}]"
        yield from _lines(tables[name], merged, (), f"partitions.{name}.")


def _lines(values: Mapping[str, Any], merged: Merged, tables: Sequence[str] = (), outside: str = "") -> Iterator[str]:
    """Yield ``key = value  # file, line 3`` for all keys, those of tables as ``table.key``."""
    for key, value in values.items():
        path = (*tables, key)
        if isinstance(value, Mapping):
            yield from _lines(value, merged, path, outside)
        else:
            yield f"{'.'.join(map(_key, path))} = {_toml(value)}  # {merged.where(outside + '.'.join(path))}"


def _key(text: str) -> str:
    """Return a key of TOML, in quotes where it needs them."""
    import tomli_w

    return tomli_w.dumps({text: 0}).removesuffix(" = 0\n")


def _described(partition: str, on_node: bool) -> Description:
    from hpc_dl.check.describe import describe, describe_node

    found = describe(partition)
    return describe_node(found, lambda text: click.echo(text, err=True)) if on_node else found


def _file(found: Description) -> Iterator[str]:
    """Yield the lines of a site file: each key after its description. A key with its default value is commented out."""
    from hpc_dl.spec.options import fields
    from hpc_dl.spec.site import Site

    for field in fields(Site)[1:]:  # the first is the name, which comes from the file's name
        if field.name == "partitions":
            continue
        value = getattr(found.site, field.name)
        unset = "# " if value in (field.default, None, {}) and field.name != "base" else ""
        yield f"# {field.description}"
        if note := found.notes.get(field.name):
            yield f"# ({_one_line(note)})"
        yield f"{unset}{field.name} = {'…' if value is None else _toml(value)}"
    for name, table in found.tables.items():
        yield f"\n[partitions.{_key(name)}]"
        yield from (f"{key} = {_toml(value)}" for key, value in table.items())


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _toml(value: object) -> str:
    import tomli_w

    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    return "{}" if value == {} else tomli_w.dumps({"x": value}).removeprefix("x = ").strip()
