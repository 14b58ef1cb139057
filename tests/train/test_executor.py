"""Functions that need what a mode has: parameter servers, MPI."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import submitit

import hpc_dl
from hpc_dl.spec.modes import MODES


@pytest.mark.timeout(300)
def test_one_function_in_all_modes(horovod: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def share_of_sum(numbers: list[int]) -> tuple[int, list[str]]:
        """Return the sum of this task's share of numbers, worked out as the mode has it, and the roles of the job."""
        env = submitit.JobEnvironment()
        share = sum(numbers[env.global_rank :: env.num_tasks])
        cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
        if "ps" in cluster:
            from tensorflow import compat, constant  # on the parameter server

            with compat.v1.Graph().as_default(), compat.v1.device("/job:ps/task:0"):
                doubled = constant(share) + constant(share)
                filters = compat.v1.ConfigProto(device_filters=["/job:ps"])
                with compat.v1.Session(f"grpc://{cluster['ps'][0]}", config=filters) as session:
                    share = int(session.run(doubled)) // 2
        elif "OMPI_COMM_WORLD_RANK" in os.environ:
            from mpi4py import MPI

            share = MPI.COMM_WORLD.allgather(share)[env.global_rank]
        return share, sorted(cluster)

    executor = hpc_dl.Executor("logs", site="local")
    jobs: dict[str, submitit.Job[Any]] = {}
    for mode in MODES:
        executor.update_parameters(mode=mode, tasks_per_node=1 if mode == "single" else 2)
        jobs[mode] = executor.submit(share_of_sum, list(range(10)))
    try:
        found = {mode: job.results() for mode, job in jobs.items()}
    finally:
        for job in jobs.values():
            job.cancel(check=False)
    assert {mode: sum(share for share, _ in results) for mode, results in found.items()} == dict.fromkeys(MODES, 45)
    assert {mode: results[0][1] for mode, results in found.items()} == {
        mode: ["ps", "worker"] if MODES[mode].parameter_servers else ["worker"] for mode in MODES
    }
