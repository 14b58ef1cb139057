"""The settings of the built-in training program. Its options, job keys and make variables are these fields."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hpc_dl import data, models
from hpc_dl.errors import UserError, allowed
from hpc_dl.spec.layers import BadValueError
from hpc_dl.spec.modes import KEYS, MODES, ModeName, modes_with, unused

_LARGEST = 2**63 - 1  # the largest int64 of TensorFlow
Count = Annotated[int, Meta(ge=0, le=_LARGEST)]
Positive = Annotated[int, Meta(ge=1, le=_LARGEST)]
Compression = Literal["none", "fp16", "1bit"]
_ANY = sys.float_info.max  # as an upper limit it excludes infinity and NaN
Rate = Annotated[float, Meta(gt=0, le=_ANY)]


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the built-in program trains, and how. `hpc_dl.spec.modes` lists the settings that only some modes use."""

    mode: Annotated[ModeName, Meta(description="how the processes train together")] = "async"
    model: Annotated[str, Meta(description="network: a known name, or package.module:function")] = "small"
    data: Annotated[str, Meta(description="data set")] = "digits"
    steps: Annotated[int, Meta(ge=1, le=_LARGEST, description="global steps, of all workers together")] = 600
    batch: Annotated[int, Meta(ge=1, description="images per step of a worker, or of each of its towers")] = 32
    learning_rate: Annotated[Rate | None, Meta(description="initial learning rate; default: the mode's")] = None
    lr_boundaries: Annotated[
        tuple[Positive, ...] | None,
        Meta(description="global steps that divide it by 10: 300,500; default of a job: 3/4 of its steps"),
    ] = None
    momentum: Annotated[float, Meta(ge=0, lt=1, description="Nesterov momentum")] = 0.9
    weight_decay: Annotated[
        float, Meta(ge=0, le=_ANY, description="L2 weight decay of the kernels of convolutions and dense layers")
    ] = 1e-4
    seed: Annotated[int, Meta(ge=0, lt=2**31, description="seed of initial values, order and augmentation")] = 0
    checkpoint_every: Annotated[int, Meta(ge=1, description="global steps between checkpoints")] = 200
    log_every: Annotated[int, Meta(ge=1, description="a worker's own steps between lines of metrics")] = 20
    eval_every: Annotated[
        Count, Meta(description="global steps between checkpoints that are evaluated, to keep the best; 0: none")
    ] = 0
    towers: Annotated[
        Positive | None, Meta(description="copies of the network in a worker, each with a batch; default: one per GPU")
    ] = None
    backup_workers: Annotated[Count, Meta(description="workers whose gradients a step does not wait for")] = 0
    restart_timeout: Annotated[
        float, Meta(gt=0, le=_ANY, description="seconds that others wait for a worker that is started again")
    ] = 60.0
    staleness: Annotated[Count | None, Meta(description="steps that a worker may be ahead of the slowest")] = None
    n_fetch: Annotated[Positive, Meta(description="steps between a worker's fetches of the variables")] = 1
    n_push: Annotated[Positive, Meta(description="steps whose gradients a worker sends together")] = 1
    compression: Annotated[Compression, Meta(description="what is done to gradients before they are sent")] = "none"
    trace_steps: Annotated[tuple[Positive, ...], Meta(description="a process's own steps that it traces: 10,20")] = ()
    scale_lr: Annotated[bool, Meta(description="multiply the learning rate by the number of workers")] = True
    warmup_steps: Annotated[Count, Meta(description="global steps in which the learning rate grows to that")] = 100
    fusion_mb: Annotated[float, Meta(gt=0, le=1024, description="MiB of gradients that are sent in one piece")] = 64.0
    cycle_ms: Annotated[float, Meta(gt=0, le=1000, description="milliseconds between looks for ready gradients")] = 1.0
    start_from: Annotated[
        str, Meta(description="run folder of an earlier job, from whose last checkpoint this one goes on")
    ] = ""


def changed(settings: msgspec.Struct) -> dict[str, object]:
    """Return the keys that only some modes use and that differ from their defaults, with their values."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(type(settings))}
    keys = [key for key in KEYS if key in defaults]
    found = {key: value for key in keys if (value := getattr(settings, key)) != defaults[key]}
    # One worker is what a mode of one process has anyway.
    return {key: value for key, value in found.items() if (key, value) != ("workers", 1)}


def check_modes(settings: TrainSettings) -> None:
    """Check that the mode uses all settings.

    Raises:
        BadValueError: it does not use one; the message names the modes that do.
    """
    values = changed(settings)
    for key in unused(settings.mode, values):
        raise BadValueError(
            key,
            f"{key} = {text(values[key])}: mode {settings.mode!r} has no use for it; only {allowed(modes_with(key))}",
        )
    if settings.compression not in (choices := MODES[settings.mode].compressions):
        raise BadValueError(
            "compression",
            f"compression = {settings.compression!r}: mode {settings.mode!r} has only {allowed(choices)}",
        )


def check_training(settings: TrainSettings) -> None:
    """Check what the types of single fields can't show.

    Raises:
        BadValueError: a value is not known, or does not fit another.
    """
    if not all(a < b for a, b in itertools.pairwise((0, *(settings.lr_boundaries or ())))):
        steps = text(settings.lr_boundaries)
        raise BadValueError(
            "lr_boundaries", f"lr_boundaries = {steps}: must be rising global steps such as 32000,48000"
        )
    _check_known("model", models.check, settings.model)
    _check_known("data", data.describe, settings.data)


def _check_known(key: str, look_up: Callable[[str], object], name: str) -> None:
    try:
        look_up(name)
    except UserError as error:
        raise BadValueError(key, str(error)) from None


def text(value: object) -> str:
    """Return a setting as people and options write it: ``32000,48000``, ``true``."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def program_options(settings: TrainSettings) -> list[str]:
    """Return the options that give the training program these settings, such as ``--batch=32``.

    Settings that only some modes use are left out where they have their default.
    """
    own = changed(settings)
    shown = {
        key: getattr(settings, key)
        for key in TrainSettings.__struct_fields__
        if (key in own if key in KEYS else getattr(settings, key) not in ("", None))
    }
    return [_option(key.replace("_", "-"), value) for key, value in shown.items()]


def _option(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value if isinstance(value, str) else text(value)}"
