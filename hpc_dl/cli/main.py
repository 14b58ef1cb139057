"""The `hpc-dl` command: its subcommands are imported when they are called, so that it starts fast."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from hpc_dl.errors import JobError, UserError, near_match

# Subcommand: module in this package, function, what the list of commands says; nothing where the job script calls it.
_COMMANDS = {
    "submit": ("submit", "submit", "submit a job, or an array of jobs, and show its progress"),
    "resume": ("submit", "resume", "go on from a job's last checkpoint, in a new job"),
    "check": ("check", "check", "say what would go wrong with a job"),
    "render": ("submit", "render", "print every file that a job would have, and the table node x process"),
    "status": ("status", "status", "print where jobs are"),
    "watch": ("jobs", "watch", "show the progress of a job until it ends"),
    "report": ("report", "report", "print what a job's processes did: step times, bytes, confusion matrix"),
    "compare": ("report", "compare", "print a table of the speed, accuracy and cost of jobs"),
    "tensorboard": ("jobs", "tensorboard", "show a job in TensorBoard"),
    "logs": ("status", "logs", "print the logs of a job"),
    "cancel": ("jobs", "cancel", "end jobs"),
    "list": ("status", "list_jobs", "list the jobs that have run folders, with their states"),
    "sites": ("sites", "sites", "list the sites, or describe this one in a file"),
    "templates": ("templates", "templates", "list and check templates"),
    "cluster": ("cluster", "cluster", "start and stop a private Slurm on this machine"),
    "tasks": ("tasks", "tasks", "check and run task files (Greasy's format)"),
    "begin": ("job_script", "begin", ""),
    "again": ("job_script", "again", ""),
    "probe": ("check", "probe", ""),
    "facts": ("job_script", "facts", ""),
    "place": ("job_script", "place", ""),
    "launch": ("job_script", "launch", ""),
    "rank": ("job_script", "rank", ""),
    "mpirun": ("job_script", "mpirun", ""),
    "finish": ("job_script", "finish", ""),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [name for name, (_, _, text) in _COMMANDS.items() if text]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # As click does, but without an import of all commands for the beginning of their texts.
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            ctx.fail(f"no such command {cmd_name!r}{near_match(cmd_name, self.list_commands(ctx))}")
        module, function, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"hpc_dl.cli.{module}"), function)
        return command if isinstance(command, click.Command) else None


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hpc_dl", prog_name="hpc-dl")
def commands() -> None:
    """Train deep networks on several nodes of a Slurm GPU cluster."""


def main(args: list[str] | None = None) -> None:
    """Run the command line. A user's error ends with one message and exit code 2."""
    try:
        result: Any = commands.main(args=args, prog_name="hpc-dl", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        text = error.format_message()
        click.echo(f"hpc-dl: error: {text[:1].lower()}{text[1:].rstrip('.')}", err=True)
        sys.exit(error.exit_code)
    except UserError as error:
        click.echo(f"hpc-dl: error: {error}", err=True)
        sys.exit(2)
    except JobError as error:
        click.echo(f"hpc-dl: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        # Such as a folder that can't be written, or a full disk: place and reason are enough.
        click.echo(f"hpc-dl: error: {error.filename or 'system'}: {error.strerror or error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)
