"""A private Slurm of several nodes on one host: any user, one folder, nothing left behind.

>>> with MiniCluster() as cluster:  # doctest: +SKIP
...     subprocess.run(["srun", "-N2", "hostname"], env=cluster.env(), check=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpc_dl.minicluster.root import default_root, running

if TYPE_CHECKING:
    from hpc_dl.minicluster.cluster import MiniCluster
    from hpc_dl.minicluster.config import ClusterConfig, NodeGroup, Partition

__all__ = ["ClusterConfig", "MiniCluster", "NodeGroup", "Partition", "default_root", "running"]


def __getattr__(name: str) -> Any:
    """Import the classes when they are first used, since each start of the command imports `running`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hpc_dl.minicluster import cluster

    return getattr(cluster, name)
