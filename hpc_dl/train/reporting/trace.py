"""Traces of single steps, for Perfetto (https://ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import tensorflow as tf
from tensorflow.python.client import timeline  # `tf` does not export it

from hpc_dl.disk import write_whole
from hpc_dl.train import session
from hpc_dl.train.options import Options

tf1 = tf.compat.v1


def step_function(running: Any, outputs: tuple[Any, ...], options: Options, task: str) -> Any:
    """Return a function that makes a step, as `session.function` does, and writes traces of the chosen steps.

    `options.trace_steps` counts this process's own steps, from 1. A trace shows each operation and when it ran, on this
    process and on the parameter servers. The first traced step takes longer than its trace shows, since TensorFlow
    prepares the graph once more.

    Args:
        running: a session.
        outputs: what a step computes.
        options: trace_steps, run_dir.
        task: name of this process, such as ``worker-3``.
    """
    plain = session.function(running, outputs)
    if not options.trace_steps:
        return plain
    numbers = itertools.count(1)

    def step() -> Any:
        if (number := next(numbers)) not in options.trace_steps:
            return plain()
        seen = tf1.RunMetadata()
        level = tf1.RunOptions(trace_level=tf1.RunOptions.FULL_TRACE)
        values = running.run(list(outputs), options=level, run_metadata=seen)
        text = timeline.Timeline(seen.step_stats).generate_chrome_trace_format()
        try:
            folder = options.run_dir / "traces"
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / f"{task}-step-{number}.json", text)
        except OSError as error:
            print(f"warning: the trace of step {number} is lost: {error.strerror}", file=sys.stderr, flush=True)
        return values

    return step
