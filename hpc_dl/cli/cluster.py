"""``hpc-dl cluster``: a private Slurm of several nodes on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click


def _number(name: str, variable: str, default: int, text: str) -> Callable[..., Any]:
    return click.option(name, envvar=variable, default=default, show_default=True, metavar="N", help=text)


_VERSION = click.option(
    "--version",
    default="",
    envvar="HPC_DL_SLURM_VERSION",
    metavar="V",
    help="Slurm 20.11, 22.05, 24.11 or 26.05, in a copy; default: the one that is here.",
)


@click.group()
def cluster() -> None:
    """A private Slurm on this machine: several nodes, any user, one folder."""


@cluster.command()
@_number("--nodes", "HPC_DL_NODES", 2, "Nodes, named mini1, mini2 and so on.")
@_number("--gpus", "HPC_DL_GPUS", 4, "GPUs of a node; they need not exist.")
@_number("--cpus", "HPC_DL_CORES", 16, "CPUs of a node; they need not exist.")
@click.option("--accounting", is_flag=True, help="With slurmdbd, so that sacct knows its jobs.")
@_VERSION
def start(nodes: int, gpus: int, cpus: int, accounting: bool, version: str) -> None:
    """Start the cluster; it runs until `stop`."""
    import os
    import shlex

    from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup
    from hpc_dl.minicluster.programs import find_programs

    groups = (NodeGroup(count=nodes, gpus=gpus, cpus=cpus),)
    programs = find_programs(version, accounting) if version else None
    mini = MiniCluster(config=ClusterConfig(groups=groups, accounting=accounting), programs=programs)
    if mini.is_up():
        click.echo(f"Slurm runs already in {mini.root}")
    else:
        mini.start(detach=True)
        click.echo(f"Slurm is up in {mini.root}: {nodes} nodes, each with {cpus} CPUs and {gpus} GPUs")
    here = f'eval "$({shlex.join([sys.executable, "-m", "hpc_dl"])} cluster env)"'
    other = os.environ.get("SLURM_CONF", str(mini.slurm_conf))
    if other == str(mini.slurm_conf):
        click.echo(f"`make submit` uses it from now on; in this shell: {here}")
    else:
        click.echo(f"SLURM_CONF={other} is set, and names the Slurm that is used; for this one, in this shell: {here}")


@cluster.command()
def stop() -> None:
    """End the cluster and all of its jobs."""
    from hpc_dl.minicluster import MiniCluster

    mini = MiniCluster()
    click.echo(f"Slurm has ended in {mini.root}" if mini.stop() else f"No Slurm runs in {mini.root}")


@cluster.command()
def status() -> None:
    """Show the nodes; exit code 1 if the cluster is not up."""
    from hpc_dl.minicluster import MiniCluster

    mini = MiniCluster()
    found = mini.status()
    if found is None:
        click.echo(f"No Slurm runs in {mini.root}")
        raise SystemExit(1)
    if not found.nodes:
        click.echo(f"slurmctld does not answer in {mini.root}; see {mini.root / 'log'}")
        raise SystemExit(1)
    click.echo(f"Slurm runs in {mini.root}, process {found.pid}")
    for node, state in found.nodes.items():
        click.echo(f"{node} {state}")


@cluster.command()
def env() -> None:
    """Print shell lines that make this cluster the one that sbatch and srun use."""
    import os
    import shlex

    from hpc_dl.errors import UserError
    from hpc_dl.minicluster import MiniCluster, running

    mini = MiniCluster()
    if running(mini.root) is None:
        raise UserError(f"no Slurm runs in {mini.root}; `hpc-dl cluster start` starts one")
    wanted = mini.env()
    for name in sorted(os.environ.keys() - wanted.keys()):
        if name.isidentifier():  # exported shell functions have names that `unset` does not take
            click.echo(f"unset {name}")
    for name, value in sorted(wanted.items()):
        if os.environ.get(name) != value:
            click.echo(f"export {name}={shlex.quote(value)}")


@cluster.command()
@_VERSION
def install(version: str) -> None:
    """Get Slurm's programs and those of accounting, unless they are here: Debian's packages, unpacked into a folder."""
    from hpc_dl.errors import UserError
    from hpc_dl.minicluster import install, programs

    try:
        found = programs.find_programs(version, accounting=True)
    except UserError:
        found = install.install(version, click.echo)
    click.echo(f"Slurm is here: {found.find('slurmctld')}")
    for name in programs.ACCOUNTING_COMMANDS:
        click.echo(f"Accounting is here: {found.find(name)}")
