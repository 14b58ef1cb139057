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


def test_the_training_program_knows_nothing_of_jobs_sites_and_slurm() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORT_ALL], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = {name.split(".")[1] for name in loaded if name.startswith("hpc_dl.")}
    assert ours == {"data", "disk", "errors", "models", "runfolder", "tensorflow_env", "train"}
    assert {name for name in loaded if name.startswith("hpc_dl.runfolder.")} == {"hpc_dl.runfolder.checkpoints"}
    assert not loaded & {"msgspec", "jinja2", "tomli_w", "submitit", "click"}
