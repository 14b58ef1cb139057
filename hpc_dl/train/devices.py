"""The devices that a process computes on."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import tensorflow as tf

from hpc_dl.errors import UserError
from hpc_dl.gpus import VARIABLES


def devices() -> list[str]:
    """Return the names of this process's GPUs, such as ``NVIDIA H200``; ``CPU`` where it has none.

    Raises:
        UserError: the process was given GPUs, but TensorFlow sees none.
    """
    if gpus := tf.config.list_physical_devices("GPU"):
        return [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    vendor = next((name for name, variable in VARIABLES.items() if variable in os.environ), "other")
    given = os.environ.get(VARIABLES[vendor], "")
    if re.match(r"\d|GPU-|MIG-", given):  # -1 and Slurm's NoDevFiles mean no GPU
        what = f"{VARIABLES[vendor]} gives this process GPUs ({given}), but TensorFlow sees none"
        if not os.environ.get("HPC_DL_FAKE_GPUS"):
            raise UserError(f"{what}: {_likely_cause(vendor)}")
        print(f"fake_gpus = true in the site file: {what}; it computes on its cores", file=sys.stderr, flush=True)
    return ["CPU"]


def _likely_cause(vendor: str) -> str:
    if vendor == "amd":
        if not tf.test.is_built_with_rocm():
            return f"TensorFlow {tf.__version__} in {sys.prefix} is not built for AMD GPUs; tensorflow-rocm is"
        driver = Path("/dev/kfd").exists()
        return "see rocm-smi, and modules in the site file" if driver else "this node has no /dev/kfd, so no AMD driver"
    if not tf.test.is_built_with_gpu_support():
        return f"TensorFlow {tf.__version__} in {sys.prefix} is built for CPUs; `make setup KIND=gpu` for GPUs"
    if not Path("/proc/driver/nvidia/version").exists():
        return "this node has no NVIDIA driver; nvidia-smi there says more"
    build = tf.sysconfig.get_build_info()
    return (
        f"its libraries, CUDA {build.get('cuda_version')} and cuDNN {build.get('cudnn_version')}, are not found, or"
        " they are too new for the driver; see modules in the site file, and nvidia-smi"
    )
