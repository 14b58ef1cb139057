"""The environments of the processes of a launcher."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hpc_dl.node.environment import Environment
from hpc_dl.node.process import ProcessLine
from hpc_dl.planning.place import expected_facts, place, resolve
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site

SITE = Site(name="s", cores=8, gpus=2)
WORKER, PS = ProcessLine("worker", 1, {"OMP_NUM_THREADS": "3"}, ("true",)), ProcessLine("ps", 0, {}, ("true",))
SHELL = {"PATH": "/bin", "RANK": "7", "MASTER_PORT": "1"}  # of a torchrun around the shell that submitted


def folder(path: Path, placed: bool = True) -> RunFolder:
    run = RunFolder(path)
    job = resolve(JobSpec(nodes=2, gpus=1, mode="async", script="/w/own.py"), SITE)
    placement = place(job, SITE, expected_facts(job, SITE, ["n1", "n2"]))
    run.cluster.write_bytes(msgspec.json.encode(placement.cluster()))
    if placed:
        run.placement.write_bytes(msgspec.json.encode(placement))
    return run


def test_a_process_has_the_numbers_of_its_own_rank(tmp_path: Path) -> None:
    environment = Environment(folder(tmp_path), SHELL, 20)
    own = environment.of(WORKER)
    assert "MASTER_PORT" in own
    assert (own["RANK"], own["WORLD_SIZE"], own["NODE_RANK"]) == ("1", "2", "1")
    assert (own["OMP_NUM_THREADS"], own["HPC_DL_GRACE"]) == ("3", "20")
    assert '"index":1' in own["TF_CONFIG"]
    assert "RANK" not in environment.of(PS)


def test_what_the_job_sets_stays(tmp_path: Path) -> None:
    environment = Environment(folder(tmp_path), SHELL, 20, {"MASTER_PORT"})
    assert environment.of(WORKER)["MASTER_PORT"] == "1"
    assert environment.inside(WORKER)["MASTER_PORT"] == "1"


def test_without_a_placement_nothing_is_known_of_ranks(tmp_path: Path) -> None:
    environment = Environment(folder(tmp_path, placed=False), SHELL, 20)
    assert SHELL.items() <= environment.of(WORKER).items()
    assert "WORLD_SIZE" not in environment.of(WORKER)
