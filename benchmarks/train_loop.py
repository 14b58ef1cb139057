"""What does our training loop cost? Steps/s of ``hpc_dl.train --mode single`` against the shortest program.

The shortest program is a bare `tf.function` step in a Python loop: same network, same input pipeline, same optimizer,
weight decay and batch norm updates. Both run in fresh processes, in turns; medians and their ratio are printed.

    python benchmarks/train_loop.py --model small --data digits --steps 2000 --runs 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP = 0.2  # share of the steps that is not counted


def ours(options: argparse.Namespace) -> float:
    """Return steps/s of the training program, from its own metrics."""
    with tempfile.TemporaryDirectory() as folder:
        every = max(1, int(options.steps * WARM_UP))
        command = [sys.executable, "-m", "hpc_dl.train", "--run-dir", folder, "--log-every", str(every)]
        command += ["--checkpoint-every", str(10 * options.steps), *_common(options)]
        subprocess.run(command, check=True, capture_output=True)
        text = (Path(folder) / "metrics" / "worker-0.jsonl").read_text()
        lines = [line for line in map(json.loads, text.splitlines()) if line.get("local_step", 0) >= every]
    return float((lines[-1]["step"] - lines[0]["step"]) / (lines[-1]["time"] - lines[0]["time"]))


def bare(options: argparse.Namespace) -> float:
    """Return steps/s of the bare program, run in a process of its own."""
    command = [sys.executable, __file__, "--bare", *_common(options)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _common(options: argparse.Namespace) -> list[str]:
    return [
        word
        for name in ("model", "data", "data_dir", "batch", "steps")
        for word in (f"--{name.replace('_', '-')}", str(getattr(options, name)))
    ]


def run_bare(options: argparse.Namespace) -> float:
    """Train with a bare `tf.function` and return steps/s after the warm-up."""
    import tensorflow as tf

    from hpc_dl import models
    from hpc_dl.data import describe
    from hpc_dl.data.pipeline import train_batches
    from hpc_dl.models.keras import keras
    from hpc_dl.train.session import config

    threads = config()  # the same as ours
    tf.config.threading.set_intra_op_parallelism_threads(threads.intra_op_parallelism_threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads.inter_op_parallelism_threads)
    dataset = describe(options.data)
    model = models.build(options.model, dataset.shape, dataset.classes)
    optimizer = keras.optimizers.legacy.SGD(0.1, momentum=0.9, nesterov=True)
    batches = iter(train_batches(options.data, Path(options.data_dir), options.batch, seed=0))

    @tf.function  # type: ignore[untyped-decorator]
    def step(iterator: Any) -> Any:
        images, labels = next(iterator)
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        gradients = tape.gradient(loss, model.trainable_variables)
        decayed = [
            gradient + 1e-4 * variable if "kernel" in variable.name else gradient
            for gradient, variable in zip(gradients, model.trainable_variables, strict=True)
        ]
        optimizer.apply_gradients(zip(decayed, model.trainable_variables, strict=True))
        return loss

    warm_up = max(1, int(options.steps * WARM_UP))
    for _ in range(warm_up):
        step(batches)
    begin = time.perf_counter()
    for _ in range(options.steps - warm_up):
        loss = step(batches)
    float(loss)  # wait for the last step
    return float((options.steps - warm_up) / (time.perf_counter() - begin))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(run_bare(options))
        return
    subprocess.run(
        [sys.executable, "-m", "hpc_dl.data", "prepare", options.data, "--data-dir", options.data_dir],
        check=True,
        capture_output=True,
    )
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(options.runs):
        # Whoever comes second may find the machine warmer or busier: take turns.
        for name in ("ours", "bare") if number % 2 else ("bare", "ours"):
            rates[name].append({"ours": ours, "bare": bare}[name](options))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:5} {medians[name]:9.2f} steps/s  (runs: {', '.join(f'{value:.2f}' for value in values)})")
    print(f"ratio {medians['ours'] / medians['bare']:9.3f}  ({options.model}, {options.data}, batch {options.batch})")


if __name__ == "__main__":
    main()
