"""Checkpoints in one format for all modes: TensorFlow's name-based one.

Variables have the names that Keras gives them (``conv1_conv/kernel``). Their momentum is ``<name>/Momentum``, and the
step is ``global_step``. `tf.compat.v1.train.Saver` uses these names by itself. Every mode can read the checkpoints of
every other mode.

For the names of the files see `hpc_dl.runfolder.checkpoints`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from hpc_dl.errors import UserError
from hpc_dl.runfolder.checkpoints import Checkpoint, files, published
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.disk import trouble

tf1 = tf.compat.v1

KEEP = 3  # newest checkpoints
FOLDER = "checkpoints"  # of a run folder


def newest(run_dir: Path) -> str | None:
    """Return the prefix of the newest whole checkpoint. Torn ones are named on stderr and skipped."""
    folder = run_dir / FOLDER
    prefixes = (str(folder / checkpoint.name) for checkpoint in reversed(published(folder)))
    return next(filter(_is_whole, prefixes), None)


def has_saved(run_dir: Path, attempt: int) -> bool:
    """Return whether there is a checkpoint of this attempt; False if the disk can't be read."""
    with contextlib.suppress(OSError):
        return any(checkpoint.attempt == attempt for checkpoint in published(run_dir / FOLDER))
    return False


def _is_whole(prefix: str) -> bool:
    """Return whether every variable can be read with the right checksum; a few milliseconds per ten megabytes.

    Raises:
        Exception: the disk is in trouble; the checkpoint may be whole.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, LookupError, RuntimeError) as error:  # TensorFlow's codes become these
        if trouble(error):
            raise
        print(f"warning: checkpoint {prefix} skipped: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)
        return False
    return True


class Checkpoints:
    """Saves and restores all variables of the current graph; keeps the newest few."""

    def __init__(self, run_dir: Path, attempt: Attempt, start_from: Path | None = None) -> None:
        """Build the saver's operations in the current graph, on the devices of the current scope.

        Args:
            run_dir: folder of this run.
            attempt: this process's attempt; to save, it must still be the latest.
            start_from: folder of the run whose newest checkpoint is restored if this run has none.
        """
        self._run_dir, self._attempt, self._start_from = run_dir, attempt, start_from
        self._folder = run_dir / FOLDER
        self._saver = tf1.train.Saver(max_to_keep=None)
        self._number: int | None = None
        self._last: Checkpoint | None = None

    def restore(self, session: Any) -> bool:
        """Load the newest whole checkpoint, if there is one. Return whether there was one.

        Raises:
            UserError: `start_from` has no whole checkpoint, or the checkpoint is of another network.
        """
        prefix = newest(self._run_dir)
        if prefix is None and self._start_from is not None:
            prefix = newest(self._start_from)
            if prefix is None:
                raise UserError(f"--start-from: no whole checkpoint in {self._start_from / FOLDER}")
        if prefix is None:
            return False
        try:
            self._saver.restore(session, prefix)
        except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as error:
            reason = (error.message or "").strip().splitlines()[0]
            raise UserError(f"checkpoint {prefix} is of another network: {reason}") from error
        return True

    def save(self, session: Any, step: int) -> str:
        """Write a checkpoint of the state at `step` and return its prefix. It is there whole or not at all.

        Raises:
            PeerLostError: a later attempt has taken over.
            OSError, tf.errors.OpError: it can't be written; nothing is left of it.
        """
        self._attempt.check()
        saved = Checkpoint(self._names_of(), step)
        prefix = self._folder / saved.name
        # The final step may have been saved before, by this process or by an earlier one.
        if saved == self._last or (saved in published(self._folder) and _is_whole(str(prefix))):
            return str(prefix)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._remove_remains()
        try:
            hidden = self._folder / f".{saved.name}"
            self._saver.save(session, str(hidden), write_meta_graph=False, write_state=False)
            self._publish(saved)
        except BaseException:
            with contextlib.suppress(OSError):
                self._remove_remains()
            raise
        self._last = saved
        with contextlib.suppress(OSError):  # the next save removes them
            self._remove_old(saved)
        return str(prefix)

    def _names_of(self) -> int:
        """Return the attempt in the names of our files: no earlier one than any in the folder."""
        if self._number is None:
            self._number = max([self._attempt.number, *(saved.attempt for saved in published(self._folder))])
        return self._number

    def _publish(self, saved: Checkpoint) -> None:
        """Give the files their final names once they are on the disk, if this attempt is still the latest."""
        files = sorted(self._folder.glob(f".{saved.name}.*"))  # .data-* before .index
        for file in files:
            _to_disk(file)
        self._attempt.check()
        (self._folder / f"{saved.name}.index").unlink(missing_ok=True)  # of a torn checkpoint
        for file in files:
            file.rename(file.with_name(file.name[1:]))
        _to_disk(self._folder)

    def _remove_remains(self) -> None:
        """Remove what killed processes have left: half-written files, data without an index."""
        own = [file for file in files(self._folder) if file.checkpoint.attempt <= self._names_of()]
        whole = {file.checkpoint for file in own if file.is_index and file.published}
        for file in own:
            if file.checkpoint not in whole or not file.published:
                (self._folder / file.name).unlink(missing_ok=True)

    def _remove_old(self, newest: Checkpoint) -> None:
        """Keep `KEEP` checkpoints, remove the others; never the one just written, nor one of a later attempt.

        A checkpoint of this attempt with a higher step is removed first: it is torn, else training would have begun
        there.
        """
        others = [saved for saved in published(self._folder) if saved.attempt <= newest.attempt and saved != newest]
        others.sort(key=lambda saved: (saved < newest, saved))
        for saved in others[: -(KEEP - 1)]:
            # The index first: without it the rest is no checkpoint.
            for file in sorted(self._folder.glob(f"{saved.name}.*"), reverse=True):
                file.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk. A shared disk reports only then that it is full."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
