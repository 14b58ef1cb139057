"""The training loop, the same for every mode. The mode provides the function that makes a step."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from hpc_dl.errors import JobError
from hpc_dl.train.heartbeat import heartbeat
from hpc_dl.train.options import Options
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.stop import Stop

_SAVE_AGAIN = 30.0  # seconds until a failed checkpoint is retried

StepFunction = Callable[[], tuple[int, float, float]]
"""Makes a step. Returns the global step after it, and the loss and accuracy of its batch."""


@dataclass(frozen=True)
class Progress:
    """Where the loop ended: the last step's outputs, and the seconds that the loop took."""

    start_step: int
    step: int
    local_steps: int
    loss: float
    accuracy: float
    seconds: float


def train(
    step_function: StepFunction,
    start_step: int,
    options: Options,
    metrics: Metrics,
    stop: Stop,
    save: Callable[[int], str | None] | None = None,
) -> Progress:
    """Make steps until the global step reaches `options.steps`, or until SIGTERM.

    Args:
        step_function: makes one step.
        start_step: the global step now.
        options: steps, checkpoint_every, log_every.
        metrics: gets a line after the first step, after every `log_every` steps of this process, and at the end.
            Then it gets a summary of the loop.
        stop: ends the loop early.
        save: writes a checkpoint of the given global step. It returns None if that failed; then it is called again
            soon. None in processes that don't save.

    Raises:
        JobError: the loss is not finite any more.
    """
    begin = time.monotonic()
    step, local_steps, logged, loss, accuracy = start_step, 0, 0, float("nan"), float("nan")
    next_save, save_again = _next(start_step, options.checkpoint_every), math.inf
    step_seconds = array("d")
    metrics.start(start_step)
    heartbeat.step()
    while step < options.steps and not stop.requested:
        step_begin = time.perf_counter()
        step, loss, accuracy = step_function()
        step_seconds.append(time.perf_counter() - step_begin)
        local_steps += 1
        if not math.isfinite(loss):  # before this step is saved
            raise JobError(f"the loss is {loss} at step {step}: try a lower --learning-rate")
        if local_steps == 1 or local_steps % options.log_every == 0:
            if local_steps == 1:
                metrics.event("first_step", after=int(start_step))
            metrics.line(int(step), local_steps, float(loss), float(accuracy))
            logged = local_steps
        if save and (step >= next_save or time.monotonic() > save_again):
            heartbeat.rest()
            save_again = math.inf if save(int(step)) else time.monotonic() + _SAVE_AGAIN
            next_save = _next(int(step), options.checkpoint_every)
        heartbeat.step()
    heartbeat.rest()
    if logged < local_steps:
        metrics.line(int(step), local_steps, float(loss), float(accuracy))
    metrics.end(step_seconds)
    return Progress(start_step, int(step), local_steps, float(loss), float(accuracy), time.monotonic() - begin)


def _next(step: int, every: int) -> int:
    """Return the first multiple of `every` above `step`."""
    return (step // every + 1) * every
