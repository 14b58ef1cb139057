"""Unchanged scripts of other frameworks, on two nodes. The lock has neither, so they are named by hand:

HPC_DL_TEST_TORCH=/usr/bin/python3 HPC_DL_TEST_JAX=/envs/jax/bin/python pytest tests/slurm/test_frameworks.py

On Debian, python3-torch is a PyTorch for CPUs; `pip install jax` has one of JAX.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import hpc_dl
from hpc_dl.minicluster import MiniCluster

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.mark.parametrize(
    ("variable", "script", "says"),
    [
        ("HPC_DL_TEST_TORCH", "torch_ddp.py", "rank {} of 4: loss 0.0"),
        ("HPC_DL_TEST_JAX", "jax_allgather.py", "process {} of 4: mean 1.50, 4 devices"),
    ],
)
def test_an_unchanged_script_runs_in_its_own_environment(
    variable: str, script: str, says: str, cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (python := os.environ.get(variable)):
        pytest.skip(f"{variable} names no Python")
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    job = hpc_dl.submit(
        site="minicluster",
        mode="multiworker",
        nodes=2,
        gpus=2,
        visible_gpus="node",
        script=str(SCRIPTS / script),
        python=python,
    )
    job.result(timeout=120)
    for number in range(4):
        assert says.format(number) in job.run.log_of(f"worker:{number}").read_text()
