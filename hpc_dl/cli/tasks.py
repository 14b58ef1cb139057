"""`tasks`: task files in Greasy's format."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import click

_FILE = click.argument("file", type=Path)
_RECORDS = click.option("--records", type=Path, help="folder of outputs and journals; default: FILE.records")
_JSON = click.option("--json", "as_json", is_flag=True, help="print JSON")


@click.group()
def tasks() -> None:
    """Check and run task files (Greasy's format)."""


@tasks.command()
@_FILE
def check(file: Path) -> int:
    """Check FILE and print how many tasks it has."""
    from hpc_dl.tasks.file.parser import read

    click.echo(f"{file}: {len(read(file).check())} tasks, all valid")
    return 0


@tasks.command()
@_FILE
@_RECORDS
@_JSON
@click.option("--resume", is_flag=True, help="run only what has not ended well in earlier runs")
@click.option("--strict/--no-strict", default=None, help="run nothing if a line is invalid; default: yes")
@click.option("--workers", type=click.IntRange(1, 1_000_000), help="tasks at once, over all nodes; default: the cores")
@click.option("--retries", type=click.IntRange(0), help="how often a failed task is tried again; default: 0")
@click.option("--cores", type=click.IntRange(1), default=1, show_default=True, help="of a task without cores=")
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="of a task without gpus=")
@click.option(
    "--grace", type=click.FloatRange(0, 86_400), default=20.0, show_default=True, help="seconds before SIGKILL"
)
@click.option("--log-file", help="where the log goes; default: standard error")
@click.option("--log-level", type=click.IntRange(0, 5), help="0 nothing, 1 errors, 2 warnings, 3 every task")
@click.option("--local", is_flag=True, help="on this machine, even inside a Slurm job")
@click.option("--srun", multiple=True, metavar="OPTION", help="further option of the srun that starts a node's agent")
@click.option("--gpu-rule", default="{}", metavar="JSON", help="how GPUs are found, as `tasks submit` writes it")
def run(file: Path, records: Path | None, as_json: bool, local: bool, **given: Any) -> int:
    """Run FILE: inside a Slurm job on its nodes, else on this machine.

    Settings also come from greasy.conf and GREASY_* variables; options win. The exit code is 0 if all tasks ended well,
    2 if nothing was run, 128 + the signal that ended the run, else 1.
    """
    import msgspec

    from hpc_dl.tasks.demand import RunOptions
    from hpc_dl.tasks.gpu_rule import GpuRule
    from hpc_dl.tasks.greasy_conf import load_settings
    from hpc_dl.tasks.session import run_file

    changes = {key: given[key] for key in ("strict", "workers", "retries", "log_file", "log_level")}
    changes["remote"] = "none" if local else None
    settings = msgspec.structs.replace(
        load_settings(Path.cwd(), os.environ), **{key: value for key, value in changes.items() if value is not None}
    )
    options = RunOptions(
        records,
        given["resume"],
        given["cores"],
        given["gpus"],
        given["grace"],
        GpuRule.read(given["gpu_rule"]),
        given["srun"],
    )
    report = run_file(file, settings, options)
    try:
        click.echo(report.json() if as_json else report.text())
    except OSError:
        # Keep the run's exit code: at its end, Python would try to print again, and fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return report.exit_code


@tasks.command()
@_FILE
@click.option("--records", type=Path, help="folder of outputs and journals; default: that of FILE's last run or job")
@_JSON
@click.option("--follow", is_flag=True, help="show what runs now until the run ends")
def status(file: Path, records: Path | None, as_json: bool, follow: bool) -> int:
    """Show what has become of the tasks of FILE, while they run and afterwards."""
    import msgspec

    from hpc_dl.tasks import status as view
    from hpc_dl.tasks.report import counts

    looking = view.Status(file, records)
    if follow:
        from rich.console import Console

        view.follow(looking, Console(stderr=as_json))
    table, running = looking.look()
    if as_json:
        counted = {state.value: number for state, number in counts(table).items()}
        found = {"running": running, "records": str(looking.folder), "counts": counted}
        click.echo(json.dumps({**found, "tasks": msgspec.to_builtins(table)}))
        return 0
    for line in view.table_lines(table):
        click.echo(line)
    click.echo(view.summary(table, running))
    return 0


@tasks.command()
@_FILE
@click.option("--nodes", type=click.IntRange(1, 100_000), default=1, show_default=True, help="how many nodes")
@click.option("--gpus", type=click.IntRange(0, 1000), help="GPUs of each node; default: all")
@click.option("--cores", type=click.IntRange(1, 100_000), help="cores of each node; default: all")
@click.option("--time", default="1:00:00", show_default=True, help="time limit, as sbatch takes it")
@click.option("--partition", default="", help="default: the site's")
@click.option("--name", default="", help="of the job; default: the file's")
@click.option("--site", default="", envvar="HPC_DL_SITE", help="site name or file; default: where this machine is")
@click.option("--dry-run", is_flag=True, help="print the batch script, don't submit it")
@click.option("--strict/--no-strict", default=None, help="run nothing if a line is invalid; default: yes")
@click.option("--task-cores", type=click.IntRange(1), default=1, show_default=True, help="of a task without cores=")
@click.option("--task-gpus", type=click.IntRange(0), default=0, show_default=True, help="of a task without gpus=")
@click.option("--retries", type=click.IntRange(0), help="how often a failed task is tried again")
def submit(file: Path, site: str, dry_run: bool, **given: Any) -> int:
    """Submit FILE as a batch job that runs it on its nodes."""
    from hpc_dl.errors import UserError
    from hpc_dl.schedulers import scheduler_of
    from hpc_dl.submission.choose_site import choose_site
    from hpc_dl.tasks.demand import RunOptions
    from hpc_dl.tasks.file.parser import read
    from hpc_dl.tasks.greasy_conf import load_settings
    from hpc_dl.tasks.submit import Request, script, site_templates
    from hpc_dl.tasks.submit import check as check_tasks
    from hpc_dl.tasks.submit import submit as send

    parsed = read(file)
    strict = load_settings(Path.cwd(), os.environ).strict if given["strict"] is None else given["strict"]
    chosen, path, _ = choose_site(site, given["partition"])
    if scheduler_of(chosen).one_machine:
        raise UserError(f"no Slurm answers here; `hpc-dl tasks run {shlex.quote(str(file))}` runs it on this machine")
    options = [f"--cores={given['task_cores']}", f"--gpus={given['task_gpus']}"]
    options += [] if given["strict"] is None else ["--strict" if given["strict"] else "--no-strict"]
    options += [] if given["retries"] is None else [f"--retries={given['retries']}"]
    keys = ("nodes", "gpus", "cores", "time", "partition", "name")
    request = Request(**{key: given[key] for key in keys}, options=tuple(options))
    if strict:
        check_tasks(parsed, request, chosen, RunOptions(cores=given["task_cores"], gpus=given["task_gpus"]))
    text = script(file, request, chosen, site_templates(path))
    if dry_run:
        click.echo(text, nl=False)
        return 0
    job_id = send(text, chosen)
    click.echo(f"Submitted batch job {job_id}")
    look = ["hpc-dl", "tasks", "status", str(file), "--records", f"{file}-{job_id}.records", "--follow"]
    click.echo(f"Log: {file.absolute()}-{job_id}.log; {shlex.join(look)}")
    return 0


@tasks.command()
@click.argument("template", type=Path)
@click.argument("table", type=Path)
@click.option("--output", "-o", type=Path, help="the task file to write; default: standard output")
def expand(template: Path, table: Path, output: Path | None) -> int:
    """Make a task file from a Jinja2 TEMPLATE, once for each row of TABLE (.csv, or .toml with lists of values)."""
    from hpc_dl.disk import write_whole
    from hpc_dl.tasks.file.sweep import expand_sweep

    text = expand_sweep(template, table)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text)
        click.echo(f"{output}: {len(text.splitlines())} lines")
    return 0


@tasks.command(hidden=True)
@_FILE
def node(file: Path) -> int:
    """Run the line of this node, inside a Slurm step."""
    from hpc_dl.node.facts import node_name
    from hpc_dl.node.task_line import become_node_task
    from hpc_dl.tasks.file.parser import read

    become_node_task(read(file).check(), node_name())


@tasks.command(name="all", hidden=True)
@_FILE
def all_lines(file: Path) -> int:
    """Run all lines of a job's per-node FILE at once on this machine."""
    from hpc_dl.node.task_line import run_all
    from hpc_dl.tasks.file.parser import read

    return run_all(read(file).check())
