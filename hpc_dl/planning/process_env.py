"""Environment variables of a job's single processes, in addition to the job's own."""

from __future__ import annotations

from hpc_dl import gpus
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.placement import Process
from hpc_dl.spec.site import Site
from hpc_dl.tensorflow_env import legacy_keras


def variables(process: Process, job: JobSpec, site: Site) -> dict[str, str]:
    """Return the environment variables of one process, without those that ``env`` of the job or the site sets."""
    threads = str(process.threads)
    own = {
        **gpus.variables(site.gpu_vendor, process.gpus),
        "OMP_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        # A function of tf.distribute may block one of these threads until another has run: with a single one it hangs.
        "TF_NUM_INTEROP_THREADS": str(max(2, process.threads)) if job.script else threads,
    }
    return {key: value for key, value in own.items() if key not in {**site.env, **job.env}}


def script_defaults(job: JobSpec) -> dict[str, str]:
    """Return default variables for the processes of a user's own Python script; the user's own settings win.

    If several processes train together, ``tf.keras`` is Keras 2: neither Horovod nor TensorFlow's
    MultiWorkerMirroredStrategy and ParameterServerStrategy train a model of Keras 3.
    """
    together = job.script.endswith(".py") and MODES[job.mode].worker_per != "job"
    return legacy_keras() if together else {}
