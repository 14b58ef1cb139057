"""The options of the training program, checked before TensorFlow is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import click
from msgspec import Meta

from hpc_dl.errors import UserError
from hpc_dl.spec.layers import Layer, build
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.options import command, fields
from hpc_dl.spec.training import TrainSettings, check_modes, check_training

_DESCRIPTION = """Run one process of a training run. Which one it is, and who the others are, says TF_CONFIG; without it
this process is the only one. TF_NUM_INTRAOP_THREADS and TF_NUM_INTEROP_THREADS limit its threads."""
_ANY = sys.float_info.max


class Options(TrainSettings, frozen=True, kw_only=True):
    """The options of a training run, the same for all its processes. They include the training settings of a job."""

    run_dir: Annotated[Path, Meta(description="folder of this run: metrics, checkpoints, result")]
    data_dir: Annotated[Path, Meta(description="folder of the data sets")] = Path("data")
    start_timeout: Annotated[
        float, Meta(gt=0, le=_ANY, description="seconds in which all processes must have found each other")
    ] = 600.0
    disk_patience: Annotated[
        float, Meta(ge=0, le=_ANY, description="seconds in which the last checkpoint is tried again on a full disk")
    ] = 600.0

    @property
    def worker_batch(self) -> int:
        """Return the number of images in one step of a worker."""
        return self.batch * self.tower_count

    @property
    def earlier_run(self) -> Path | None:
        """Return the run folder of the job whose checkpoint this run starts from, or None."""
        return Path(self.start_from) if self.start_from else None

    @property
    def tower_count(self) -> int:
        """Return the number of towers of a worker."""
        return self.towers or 1

    @property
    def initial_rate(self) -> float:
        """Return the initial learning rate: the one that was set, else the mode's."""
        return MODES[self.mode].learning_rate if self.learning_rate is None else self.learning_rate


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line.

    Raises:
        UserError: an unknown option or a wrong value. The message is one line that says what is allowed.
    """
    grammar = command(Options, "python -m hpc_dl.train", _DESCRIPTION)
    try:
        given: dict[str, Any] = grammar.make_context(grammar.name, list(arguments)).params
    except click.exceptions.Exit as end:  # --help
        raise SystemExit(end.exit_code) from None
    except click.ClickException as error:
        said = error.format_message()
        raise UserError(f"{said[:1].lower()}{said[1:]}") from None
    # Without --mode this is the only process, as without TF_CONFIG.
    layers = [Layer({"mode": "single"}, "default")]
    layers += [
        Layer({field.name: field.parse(given[field.name], field.flag)}, field.flag)
        for field in fields(Options)
        if given[field.name] is not None
    ]
    return build(Options, layers, "option", _check)


def _check(options: Options) -> None:
    check_modes(options)
    check_training(options)
