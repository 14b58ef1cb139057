"""MPI ranks: what a rank is, and what is missing where there can't be any."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc_dl.errors import UserError
from hpc_dl.node.mpi_rank import mpi_rank, process_line, process_of
from hpc_dl.planning.place import expected_facts, place, resolve
from hpc_dl.planning.task_file import command
from hpc_dl.schedulers.slurm.mpi import parse_kinds
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site
from hpc_dl.submission import mpi_check

K80 = Site(name="k80", cores=16, gpus=4)


def placement(**settings: Any) -> Any:
    job = resolve(JobSpec(mode="horovod", nodes=2, **settings), K80)
    return place(job, K80, expected_facts(job, K80, ["n1", "n2"]))


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({"OMPI_COMM_WORLD_RANK": "3", "PMIX_RANK": "2", "SLURM_PROCID": "0"}, 3),
        ({"PMIX_RANK": "2", "SLURM_PROCID": "1"}, 2),
        ({"PMI_RANK": "1", "PMIX_RANK": "0", "SLURM_PROCID": "0"}, 1),
        ({"MV2_COMM_WORLD_RANK": "5", "SLURM_PROCID": "0"}, 5),
        ({"OMPI_COMM_WORLD_RANK": "", "SLURM_PROCID": "4"}, 4),
    ],
)
def test_the_rank_is_that_of_whoever_started_it(environ: dict[str, str], rank: int) -> None:
    assert mpi_rank(environ) == rank


def test_without_a_launcher_there_is_no_rank() -> None:
    with pytest.raises(
        UserError, match=r"none of OMPI_COMM_WORLD_RANK, .* is set: this command runs under mpirun or srun"
    ):
        mpi_rank({})


def test_a_rank_has_the_gpu_and_cores_of_its_worker() -> None:
    process = process_of(placement(), {"PMIX_RANK": "5", "SLURMD_NODENAME": "n2"})
    assert (process.name, process.node, process.visible_gpus, process.core_list) == ("worker:5", "n2", "1", "4-7")
    line = process_line(process, JobSpec(mode="horovod"), K80, ["python", "-m", "x"])
    assert (line.name, line.command) == ("worker:5", ("taskset", "-c", "4-7", "python", "-m", "x"))
    assert line.env == {
        "CUDA_VISIBLE_DEVICES": "1",
        "OMP_NUM_THREADS": "4",
        "TF_NUM_INTRAOP_THREADS": "4",
        "TF_NUM_INTEROP_THREADS": "4",
    }


def test_a_rank_that_is_not_placed_says_so() -> None:
    with pytest.raises(UserError, match="rank 8: the job has 8 workers; one rank is started for each"):
        process_of(placement(), {"PMIX_RANK": "8"})
    with pytest.raises(UserError, match="rank 4 runs on node n1, but its GPUs and cores are on n2"):
        process_of(placement(), {"PMIX_RANK": "4", "SLURMD_NODENAME": "n1"})


@pytest.mark.parametrize("mode", ["horovod", "multiworker"])
def test_all_reduce_has_one_worker_per_gpu_and_no_ps(mode: Any) -> None:
    job = resolve(JobSpec(mode=mode, nodes=2, gpus=2), K80)
    processes = place(job, K80, expected_facts(job, K80, ["n1", "n2"])).processes
    assert [process.name for process in processes] == ["worker:0", "worker:1", "worker:2", "worker:3"]
    assert job.ps is None
    changed = msgspec.structs.replace(job, scale_lr=False, warmup_steps=7, compression="fp16", fusion_mb=8.0)
    words = command(changed, K80, "/run")
    assert {"--no-scale-lr", "--warmup-steps=7", "--compression=fp16", "--fusion-mb=8.0"} <= set(words)


def check(site: Site, python: str = sys.executable, **settings: Any) -> None:
    mpi_check.check_mpi(JobSpec(**{"mode": "horovod", **settings}), site, python)


def test_missing_horovod_names_the_target_that_builds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"mode = 'horovod': Horovod is not in .*make setup-horovod.* mode 'multiworker'"
    ):
        check(Site(cores=1, scheduler="local", launcher="mpirun"))
    check(Site(cores=1, scheduler="local", launcher="mpirun"), mode="multiworker")
    check(Site(cores=1, python="/opt/python", modules=("horovod",)), "/opt/python")


def test_a_missing_mpi_launcher_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    python, script = str(tmp_path / "python"), "train.py"
    with pytest.raises(UserError, match="no mpirun on PATH: `make setup-horovod` brings one"):
        check(Site(cores=1, scheduler="local", launcher="mpirun"), python, script=script)
    with pytest.raises(UserError, match=r"srun of site 'x' can't start MPI .* set mpi or launcher = .mpirun"):
        check(Site(name="x", cores=1), python, script=script)
    with pytest.raises(UserError, match="no mpirun on PATH: set modules in the site file to those of mpich, or use"):
        check(Site(name="x", cores=1, launcher="mpirun", mpi_library="mpich"), python, script=script)
    with pytest.raises(UserError, match="no ibrun on PATH: set modules in the site file to those of MPI, or use"):
        check(Site(name="x", cores=1, launcher="ibrun"), python, script=script)
    check(Site(name="x", cores=1, launcher="ibrun", after_modules=("ml impi",)), python, script=script)
    check(Site(name="x", cores=1, mpi=""), python, script=script)
    for name in ("srun", "mpirun"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    check(Site(name="x", cores=1), python, script=script)
    check(Site(name="x", cores=1, launcher="mpirun"), python, script=script)


# What srun of Slurm 22.05 says.
_NO_LIBRARY = """\
srun: error:  mpi/pmix_v4: init: (null) [0]: mpi_pmix.c:195: pmi/pmix: can not load PMIx library
srun: error: Couldn't load specified plugin name for mpi/pmix: Plugin init() callback failed
srun: error: MPI: Cannot create context for mpi/pmix
srun: error: MPI: Unable to load any plugin
srun: error: Invalid MPI type 'pmix', --mpi=list for acceptable types
"""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (_NO_LIBRARY, "can not load PMIx library"),
        (
            "srun: error: Couldn't find the specified plugin name for mpi/pmix looking at all files\n"
            "srun: error: Invalid MPI type 'pmix', --mpi=list for acceptable types\n",
            "Couldn't find the specified plugin name for mpi/pmix looking at all files",
        ),
        # Slurm 20.11.
        (
            "srun: error: Couldn't find the specified plugin name for mpi/pmix looking at all files\n"
            "srun: error: invalid MPI type 'pmix', --mpi=list for acceptable types\n",
            "Couldn't find the specified plugin name for mpi/pmix looking at all files",
        ),
        ("srun: error: Unable to allocate resources: Invalid account specified\n", ""),
    ],
)
def test_srun_itself_says_whether_it_has_pmix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, reason: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "said").write_text(said)
    script = f'case $1 in --mpi=list) exit;; esac\necho "$@" >{tmp_path}/asked\ncat {tmp_path}/said >&2\nexit 1\n'
    (tmp_path / "srun").write_text(f"#!/bin/sh\n{script}")
    (tmp_path / "srun").chmod(0o755)
    site, python = Site(name="x", cores=1), str(tmp_path / "python")
    if reason:
        with pytest.raises(UserError, match=rf"srun --mpi=pmix: {reason}\): set mpi or launcher = .mpirun. .* 'multi"):
            check(site, python, script="train.py")
    else:
        check(site, python, script="train.py")
    assert (tmp_path / "asked").read_text().split() == ["--mpi=pmix", "--test-only", "--ntasks=1", "true"]


# What srun --mpi=list of Slurm 20.11, 22.05 and 24.11 prints.
_LISTS = {
    "srun: MPI types are...\nsrun: cray_shasta\nsrun: none\nsrun: pmi2\nsrun: pmix_v3\nsrun: pmix\n": [
        *("cray_shasta", "none", "pmi2", "pmix_v3", "pmix"),
    ],
    "MPI plugin types are...\n\tnone\n\tcray_shasta\n\tpmi2\n\tpmix\n"
    "specific pmix plugin versions available: pmix_v4\n": [
        *("none", "cray_shasta", "pmi2", "pmix", "pmix_v4"),
    ],
    "srun: error: no configuration\n": [],
}


@pytest.mark.parametrize("text", _LISTS)
def test_the_kinds_of_mpi_are_read_from_sruns_list(text: str) -> None:
    assert parse_kinds(text) == _LISTS[text]


def test_an_unknown_kind_of_mpi_shows_the_nearest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    said = "echo \"srun: error: Invalid MPI type 'pmi'\" >&2; exit 1"
    listed = "printf 'MPI plugin types are...\\n\\tnone\\n\\tpmi2\\n\\tpmix\\n'"
    (tmp_path / "srun").write_text(f"#!/bin/sh\ncase $1 in --mpi=list) {listed};; *) {said};; esac\n")
    (tmp_path / "srun").chmod(0o755)
    wanted = (
        r"srun --mpi=pmi: Slurm has none of this name \(did you mean 'pmi[2x]+'\?\); it has 'none', 'pmi2', 'pmix'\)"
    )
    with pytest.raises(UserError, match=wanted):
        check(Site(name="x", cores=1, mpi="pmi"), script="train.py")


def test_a_rank_may_have_the_variables_of_the_first_node(monkeypatch: pytest.MonkeyPatch) -> None:
    names = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("", "n2.example.org", *names[2:])))
    assert process_of(placement(), {"PMI_RANK": "4", "SLURMD_NODENAME": "n1"}).name == "worker:4"
    with pytest.raises(UserError, match="rank 0 runs on node n2"):
        process_of(placement(), {"PMI_RANK": "0", "SLURMD_NODENAME": "n2"})


def test_an_mpirun_that_says_1_on_sigterm_was_told_to_end(tmp_path: Path) -> None:
    (tmp_path / "tasks.txt").write_text("touch started; trap 'exit 1' TERM; while :; do sleep 0.05; done\n")
    command = [sys.executable, "-m", "hpc_dl", "tasks", "run", "tasks.txt"]
    with subprocess.Popen(command, cwd=tmp_path) as runner:
        deadline = time.monotonic() + 30
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        runner.terminate()
        assert runner.wait(30) == 128 + signal.SIGTERM
