"""What the training program is made of."""

from __future__ import annotations

import subprocess
import sys

_IMPORT_ALL = """
import importlib, pkgutil, sys
import hpc_dl.train
for module in pkgutil.walk_packages(hpc_dl.train.__path__, "hpc_dl.train."):
    if module.name != "hpc_dl.train.modes.horovod":  # it may not be built
        importlib.import_module(module.name)
print(*sys.modules)
"""


_SETTINGS = ("layers", "modes", "options", "training")


def test_the_training_program_knows_nothing_of_jobs_sites_and_slurm() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORT_ALL], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = {name.removeprefix("hpc_dl.") for name in loaded if name.startswith("hpc_dl.")}
    parts = {name.partition(".")[0] for name in ours}
    assert parts == {"data", "disk", "errors", "models", "runfolder", "spec", "tensorflow_env", "train"}
    assert {name for name in ours if name.startswith("runfolder.")} == {"runfolder.checkpoints"}
    assert {name for name in ours if name.startswith("spec.")} == {f"spec.{name}" for name in _SETTINGS}
    assert not loaded & {"jinja2", "tomli_w", "submitit", "ClusterShell"}
