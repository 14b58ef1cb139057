"""Environment variables of a job's single processes, in addition to the job's own."""

from __future__ import annotations

from hpc_dl import gpus
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.placement import Placement, Process
from hpc_dl.spec.site import Site
from hpc_dl.tensorflow_env import legacy_keras


def variables(process: Process, job: JobSpec, site: Site) -> dict[str, str]:
    """Return the environment variables of one process, without those that ``env`` of the job or the site sets."""
    threads = str(process.threads)
    own = {
        **gpus.variables(site.gpu_vendor, process.sees or process.gpus),
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
    together = job.script.endswith(".py") and not job.python and MODES[job.mode].worker_per != "job"
    return legacy_keras() if together else {}


RANK = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"}
RANK |= {"JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS", "JAX_LOCAL_DEVICE_IDS"}
"""The variables of a rank: what frameworks other than TensorFlow read of a process."""


def rank_variables(placement: Placement) -> dict[str, dict[str, str]]:
    """Return the variables of each rank by the name of its process.

    PyTorch's ``env://`` reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; torchrun sets LOCAL_RANK, LOCAL_WORLD_SIZE
    and NODE_RANK too. ``jax.distributed.initialize`` reads JAX_COORDINATOR_ADDRESS and JAX_LOCAL_DEVICE_IDS, and
    Slurm's own numbers. Ranks are counted node by node. A parameter server is no rank.
    """
    nodes = [[process for process in here if process.role != "ps"] for here in placement.by_node().values()]
    flat = [process for ranks in nodes for process in ranks]
    found: dict[str, dict[str, str]] = {}
    for node, ranks in enumerate(nodes):
        for local, process in enumerate(ranks):
            rank, size = str(len(found)), str(len(flat))
            found[process.name] = {
                "RANK": rank,
                "WORLD_SIZE": size,
                "LOCAL_RANK": str(local),
                "LOCAL_WORLD_SIZE": str(len(ranks)),
                "NODE_RANK": str(node),
                # The port is the first rank's own. Nothing else listens there: a script uses one framework.
                "MASTER_ADDR": flat[0].host,
                "MASTER_PORT": str(flat[0].port),
                "JAX_PROCESS_ID": rank,
                "JAX_NUM_PROCESSES": size,
                "JAX_COORDINATOR_ADDRESS": flat[0].address,
                **_local_devices(process),
            }
    return found


def _local_devices(process: Process) -> dict[str, str]:
    """Return which of the GPUs that it sees JAX takes. By default JAX takes the one whose number is SLURM_LOCALID."""
    sees = process.sees or process.gpus
    devices = ",".join(str(sees.index(gpu)) for gpu in process.gpus)
    return {"JAX_LOCAL_DEVICE_IDS": devices} if devices else {}
