"""Batch-job toolkit: train deep networks on several nodes of a Slurm GPU cluster from one job description.

>>> import hpc_dl
>>> job = hpc_dl.submit("train", nodes=2, mode="async")  # doctest: +SKIP
>>> job.result()["test_accuracy"]  # doctest: +SKIP
0.97

Nothing here imports TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_dl.api import load, map, plan, states, submit, watch  # noqa: A004 - its name here
    from hpc_dl.errors import JobError, UserError
    from hpc_dl.executor.executor import Executor
    from hpc_dl.submission.handle import Job

__all__ = ["Executor", "Job", "JobError", "UserError", "load", "map", "plan", "states", "submit", "watch"]

_HOMES = {"Executor": "executor.executor", "Job": "submission.handle", "JobError": "errors", "UserError": "errors"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that the command line starts fast."""
    if name not in __all__:
        raise AttributeError(f"module 'hpc_dl' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"hpc_dl.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    # Neither modules nor what this file imports: `hpc_dl.<TAB>` shows the API.
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
