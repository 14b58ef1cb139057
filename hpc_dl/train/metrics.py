"""What a process reports while it runs: JSON lines, TensorBoard events, and one readable line per interval."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from hpc_dl.errors import UserError


class Metrics:
    """Writes ``RUN/metrics/<task>.jsonl``, a line at a time, and ``RUN/tensorboard/<task>/``."""

    def __init__(self, run_dir: Path, task: str, steps: int, batch: int) -> None:
        """Open the files.

        Args:
            run_dir: the run's folder; made if it is missing.
            task: name of this process, such as ``worker-3``.
            steps: the global step at which training ends.
            batch: images per step of this process.

        Raises:
            UserError: the folder can't be written.
        """
        self._steps, self._batch = steps, batch
        self.together = False  # whether a step of this process is one of all workers together
        self._events_folder = run_dir / "tensorboard" / task
        self._events: Any = None
        self._last_time, self._last_step = time.time(), 0
        try:
            (run_dir / "metrics").mkdir(parents=True, exist_ok=True)
            self._lines = (run_dir / "metrics" / f"{task}.jsonl").open("a", buffering=1, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--run-dir: {error.filename} can't be written: {error.strerror}") from error

    def event(self, name: str) -> None:
        """Mark that a part of the start or the end is reached, for splitting up the time that it takes."""
        self._write({"time": time.time(), "event": name})

    def start(self) -> None:
        """Start the clock: the loop begins now."""
        self._last_time, self._last_step = time.time(), 0

    def line(self, step: int, local_step: int, loss: float, accuracy: float) -> None:
        """Report the state after a step.

        Args:
            step: the global step.
            local_step: steps of this process since its start.
            loss: cross entropy of its last batch.
            accuracy: share of that batch that was classified right, during training.
        """
        now = time.time()
        rate = (local_step - self._last_step) / max(now - self._last_time, 1e-9)
        self._last_time, self._last_step = now, local_step
        values = {"steps_per_s": rate, "images_per_s": rate * self._batch, "loss": loss, "accuracy": accuracy}
        together = {"together": True} if self.together else {}
        self._write({"time": now, "step": step, "local_step": local_step, **values, **together})
        self.scalars(step, values)
        print(
            f"step {step}/{self._steps}  loss {loss:.4f}  accuracy {accuracy:.3f}  "
            f"{rate:.4g} steps/s  {rate * self._batch:.4g} images/s",
            flush=True,
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write TensorBoard events."""
        import tensorflow as tf  # not before this process may use TensorFlow

        if self._events is None:
            with tf.Graph().as_default():  # the writer of name and value pairs exists outside eager mode only
                self._events = tf.compat.v1.summary.FileWriter(str(self._events_folder), graph=None)
        pairs = [tf.compat.v1.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._events.add_summary(tf.compat.v1.Summary(value=pairs), step)
        self._events.flush()

    def _write(self, record: dict[str, Any]) -> None:
        self._lines.write(json.dumps(record) + "\n")
