"""Site files: where they are found, and how they become a site."""

from __future__ import annotations

import fnmatch
import functools
import itertools
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import msgspec

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.shipped_files import share
from hpc_dl.spec.layers import Layer, build, is_file, merge, read_toml
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_checks import check

# Keys of site files of earlier versions, and why they are gone: told to users who still set one.
_GONE = {"sockets": "each node tells itself how its cores are shared out"}


def config_home() -> Path:
    """Return the folder of the user's configuration (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def site_folders() -> Iterator[Path]:
    """Yield the folders in which site files are looked for: the user's configuration, this folder, the package."""
    yield config_home() / "hpc_dl" / "sites"
    yield Path.cwd() / "env" / "sites"
    yield share() / "env" / "sites"


def site_files() -> dict[str, Path]:
    """Return every site's name and file; if several have the same name, the one in the first folder."""
    files: dict[str, Path] = {}
    for folder in site_folders():
        for path in sorted(folder.glob("*.toml")):
            files.setdefault(path.stem, path)
    return files


def site_file(name: str) -> Path:
    """Return the file of site `name`, which may also be the path of a TOML file.

    Raises:
        UserError: there is none.
    """
    if _is_path(name):
        if not is_file(Path(name)):
            raise UserError(f"site {name!r}: no such file")
        return Path(name).resolve()
    files = site_files()
    if name not in files:
        raise UserError(f"unknown site {name!r}{near_match(name, files)}; known sites: {allowed(files)}")
    return files[name]


def _is_path(name: str) -> bool:
    return name.endswith(".toml") or "/" in name


def load_site(path: Path, in_partition: str = "", environ: Mapping[str, str] | None = None, **changes: Any) -> Site:
    """Read a site file and the files below it; see `site_layers`.

    Args:
        path: the file.
        in_partition: the job's partition, whose table of the file counts; empty: the site's default partition.
        environ: the variables that replace ``$NAME`` in folders and commands; None: they stay as they are.
        changes: keys that replace those of the file.

    Raises:
        UserError: a file or a change is not valid, or a variable is not set.
    """
    layers = layers_in_partition(path, in_partition, Layer(changes, "keyword {key}"))
    site = build(Site, layers, "site", check)
    return site if environ is None else _expanded(site, layers, environ)


def layers_in_partition(path: Path, in_partition: str = "", changes: Layer | None = None) -> list[Layer]:
    """Return the settings of a site file for jobs in a partition, weakest first; see `load_site`.

    Raises:
        UserError: a file or a change is not valid, also in a table of another partition.
    """
    files = site_layers(path)
    above = [changes] if changes else []
    site = build(Site, [*files, *above], "site", check)
    # All files' keys come first: a shipped table says more of its partition than the user's lines on the whole site.
    tables = {name: _tables(files, name) for name in site.partitions}

    def with_tables(names: Sequence[str]) -> list[Layer]:
        return [*files, *itertools.chain(*(tables[name] for name in names)), *above]

    for name in tables:
        build(Site, with_tables(tables_of(name, tables)), "site", check)
    return with_tables(_tables_of_job(site, in_partition or site.partition))


def site_layers(path: Path, above: Sequence[Path] = ()) -> list[Layer]:
    """Return the settings of a site file and of those below it, weakest first.

    Below a file is the site that it names as `base`, else the file with the same name in a later folder: a few lines in
    the user's configuration change a site that is shipped. ``base = ""`` keeps the file apart from all others.

    Args:
        path: the file.
        above: the files that lead here by `base`.

    Raises:
        UserError: a file is not valid, or bases lead back to their own file.
    """
    file = read_toml(path)
    if isinstance(table := file.values.get("partition"), Mapping):
        names = ", ".join(f"[partitions.{name}]" for name in table)
        raise UserError(f"{file.where('partition')}: partition is the name of one; tables are called {names}")
    for key in _GONE.keys() & file.values.keys():
        _say_once(f"{file.where(key)}: {key} is not used any more: {_GONE[key]}")
    below = _below(file, path, [*above, path.resolve()])
    return [
        *(site_layers(below, [*above, path.resolve()]) if below else []),
        Layer({"name": path.stem}, "file name"),
        without_gone(file),
    ]


def tables_of_no_partition(path: Path, partitions: Collection[str]) -> tuple[list[str], list[str]]:
    """Return what is said of tables of partitions that a cluster doesn't have.

    Args:
        path: the site file.
        partitions: the cluster's partitions.

    Returns:
        Messages on tables in files of the user, and messages on those in files that come with hpc_dl.
    """
    own: list[str] = []
    shipped: list[str] = []
    for file in site_layers(path):
        messages = shipped if Path(file.file).parent == share() / "env" / "sites" else own
        for name in file.inside("partitions").values:
            if not fnmatch.filter(partitions, name) and name not in partitions:
                where, near = file.where(f"partitions.{name}"), near_match(name, partitions)
                messages.append(f"{where}: [partitions.{name}]: Slurm has no such partition{near}")
    return own, shipped


def _below(file: Layer, path: Path, above: Sequence[Path]) -> Path | None:
    """Return the file whose settings lie below those of a site file; None if there is none."""
    base = file.values.get("base")
    if base == "":
        return None
    if isinstance(base, str) and base != path.stem:
        try:
            below = site_file(str(path.parent / base) if _is_path(base) else base)
        except UserError as error:
            raise UserError(f"{file.where('base')}: base = {base!r}: {error}") from None
        if below.resolve() in above:
            raise UserError(f"{file.where('base')}: base = {base!r}: {below} leads back to {path}")
        return below
    same = [folder / path.name for folder in site_folders()]
    here = next((number for number, one in enumerate(same) if one.resolve() == path.resolve()), len(same))
    return next((one for one in same[here + 1 :] if is_file(one) and one.resolve() not in above), None)


def _tables(files: Sequence[Layer], partition: str) -> list[Layer]:
    """Return what the files say of a partition.

    Raises:
        UserError: a key can't be different in a partition.
    """
    tables = [file.inside("partitions", partition) for file in files]
    for table in tables:
        for key in table.values:
            if key in _WHOLE_SITE:
                reason = f"{key} is the same in all partitions: it can't stand in [partitions.{partition}]"
                raise UserError(f"{table.where(key)}: {reason}")
    return tables


def tables_of(partition: str, tables: Collection[str]) -> list[str]:
    """Return the tables of partitions that are those of a partition, weakest first: patterns, and then its own."""
    patterns = [name for name in tables if name != partition and fnmatch.fnmatchcase(partition, name)]
    return [*patterns, *([partition] if partition in tables else [])]


def _tables_of_job(site: Site, partition: str) -> list[str]:
    """Return the tables that count for a job in `partition`, which may be several with commas.

    Raises:
        UserError: some of the partitions have tables that differ.
    """
    names = [tables_of(name, site.partitions) for name in partition.split(",") if name]
    tables = [[site.partitions[name] for name in one] for one in names]
    if any(table != tables[0] for table in tables):
        raise UserError(f"partition = {partition!r}: site {site.name!r} says of each something else; choose one")
    return names[0] if names else []


# Keys by which a site is found, which are read before the partition is known.
_WHOLE_SITE = (
    "name",
    "base",
    "scheduler",
    "cluster",
    "login_nodes",
    "clusters",
    "slurm_conf",
    "partition",
    "partitions",
)
# Keys in which $NAME and ${NAME} stand for variables of the shell that submits.
_WITH_VARIABLES = ("slurm_conf", "module_init", "python", "container", "container_srun", "runs", "data")


def _expanded(site: Site, layers: Sequence[Layer], environ: Mapping[str, str]) -> Site:
    """Return the site with variables replaced by their values.

    Raises:
        UserError: one is not set.
    """

    def replaced(key: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(replaced(key, one) for one in value)
        try:
            return Template(value).substitute(environ)
        except KeyError as error:
            reason = f"${error.args[0]} is not set where you submit{near_match(error.args[0], environ)}"
        except ValueError:
            reason = "a $ without a name"
        where = merge(layers, Site.__struct_fields__, "site").where(key)
        raise UserError(f"{where}: {key} = {value!r}: {reason}; $$ stands for a $")

    return msgspec.structs.replace(site, **{key: replaced(key, getattr(site, key)) for key in _WITH_VARIABLES})


def without_gone(layer: Layer) -> Layer:
    """Return the settings of a site without the keys that only earlier versions had."""
    return layer.without(_GONE)


@functools.cache
def _say_once(note: str) -> None:
    print(f"hpc-dl: {note}", file=sys.stderr)
