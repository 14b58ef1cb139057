"""The `hpc-dl` command: its subcommands are imported when they are called, so that it starts fast."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from hpc_dl.errors import JobError, UserError, near_match

# Subcommand: module in this package, function, whether people call it (else the job script does).
_COMMANDS = {
    "submit": ("submit", "submit", True),
    "resume": ("submit", "resume", True),
    "check": ("check", "check", True),
    "render": ("submit", "render", True),
    "status": ("status", "status", True),
    "watch": ("jobs", "watch", True),
    "report": ("report", "report", True),
    "compare": ("report", "compare", True),
    "tensorboard": ("jobs", "tensorboard", True),
    "logs": ("status", "logs", True),
    "cancel": ("jobs", "cancel", True),
    "list": ("status", "list_jobs", True),
    "sites": ("sites", "sites", True),
    "templates": ("templates", "templates", True),
    "cluster": ("cluster", "cluster", True),
    "tasks": ("tasks", "tasks", True),
    "begin": ("job_script", "begin", False),
    "again": ("job_script", "again", False),
    "probe": ("check", "probe", False),
    "facts": ("job_script", "facts", False),
    "place": ("job_script", "place", False),
    "launch": ("job_script", "launch", False),
    "rank": ("job_script", "rank", False),
    "mpirun": ("job_script", "mpirun", False),
    "finish": ("job_script", "finish", False),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [name for name, (_, _, visible) in _COMMANDS.items() if visible]

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
