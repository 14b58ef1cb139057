"""The environment variables of a job's processes, beside those of the job itself."""

from __future__ import annotations

from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.placement import Process
from hpc_dl.spec.site import Site
from hpc_dl.tensorflow_env import legacy_keras


def variables(process: Process, job: JobSpec, site: Site) -> dict[str, str]:
    """Return the environment variables that are a process's own; the threads that ``env`` of job or site sets stay."""
    threads = str(process.threads)
    own = {
        "CUDA_VISIBLE_DEVICES": process.visible_gpus,
        "OMP_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        # A function of tf.distribute may block such a thread until another one has run: with one it waits for ever.
        "TF_NUM_INTEROP_THREADS": str(max(2, process.threads)) if job.script else threads,
    }
    return {key: value for key, value in own.items() if key not in {**site.env, **job.env}}


def script_defaults(job: JobSpec) -> dict[str, str]:
    """Return what the processes of a user's own Python script find set, where the user has not set it.

    Where several processes train together, ``tf.keras`` is Keras 2: neither Horovod nor TensorFlow's
    MultiWorkerMirroredStrategy and ParameterServerStrategy train a model of Keras 3.
    """
    together = job.script.endswith(".py") and MODES[job.mode].worker_per != "job"
    return legacy_keras() if together else {}
