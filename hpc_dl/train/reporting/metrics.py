"""What a process reports while it runs: JSON lines, TensorBoard events, and one readable line per interval.

A disk in trouble must not end the training for these: lines that can't be written are lost and counted.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpc_dl.disk import LineFile
from hpc_dl.errors import UserError
from hpc_dl.train.disk import trouble
from hpc_dl.train.reporting.step_times import summarise
from hpc_dl.train.reporting.traffic import sent_received

_AGAIN = 30.0  # seconds before TensorBoard events are tried again


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
        self._events_folder = run_dir / "tensorboard" / task
        self._events: Any = None
        self._events_from = 0.0
        path = run_dir / "metrics" / f"{task}.jsonl"
        self._lines = LineFile(path, "metrics")
        self._last_time, self._last_step, self._last_global_step = time.time(), 0, 0
        self._bytes = 0, 0
        existed = path.parent.is_dir()
        try:
            self._lines.open()
        except OSError as error:
            # Where a process has written before, the disk is in trouble; it is not the user's error.
            if not existed or error.errno == errno.ENOTDIR:
                raise UserError(f"--run-dir: {error.filename} can't be written: {error.strerror}") from error

    def event(self, name: str, **values: Any) -> None:
        """Write that something has happened, such as a part of the start. The times tell how long each part takes."""
        self._write({"time": time.time(), "event": name, **values})

    def traffic(self) -> None:
        """Write the bytes that this process has sent and received since its start."""
        self.event("traffic", **_traffic())

    def start(self, step: int) -> None:
        """Start the clock: the loop begins now, at this global step."""
        self._last_time, self._last_step, self._last_global_step = time.time(), 0, step
        self._bytes = sent_received()

    def end(self, step_seconds: Sequence[float]) -> None:
        """Write a summary of the loop: its steps, their times, and the bytes that it sent and received.

        The first step counts in the bytes, but not in the times: TensorFlow prepares the graph in it.
        """
        moved = {key: now - then for (key, now), then in zip(_traffic().items(), self._bytes, strict=True)}
        self.event("trained", local_steps=len(step_seconds), step_seconds=summarise(step_seconds[1:]), **moved)

    def line(self, step: int, local_step: int, loss: float, accuracy: float) -> None:
        """Report the state after a step.

        Args:
            step: the global step.
            local_step: steps of this process since its start.
            loss: cross entropy of its last batch.
            accuracy: share of that batch that the network classified right, in training mode.
        """
        now = time.time()
        seconds = max(now - self._last_time, 1e-9)
        rate, global_rate = (local_step - self._last_step) / seconds, (step - self._last_global_step) / seconds
        self._last_time, self._last_step, self._last_global_step = now, local_step, step
        values = {"steps_per_s": rate, "images_per_s": rate * self._batch, "loss": loss, "accuracy": accuracy}
        record = {"time": now, "step": step, "local_step": local_step, "global_steps_per_s": global_rate}
        self._write({**record, **values, **_traffic()})
        self.scalars(step, values)
        print(
            f"step {step}/{self._steps}  loss {loss:.4f}  accuracy {accuracy:.3f}  "
            f"{rate:.4g} steps/s  {rate * self._batch:.4g} images/s",
            flush=True,
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write TensorBoard events."""
        import tensorflow as tf  # not at the top: see `tensorflow_env.before_import`

        if time.monotonic() < self._events_from:
            return
        pairs = [tf.compat.v1.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        event = tf.compat.v1.Event(wall_time=time.time(), step=step, summary=tf.compat.v1.Summary(value=pairs))
        try:
            if self._events is None:
                self._events = self._open_events(tf)
            self._events.write(event.SerializeToString())
            self._events.flush()
        except (OSError, tf.errors.OpError) as error:
            self._events = None  # the file may end in the middle of an event: no other can follow
            self._events_from = time.monotonic() + _AGAIN
            reason = trouble(error) or str(error)
            print(f"warning: TensorBoard events can't be written: {reason}", file=sys.stderr, flush=True)

    def _open_events(self, tf: Any) -> Any:
        """Return a writer of a new file of events. `FileWriter` would hide a full disk from us in its own thread."""
        self._events_folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        writer = tf.io.TFRecordWriter(str(self._events_folder / name))
        writer.write(tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        return writer

    def _write(self, record: dict[str, Any]) -> None:
        self._lines.append(json.dumps(record).encode())


def _traffic() -> dict[str, int]:
    return dict(zip(("bytes_sent", "bytes_received"), sent_received(), strict=True))
