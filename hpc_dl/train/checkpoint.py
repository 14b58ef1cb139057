"""Checkpoints, one format for all modes: TensorFlow's name-based one, with these names.

Variables have the names that Keras gives them (``conv1_conv/kernel``), their momentum ``<name>/Momentum``, the step
``global_step``: what `tf.compat.v1.train.Saver` writes by itself, and what every other mode can write and read.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from hpc_dl.errors import UserError

tf1 = tf.compat.v1

KEEP = 3  # newest checkpoints


def newest(run_dir: Path) -> str | None:
    """Return the prefix of the newest checkpoint that is whole; torn ones are named on stderr and skipped."""
    return next(filter(_is_whole, reversed(_prefixes(run_dir))), None)


def _is_whole(prefix: str) -> bool:
    """Read every variable, which compares checksums: a few milliseconds per ten megabytes."""
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, LookupError, RuntimeError) as error:  # what TensorFlow makes of its codes
        print(f"warning: checkpoint {prefix} skipped: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        return False
    return True


def _prefixes(run_dir: Path) -> list[str]:
    """Return all checkpoints of a run, the newest last."""
    found = (run_dir / "checkpoints").glob("step-*.index")
    numbered = [(int(match[1]), path) for path in found if (match := re.fullmatch(r"step-(\d+)\.index", path.name))]
    return [str(path.with_suffix("")) for _, path in sorted(numbered)]


class Checkpoints:
    """Saves and restores all variables of the current graph; keeps the newest few."""

    def __init__(self, run_dir: Path, start_from: Path | None = None) -> None:
        """Build the saver's operations in the current graph, on the devices of the current scope.

        Args:
            run_dir: folder of this run.
            start_from: folder of the run whose newest checkpoint is taken while this one has none.
        """
        self._run_dir = run_dir
        self._start_from = start_from
        self._saver = tf1.train.Saver(max_to_keep=KEEP, save_relative_paths=True)

    def restore(self, session: Any) -> bool:
        """Load the newest whole checkpoint, if there is one, and say whether there was.

        Raises:
            UserError: there is none where the run shall start from, or it is one of another network.
        """
        self._saver.recover_last_checkpoints(_prefixes(self._run_dir))
        prefix = newest(self._run_dir)
        if prefix is None and self._start_from is not None:
            prefix = newest(self._start_from)
            if prefix is None:
                raise UserError(f"--start-from: no whole checkpoint in {self._start_from / 'checkpoints'}")
        if prefix is None:
            return False
        try:
            self._saver.restore(session, prefix)
        except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as error:
            reason = (error.message or "").strip().splitlines()[0]
            raise UserError(f"checkpoint {prefix} is of another network: {reason}") from error
        return True

    def save(self, session: Any, step: int) -> str:
        """Write a checkpoint of the state at `step` and return its prefix; it is there whole or not at all."""
        (self._run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        prefix = self._run_dir / "checkpoints" / "step"
        return str(self._saver.save(session, str(prefix), global_step=step, write_meta_graph=False))
