"""The training program, ``python -m hpc_dl.train``: it knows TensorFlow and TF_CONFIG, and nothing of Slurm.

Importing this module does not import TensorFlow: modes are checked on login nodes.
"""

from __future__ import annotations

MODES: dict[str, str] = {
    # Name of the mode: module with `run(options, cluster, metrics, stop) -> exit code`.
    "single": "hpc_dl.train.modes.single",
    "async": "hpc_dl.train.modes.parameter_servers",
    "mixed": "hpc_dl.train.modes.parameter_servers",
    "sync": "hpc_dl.train.modes.parameter_servers",
    "horovod": "hpc_dl.train.modes.horovod",
    "multiworker": "hpc_dl.train.modes.multiworker",
}

ALL_REDUCE = ("horovod", "multiworker")

ONLY_IN: dict[str, tuple[str, ...]] = {
    # Setting: the modes in which it means something.
    "towers": ("mixed", "single"),
    "backup_workers": ("sync",),
    "staleness": ("async", "mixed"),
    "n_fetch": ("async", "mixed"),
    "n_push": ("async", "mixed"),
    "restart_timeout": ("async", "mixed", "sync"),
    "compression": ("async", "mixed", "sync", *ALL_REDUCE),
    "trace_steps": ("async", "mixed", "sync", "single"),
    "scale_lr": ALL_REDUCE,
    "warmup_steps": ALL_REDUCE,
    "fusion_mb": ALL_REDUCE,
    "cycle_ms": ("horovod",),
}
COMPRESSIONS = ("none", "fp16", "1bit")
