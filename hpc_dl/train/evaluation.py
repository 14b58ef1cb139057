"""Evaluation on the test set, and the end of a run: ``RUN/result.json``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from hpc_dl.disk import write_whole
from hpc_dl.train import session
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.checkpoints.best import Best
from hpc_dl.train.disk import patiently, trouble
from hpc_dl.train.graph import training
from hpc_dl.train.loop import Progress
from hpc_dl.train.options import Options
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.tf_config import Cluster

tf1 = tf.compat.v1


class Evaluation:
    """Evaluates a saved network on the whole test set, each image once, in this process alone."""

    def __init__(self, options: Options) -> None:
        """Build the graph, once for all checkpoints."""
        self._graph = tf.Graph()
        with self._graph.as_default():
            test = training.testing(options)
            self._saver = tf1.train.Saver()
            self._local = session.start()
            self._start_input = test.start_input
            self._next_batch = session.function(self._local, test.outputs)

    def __call__(self, checkpoint: str) -> tuple[float, Any]:
        """Return the mean cross entropy and the confusion matrix: number of images [true class, predicted class]."""
        losses, confusion = 0.0, 0
        with self._graph.as_default():
            self._saver.restore(self._local, checkpoint)
        self._local.run(self._start_input)
        while True:
            try:
                batch_losses, batch_confusion = self._next_batch()
            except tf.errors.OutOfRangeError:
                return losses / int(np.sum(confusion)), confusion
            losses += float(batch_losses)
            confusion = confusion + batch_confusion


def accuracy(confusion: Any) -> float:
    """Return the share of images on the diagonal: they are classified right."""
    return int(confusion.trace()) / int(confusion.sum())


Save = Callable[[int], str | None]


def evaluated(options: Options, metrics: Metrics, save: Save) -> Save:
    """Return a `save` that also evaluates some of the checkpoints that it writes, and keeps the best one.

    It evaluates the first checkpoint at or after each multiple of `options.eval_every` steps. With 0 it evaluates none.
    """
    if not options.eval_every:
        return save
    best = Best(options.run_dir)
    evaluation: Evaluation | None = None
    last = 0

    def save_and_evaluate(step: int) -> str | None:
        nonlocal evaluation, last
        checkpoint = save(step)
        if checkpoint and step // options.eval_every > last // options.eval_every:
            evaluation = evaluation or Evaluation(options)
            try:
                test_loss, confusion = evaluation(checkpoint)
            except Exception as error:
                if not (reason := trouble(error)):
                    raise
                print(f"warning: checkpoint {checkpoint} can't be read: {reason}", file=sys.stderr, flush=True)
                return checkpoint
            last = step
            values = {"test_loss": test_loss, "test_accuracy": accuracy(confusion)}
            metrics.event("evaluated", step=step, **values)
            metrics.scalars(step, values)
            _offer(best, checkpoint, step, values["test_accuracy"])
        return checkpoint

    return save_and_evaluate


def _offer(best: Best, checkpoint: str, step: int, test_accuracy: float) -> None:
    try:
        best.offer(checkpoint, step, test_accuracy)
    except OSError as error:
        print(f"warning: the best checkpoint can't be kept: {trouble(error)}", file=sys.stderr, flush=True)


def finish(
    options: Options,
    cluster: Cluster,
    metrics: Metrics,
    progress: Progress,
    checkpoint: str,
    parameters: int,
    lost_workers: list[int] | None = None,
    replicas: int = 1,
    details: dict[str, Any] | None = None,
) -> None:
    """Evaluate the final checkpoint and write the result, atomically.

    Args:
        options: mode, model, data.
        cluster: the processes of the run.
        metrics: gets the test set's loss and accuracy.
        progress: where the loop ended.
        checkpoint: prefix of the final checkpoint.
        parameters: number of trained parameters.
        lost_workers: indices of the workers that did not report their end.
        replicas: number of workers' batches in one global step.
        details: further keys of the result.

    Raises:
        PeerLostError: a later attempt has taken over.
        DiskError: for `options.disk_patience` the checkpoint could not be read, or the result could not be written.
    """
    metrics.event("evaluating")
    evaluation = Evaluation(options)
    what = "the last checkpoint can't be read"
    test_loss, confusion = patiently(what, lambda: evaluation(checkpoint), options.disk_patience)
    test_images, test_accuracy = int(confusion.sum()), accuracy(confusion)
    best = Best(options.run_dir)
    if options.eval_every:
        _offer(best, checkpoint, progress.step, test_accuracy)
    metrics.scalars(progress.step, {"test_loss": test_loss, "test_accuracy": test_accuracy})
    steps = progress.step - progress.start_step  # a continued run counts its own steps and images
    rate = steps / progress.seconds if steps else 0.0
    batch = options.worker_batch * replicas  # images of one global step
    result = {
        "mode": options.mode,
        "model": options.model,
        "data": options.data,
        "steps": progress.step,
        "start_step": progress.start_step,
        "images": steps * batch,
        "workers": len(cluster.workers),
        "ps": len(cluster.ps),
        "seconds": progress.seconds,
        "steps_per_s": rate,
        "images_per_s": rate * batch,
        "train_loss": progress.loss if progress.local_steps else None,
        "test_loss": test_loss if math.isfinite(test_loss) else None,  # JSON has no infinity
        "test_accuracy": test_accuracy,
        "test_images": test_images,
        "parameters": parameters,
        "lost_workers": lost_workers or [],
        "confusion": confusion.tolist(),
        **(details or {}),
        **({"best_step": best.step, "best_test_accuracy": best.test_accuracy} if options.eval_every else {}),
    }
    patiently("the result can't be written", lambda: write(options, result), options.disk_patience)
    print(f"test accuracy {test_accuracy:.4f}  loss {test_loss:.4f}  on {test_images} images", flush=True)
    metrics.event("done")


def write(options: Options, result: dict[str, Any]) -> None:
    """Write ``result.json`` atomically.

    Raises:
        PeerLostError: a later attempt has taken over.
    """
    text = json.dumps(result, indent=1) + "\n"
    write_whole(options.run_dir / "result.json", text, Attempt(options.run_dir).check)
