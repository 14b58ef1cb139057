"""``python -m hpc_dl.train``: one process of a training run."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from hpc_dl import tensorflow_env
from hpc_dl.errors import JobError, UserError
from hpc_dl.spec.modes import MODES
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.disk import patiently, tolerant
from hpc_dl.train.heartbeat import heartbeat
from hpc_dl.train.options import parse
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.stop import Stop
from hpc_dl.train.tf_config import Cluster, from_tf_config


def main(arguments: Sequence[str]) -> int:
    """Run this process's part of the training and return its exit code.

    0: done. 1: an error that a restart would only repeat. 2: the user's error. 74: the disk was in trouble for too
    long. 75: contact with a peer was lost, or a later attempt has taken over; a restart helps. 130: ended by SIGINT.
    143: ended by SIGTERM; the chief saves before that.
    """
    stop = Stop()
    # The user's own networks can be imported. Their folder comes last: a random.py in it must not hide Python's.
    sys.path.append("")
    try:
        options = parse(arguments)
        cluster = from_tf_config(os.environ.get("TF_CONFIG"))
        stop.listen()
        heartbeat.start()
        attempt = Attempt(options.run_dir)
        patiently("the run folder can't be read", attempt.check, options.disk_patience)
        metrics = Metrics(options.run_dir, cluster.task, options.steps, options.worker_batch)
        if ":" in options.model:
            _keep_generated_code(options.run_dir / "generated")
        tensorflow_env.before_import()
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        mode = importlib.import_module(MODES[options.mode].module)
        metrics.event("imported", attempt=attempt.number, devices=_devices(cluster))
        return int(mode.run(options, cluster, metrics, stop))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except JobError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("ended by SIGINT", file=sys.stderr, flush=True)
        return 130


def _keep_generated_code(folder: Path) -> None:
    """Let temporary files go to `folder`: AutoGraph writes one for each function of a user's own network.

    A killed process can't remove these files. In ``/tmp`` they would stay for ever.
    """
    with contextlib.suppress(OSError):  # the disk is full: the files go to their usual folder
        folder.mkdir(exist_ok=True)
        tempfile.tempdir = str(folder)


def _devices(cluster: Cluster) -> list[str]:
    from hpc_dl.train.devices import devices  # imports TensorFlow

    return devices() if cluster.task_type == "worker" else ["CPU"]


if __name__ == "__main__":
    sys.stdout, sys.stderr = tolerant(sys.stdout), tolerant(sys.stderr)
    try:
        code = main(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # TensorFlow's server can't be stopped, and its threads can hang the interpreter's shutdown.
    os._exit(code)
