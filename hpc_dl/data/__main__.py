"""``python -m hpc_dl.data fetch|prepare NAME --data-dir DIR``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from hpc_dl import data, tensorflow_env
from hpc_dl.errors import UserError

_NAMES = ", ".join(data.DATASETS)


@click.group()
def main() -> None:
    """Get a data set ready for training."""


@main.command()
@click.argument("name")
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
def fetch(name: str, data_dir: Path) -> None:
    """Download NAME, in CIFAR-10's binary format; needs no TensorFlow."""
    _say(name, data.fetch(name, data_dir))


@main.command()
@click.argument("name")
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
def prepare(name: str, data_dir: Path) -> None:
    """Make the TFRecord shards of NAME; downloads it if needed."""
    tensorflow_env.before_import()
    _say(name, data.prepare(name, data_dir))


def _say(name: str, folder: Path | None) -> None:
    print(f"{name}: {folder}" if folder else f"{name}: generated while training, no files")


if __name__ == "__main__":
    # An exception ends the command, so that it removes its unfinished files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The user's own data sets can be imported. Their folder comes last: a random.py in it must not hide Python's.
    sys.path.append("")
    try:
        main(prog_name="python -m hpc_dl.data")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
