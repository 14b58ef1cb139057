"""`tasks`: task files in Greasy's format."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def tasks() -> None:
    """Check and run task files (Greasy's format)."""


@tasks.command()
@click.argument("file", type=Path)
def check(file: Path) -> int:
    """Check FILE and print how many tasks it has."""
    from hpc_dl.tasks.parser import read_task_file

    click.echo(f"{file}: {len(read_task_file(file))} tasks, all valid")
    return 0


@tasks.command()
@click.argument("file", type=Path)
def node(file: Path) -> int:
    """Run the line of this node, inside a Slurm step."""
    from hpc_dl.launch.facts import node_name
    from hpc_dl.tasks.parser import read_task_file
    from hpc_dl.tasks.runner import become_node_task

    become_node_task(read_task_file(file), node_name())


@tasks.command()
@click.argument("file", type=Path)
def run(file: Path) -> int:
    """Run all lines of a job's per-node FILE at once on this machine."""
    from hpc_dl.tasks.parser import read_task_file
    from hpc_dl.tasks.runner import run_all

    return run_all(read_task_file(file))
