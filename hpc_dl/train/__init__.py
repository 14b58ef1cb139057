"""The training program, ``python -m hpc_dl.train``: it knows TensorFlow and TF_CONFIG, and nothing of Slurm.

Importing this module does not import TensorFlow: modes are checked on login nodes.
"""

from __future__ import annotations

MODES: dict[str, str] = {
    # Name of the mode: module with `run(options, cluster, metrics, stop) -> exit code`.
    "single": "hpc_dl.train.single",
    "async": "hpc_dl.train.between_graph",
    "horovod": "hpc_dl.train.horovod",
    "multiworker": "hpc_dl.train.multiworker",
}
