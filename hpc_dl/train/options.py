"""The options of the training program, checked before TensorFlow is imported."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hpc_dl import models
from hpc_dl.data import DATASETS, describe
from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.train import ALL_REDUCE, COMPRESSIONS, MODES, ONLY_IN

_DESCRIPTION = """Run one process of a training run. Which one it is, and who the others are, says TF_CONFIG; without it
this process is the only one. TF_NUM_INTRAOP_THREADS and TF_NUM_INTEROP_THREADS limit its threads."""

# Where it is not given. Gradients that are late by several steps need a lower one, the more so with momentum.
_LEARNING_RATE = {"single": 0.1, "async": 0.01, "mixed": 0.01, "sync": 0.1, "multiworker": 0.1, "horovod": 0.1}


@dataclass(frozen=True)
class Options:
    """What one training run does; the same for all its processes."""

    run_dir: Path
    steps: int
    mode: str = "single"
    model: str = "small"
    data: str = "digits"
    data_dir: Path = Path("data")
    batch: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lr_boundaries: tuple[int, ...] = (32_000, 48_000)
    seed: int = 0
    checkpoint_every: int = 1_000
    log_every: int = 100
    start_timeout: float = 600.0
    towers: int = 1
    backup_workers: int = 0
    staleness: int | None = None
    n_fetch: int = 1
    n_push: int = 1
    compression: str = "none"
    trace_steps: tuple[int, ...] = ()
    scale_lr: bool = True
    warmup_steps: int = 100
    fusion_mb: float = 64.0
    cycle_ms: float = 1.0
    eval_every: int = 0
    restart_timeout: float = 60.0  # TensorFlow from a shared disk and its first step may take 30
    disk_patience: float = 600.0
    start_from: Path | None = None

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            UserError: the first wrong value, with what is allowed.
        """
        if self.mode not in MODES:
            raise UserError(f"--mode: unknown mode {self.mode!r}{near_match(self.mode, MODES)}: {allowed(MODES)}")
        models.check(self.model)
        describe(self.data)
        for name in ("steps", "batch", "checkpoint_every", "log_every", "towers", "n_fetch", "n_push"):
            _require(name, getattr(self, name) >= 1, getattr(self, name), "an integer from 1 up")
        _require("seed", 0 <= self.seed < 2**31, self.seed, "an integer from 0 to 2147483647")
        _require("warmup_steps", self.warmup_steps >= 0, self.warmup_steps, "an integer from 0 up")
        for name in ("learning_rate", "start_timeout", "fusion_mb", "cycle_ms", "restart_timeout"):
            _require(name, getattr(self, name) > 0, getattr(self, name), "a number above 0")
        _require("momentum", 0 <= self.momentum < 1, self.momentum, "a number from 0 up, below 1")
        _require("weight_decay", self.weight_decay >= 0, self.weight_decay, "a number from 0 up")
        rising = all(a < b for a, b in zip((0, *self.lr_boundaries), self.lr_boundaries, strict=False))
        _require("lr_boundaries", rising, self.lr_boundaries, "rising global steps such as 32000,48000, or ''")
        _require("eval_every", self.eval_every >= 0, self.eval_every, "an integer from 0 up")
        _require("disk_patience", self.disk_patience >= 0, self.disk_patience, "a number from 0 up")
        _require("backup_workers", self.backup_workers >= 0, self.backup_workers, "an integer from 0 up")
        _require("staleness", (self.staleness or 0) >= 0, self.staleness, "an integer from 0 up")
        _require("compression", self.compression in COMPRESSIONS, self.compression, f"one of {allowed(COMPRESSIONS)}")
        one_bit = self.compression == "1bit" and self.mode in ALL_REDUCE
        _require("compression", not one_bit, self.compression, f"'none' or 'fp16' in mode {self.mode!r}")
        for name, modes in ONLY_IN.items():
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if value != default and self.mode not in modes:
                raise UserError(
                    f"--{name.replace('_', '-')}: {value!r} is for {allowed(modes)} only, not {self.mode!r}"
                )
        _require("trace_steps", all(n >= 1 for n in self.trace_steps), self.trace_steps, "steps from 1 up, or ''")

    @property
    def worker_batch(self) -> int:
        """Return the images of one worker's step."""
        return self.batch * self.towers


def _require(name: str, right: bool, value: object, text: str) -> None:
    if not right:
        raise UserError(f"--{name.replace('_', '-')}: {value!r} is not allowed; it must be {text}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            word = message.split()[2].partition("=")[0]
            message = f"unknown option {word}{near_match(word, self._option_string_actions)}; --help lists all"
        raise UserError(message)


def _steps(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(",") if word.strip())


def _yes(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


# What argparse calls them in "invalid ... value".
_steps.__name__ = "list of steps"
_number.__name__ = "number"
_yes.__name__ = "true or false"


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    commands = _Parser(prog="python -m hpc_dl.train", description=_DESCRIPTION, allow_abbrev=False)
    defaults = Options(Path(), 1)

    def option(name: str, text: str, **kwargs: Any) -> None:
        default = getattr(defaults, name)
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        commands.add_argument(
            f"--{name.replace('_', '-')}", default=default, help=f"{text} (default: {shown})", **kwargs
        )

    commands.add_argument(
        "--run-dir", type=Path, required=True, help="folder of this run: metrics, checkpoints, result"
    )
    commands.add_argument("--steps", type=int, required=True, help="global steps, of all workers together")
    option("mode", f"how gradients are combined: {', '.join(MODES)}", metavar="MODE")
    option("model", f"{', '.join(models.MODELS)}, or your own: package.module:function")
    option("data", ", ".join(DATASETS))
    option("data_dir", "where the data sets lie", type=Path)
    option("batch", "images per step of one worker, in mixed and single of one tower", type=int)
    rates = ", ".join(f"{mode} {value}" for mode, value in _LEARNING_RATE.items())
    commands.add_argument("--learning-rate", type=_number, help=f"before the first boundary (default: {rates})")
    option("momentum", "of Nesterov's method", type=_number)
    option("weight_decay", "L2, on the kernels of convolutions and dense layers", type=_number)
    option("lr_boundaries", "global steps at which the learning rate is divided by 10", type=_steps)
    option("seed", "of initial values, order and augmentation", type=int)
    option("checkpoint_every", "global steps between checkpoints", type=int)
    option("log_every", "steps of a process between its lines of metrics", type=int)
    option("start_timeout", "seconds in which all processes must have found each other", type=_number)
    option("restart_timeout", "seconds that others wait for a worker that is started again", type=_number)
    option("disk_patience", "seconds in which the last checkpoint is tried again on a full disk", type=_number)
    option("towers", "mixed, single: parts of a batch that a worker computes side by side, one per GPU", type=int)
    option("backup_workers", "sync: how many workers' gradients a step does not wait for", type=int)
    option("staleness", "async, mixed: how many steps a worker may be ahead of the slowest", type=int)
    option("n_fetch", "async, mixed: steps between fetches of the variables; a worker has copies", type=int)
    option("n_push", "async, mixed: steps whose gradients are sent together", type=int)
    option("compression", f"of gradients on their way: {', '.join(COMPRESSIONS)}")
    option("trace_steps", "a process's own steps of which it writes a trace: 10,20", type=_steps)
    option(
        "scale_lr", "all-reduce: multiply the learning rate by the number of workers", type=_yes, metavar="true|false"
    )
    option("warmup_steps", "all-reduce: global steps in which the learning rate grows to that", type=int)
    option("fusion_mb", "all-reduce: MiB of gradients that go in one piece", type=_number)
    option("cycle_ms", "horovod: milliseconds between looks for gradients that are ready", type=_number)
    option("eval_every", "global steps between checkpoints that are evaluated, to keep the best; 0: none", type=int)
    option("start_from", "run folder of an earlier run: where to start while this one has no checkpoint", type=Path)
    return commands


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line.

    Raises:
        UserError: an unknown option or a wrong value; one line that says what is allowed.
    """
    values = vars(parser().parse_args(arguments))
    if values["learning_rate"] is None:
        values["learning_rate"] = _LEARNING_RATE.get(values["mode"], Options.learning_rate)
    return Options(**values)
