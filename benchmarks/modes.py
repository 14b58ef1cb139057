"""Every mode on a private cluster of 2 nodes: speed, bytes, accuracy after the same number of images.

    python -m benchmarks modes [MODE …] [--networks fat]

All rows take about fifteen minutes on two cores. The rows of a network have the same learning rate, divided by 10 after
60 % and 85 % of the steps.

The exit code is 1 if a row is below 90 % accuracy, or if, with the large network, a row's bytes are not those that its
method needs. A ring needs 2 (N-1)/N sizes of the model per rank and step, a ps 2 sizes per worker and step (each within
10 %). Of the gradients that a worker sends, fp16 leaves 1/2 (within 10 %) and 1bit less than 1/16.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hpc_dl
from hpc_dl.errors import JobError, UserError
from hpc_dl.minicluster import MiniCluster

_IMAGES = 24_000
_BATCH = 32
_WORKERS = 2
_ACCURACY = 0.9
_TOLERANCE = 0.1
# In these modes one node has a ps beside a worker.
_PS_MODES = ("async", "mixed", "sync")


@dataclass(frozen=True)
class Row:
    """A mode and its settings."""

    mode: str
    batches: int = 1  # per global step
    settings: dict[str, Any] = field(default_factory=dict)
    saver: str = "none"

    @property
    def name(self) -> str:
        return self.mode if self.saver == "none" else f"{self.mode} {self.saver}"


_ROWS = [
    Row("single", settings={"nodes": 1}),
    Row("async"),
    Row("mixed", 2, {"towers": 2}),
    Row("sync", 2),
    Row("multiworker", 2),
    Row("horovod", 2),
]
_SAVERS = [Row("async", saver="fp16"), Row("async", saver="1bit"), Row("horovod", 2, saver="fp16")]
_LARGE = "fat"
_NETWORKS = {"resnet8": ("resnet8", 0.05), _LARGE: ("benchmarks.networks:fat", 0.005)}


def train(network: str, row: Row) -> dict[str, Any]:
    """Run one job to its end and return its result."""
    model, rate = _NETWORKS[network]
    steps = _IMAGES // _BATCH // row.batches
    job = hpc_dl.submit(
        "train",
        site="minicluster",
        mode=row.mode,
        gpus=0,
        model=model,
        steps=steps,
        batch=_BATCH,
        learning_rate=rate,
        lr_boundaries=[steps * 60 // 100, steps * 85 // 100],
        log_every=20,
        checkpoint_every=steps,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        **{"nodes": _WORKERS, **row.settings, **({} if row.saver == "none" else {"compression": row.saver})},
    )
    return job.result()


def sizes(result: dict[str, Any], role: str, key: str) -> float:
    """Return the bytes per step of a process of this role, a mean in sizes of the model; 0 if there is none."""
    moved = [of[key] for task, of in result["bytes_per_step"].items() if task.startswith(role)]
    return sum(moved) / len(moved) / (4 * result["parameters"]) if moved else 0.0


def checked(row: Row, result: dict[str, Any]) -> tuple[str, bool]:
    """Return the measured share of the bytes that the method needs, as text, and whether it is within the limits.

    Bytes are per step of one worker, also for the ps: in `sync` a global step has one such step of each worker.
    """
    ps, ring = row.mode in _PS_MODES, row.mode in ("multiworker", "horovod")
    if row.saver != "none":
        found = sizes(result, "worker", "bytes_sent") / (1.0 if ps else 2 * (_WORKERS - 1) / _WORKERS)
        good = found < 1 / 16 if row.saver == "1bit" else abs(found / 0.5 - 1) <= _TOLERANCE
        return f"gradients {found:.3f}", good
    if ring:
        found = sizes(result, "worker", "bytes_sent") / (2 * (_WORKERS - 1) / _WORKERS)
        return f"ring {found:.3f}", abs(found - 1) <= _TOLERANCE
    if ps:
        found = (sizes(result, "ps", "bytes_sent") + sizes(result, "ps", "bytes_received")) / 2
        return f"ps {found:.3f}", abs(found - 1) <= _TOLERANCE
    return "-", True


def line(network: str, row: Row) -> tuple[str, bool]:
    """Return a row of the table, and whether accuracy and bytes are right."""
    try:
        result = train(network, row)
    except (UserError, JobError) as error:  # such as no Horovod: the other rows are still measured
        return f"{network:<8} {row.name:<12} {error}", False
    text, good = checked(row, result)
    good = (good or network != _LARGE) and result["test_accuracy"] >= _ACCURACY
    moved = [
        sizes(result, role, f"bytes_{way}") for role in ("worker", "ps") for way in ("sent", "received")
    ]  # fmt: skip
    return (
        f"{network:<8} {row.name:<12} {result['steps']:>5} {result['steps_per_s']:>8.1f} {result['images_per_s']:>9.0f}"
        f" {4e-6 * result['parameters']:>7.2f} {' '.join(f'{size:>8.3f}' for size in moved)}"
        f" {text:>15} {result['test_accuracy']:>8.4f} {'' if good else ' FAILED'}".rstrip(),
        good,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"{', '.join(row.mode for row in _ROWS)} (all)")
    parser.add_argument("--networks", default=",".join(_NETWORKS), help="(default: %(default)s)")
    options = parser.parse_args()
    for found, known in ((options.modes, [row.mode for row in _ROWS]), (options.networks.split(","), _NETWORKS)):
        if unknown := set(found) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    print(f"{_IMAGES} images of digits, batch {_BATCH}, {_WORKERS} nodes; bytes per step in sizes of the model, and")
    print("as shares of what the method needs uncompressed: ring 2 (N-1)/N, ps 2, gradients to the ps 1")
    print(
        f"{'network':<8} {'mode':<12} {'steps':>5} {'steps/s':>8} {'images/s':>9} {'MB':>7} {'w sent':>8} {'w recv':>8}"
        f" {'ps sent':>8} {'ps recv':>8} {'share':>15} {'accuracy':>8}",
        flush=True,
    )
    all_good = True
    with tempfile.TemporaryDirectory(prefix="hd") as folder:
        os.chdir(folder)
        with MiniCluster(Path(folder) / "c") as cluster:
            os.environ.update(cluster.env())
            for network in options.networks.split(","):
                for row in [*_ROWS, *(_SAVERS if network == _LARGE else [])]:
                    if row.mode in (options.modes or [row.mode]):
                        text, good = line(network, row)
                        all_good = all_good and good
                        print(text, flush=True)
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
