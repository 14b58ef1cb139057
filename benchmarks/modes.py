"""Every mode on a private cluster of 2 nodes: speed, bytes, accuracy after the same number of images.

`python -m benchmarks.modes [MODE …]`; about ten minutes for all on two cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import hpc_dl
from hpc_dl.errors import JobError, UserError
from hpc_dl.minicluster import MiniCluster

_IMAGES = 24_000
_BATCH = 32
# Mode: its settings, and how many batches make one global step.
_MODES = {
    "single": ({"nodes": 1}, 1),
    "async": ({"nodes": 2}, 1),
    "mixed": ({"nodes": 2, "towers": 2}, 2),
    "sync": ({"nodes": 2}, 2),
    "multiworker": ({"nodes": 2}, 2),
    "horovod": ({"nodes": 2}, 2),
}
_NETWORKS = {"resnet8": 0.05, "benchmarks.networks:fat": 0.005}


def measure(network: str, rate: float, mode: str) -> str:
    settings, batches = _MODES[mode]
    steps = _IMAGES // _BATCH // batches
    job = hpc_dl.submit(
        "train",
        site="minicluster",
        mode=mode,
        gpus=0,
        model=network,
        steps=steps,
        batch=_BATCH,
        learning_rate=rate,
        log_every=20,
        checkpoint_every=steps,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
        **settings,
    )
    found = job.result()
    moved = found["bytes_per_step"]
    size = 4 * found["parameters"]

    def share(role: str, key: str) -> str:
        values = [of[key] / size for task, of in moved.items() if task.startswith(role) and key in of]
        return f"{sum(values) / len(values):.3f}" if values else "-"

    return (
        f"{network.rpartition(':')[2]:<8} {mode:<12} {found['steps']:>5} {found['steps_per_s']:>8.1f}"
        f" {found['images_per_s']:>9.0f} {size / 1e6:>7.2f} {share('worker', 'bytes_sent'):>8}"
        f" {share('worker', 'bytes_received'):>8} {share('ps', 'bytes_sent'):>8} {share('ps', 'bytes_received'):>8}"
        f" {found['test_accuracy']:>8.4f}"
    )


def row(network: str, rate: float, mode: str) -> str:
    try:
        return measure(network, rate, mode)
    except (UserError, JobError) as error:  # such as a Horovod that is not built: the others still count
        return f"{network:<8} {mode:<12} {error}"


def main() -> int:
    modes = sys.argv[1:] or list(_MODES)
    if unknown := set(modes) - set(_MODES):
        print(f"unknown mode {sorted(unknown)}; known: {', '.join(_MODES)}", file=sys.stderr)
        return 2
    print(f"{_IMAGES} images of digits, batch {_BATCH}, 2 nodes; bytes per step in sizes of the model")
    print(
        f"{'network':<8} {'mode':<12} {'steps':>5} {'steps/s':>8} {'images/s':>9} {'MB':>7} {'w sent':>8} {'w recv':>8}"
        f" {'ps sent':>8} {'ps recv':>8} {'accuracy':>8}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="hd") as folder:
        os.chdir(folder)
        with MiniCluster(Path(folder) / "c") as cluster:
            os.environ.update(cluster.env())
            for network, rate in _NETWORKS.items():
                for mode in modes:
                    print(row(network, rate, mode), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
