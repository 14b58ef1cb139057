"""Task files inside jobs of a real Slurm."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup
from tests.unit.fakes.processes import Marker

HPC_DL = [sys.executable, "-m", "hpc_dl"]
REPOSITORY = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def four(slurm: None) -> Iterator[MiniCluster]:
    """A running cluster: 4 nodes with 16 CPUs and 4 GPUs each."""
    root = Path(tempfile.mkdtemp(prefix="hd"))
    try:
        with MiniCluster(root, ClusterConfig(groups=(NodeGroup(count=4),))) as running:
            yield running
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def marker() -> Iterator[Marker]:
    one = Marker()
    yield one
    one.kill()


def command(cluster: MiniCluster, folder: Path, *words: str) -> str:
    environ = cluster.env() | {"PYTHONPATH": REPOSITORY}
    done = subprocess.run(words, env=environ, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def eventually(what: Callable[[], object], why: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + 90
    while not what():
        assert time.monotonic() < deadline, f"it did not happen in time: {why()}"
        time.sleep(0.1)


def submit(cluster: MiniCluster, folder: Path, *options: str) -> str:
    said = command(cluster, folder, *HPC_DL, "tasks", "submit", "t.txt", "--time=5", *options)
    return said.split("\n")[0].removeprefix("Submitted batch job ")


def state(cluster: MiniCluster, folder: Path, job: str) -> str:
    text = command(cluster, folder, "scontrol", "--oneliner", "show", "job", job)
    return dict(word.split("=", 1) for word in text.split() if "=" in word)["JobState"]


def finish(cluster: MiniCluster, folder: Path, job: str) -> str:
    def said() -> str:
        return "".join(path.read_text() for path in [*folder.glob("*.log"), *folder.glob("*.records/output/*")])

    eventually(lambda: state(cluster, folder, job) not in ("PENDING", "RUNNING", "COMPLETING"), said)
    return state(cluster, folder, job)


def ends(folder: Path, job: str) -> list[dict[str, Any]]:
    files = (folder / f"t.txt-{job}.records").glob("mini*.jsonl")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


# A task, or each rank of one on several nodes, says itself what it has and when.
SAY = """sh -c 'echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $(date +%s.%N) $(sleep 0.2; date +%s.%N)"'"""


def test_no_gpu_and_no_core_is_used_twice_at_a_time(four: MiniCluster, tmp_path: Path) -> None:
    chance = random.Random(0)
    wants = [(1 + (n % 5 == 0), chance.randint(1, 4), chance.randint(1, 8)) for n in range(40)]
    (tmp_path / "t.txt").write_text(
        "".join(
            f"#@ nodes={nodes} gpus={gpus} cores={cores}\n{f'srun --ntasks={nodes} ' if nodes > 1 else ''}{SAY}\n"
            for nodes, gpus, cores in wants
        )
    )
    job = submit(four, tmp_path, "--nodes=4")
    assert finish(four, tmp_path, job) == "COMPLETED", (tmp_path / f"t.txt-{job}.log").read_text()
    log = (tmp_path / f"t.txt-{job}.log").read_text()
    assert "Summary of 40 tasks: 40 OK, 0 FAILED, 0 CANCELLED, 0 INVALID." in log
    used: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number, (nodes, gpus, _) in zip(range(2, 81, 2), wants, strict=True):
        said = (tmp_path / f"t.txt-{job}.records" / "output" / f"{number}.out").read_text().splitlines()
        assert len({line.split()[0] for line in said}) == len(said) == nodes
        for line in said:
            node, visible, start, end = line.split()
            assert len(visible.split(",")) == gpus
            for gpu in visible.split(","):
                used.setdefault((node, gpu), []).append((float(start), float(end)))
    for record in ends(tmp_path, job):
        for share in record["shares"]:
            for core in share["cores"]:
                used.setdefault((share["node"], f"core {core}"), []).append((record["started"], record["ended"]))
    assert {node for node, _ in used} == set(four.names)
    for times in used.values():
        times.sort()
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))


def test_a_task_of_several_nodes_has_them_for_srun_and_mpirun(
    four: MiniCluster, tmp_path: Path, marker: Marker
) -> None:
    mpirun = Path(sys.executable).with_name("mpirun")
    say = """sh -c 'echo "$SLURMD_NODENAME [$CUDA_VISIBLE_DEVICES]"'"""
    (tmp_path / "t.txt").write_text(
        "#@ gpus=3 node=mini[2-3] nodes=2\nwhile ! test -e up; do sleep 0.1; done; touch down\n"
        f"#@ gpus=1 node=mini[2-3] nodes=2 cores=3\nsrun {say}; srun -n 2 {say}; srun -N 2 -n 2 {say}; touch up; "
        f"srun {marker.sleep} & while ! test -e down; do sleep 0.1; done; sleep 1\n"
        f"#@ gpus=1 node=mini[2,4] nodes=2\n{mpirun} --allow-run-as-root --bind-to none -n 2 {say}\n"
        f"#@ gpus=1 node=mini1\nsrun -n 2 {say}; srun -N1 -n1 {say}; scontrol show hostnames $SLURM_JOB_NODELIST\n"
    )
    job = submit(four, tmp_path, "--nodes=4")
    assert finish(four, tmp_path, job) == "COMPLETED", (tmp_path / f"t.txt-{job}.log").read_text()
    found = {
        number: sorted((tmp_path / f"t.txt-{job}.records" / "output" / f"{number}.out").read_text().splitlines())
        for number in (4, 6, 8)
    }
    assert found == {
        4: ["mini2 [3]"] * 5 + ["mini3 [3]"] * 5,
        6: ["mini2 [0]", "mini4 [0]"],  # the job's first task has ended before
        8: ["mini1", "mini1 [0]", "mini1 [0]", "mini1 [0]"],
    }
    # The step that task 4 left behind has ended with it.
    eventually(marker.gone)


def test_a_job_that_is_cancelled_goes_on_from_its_restart_file(four: MiniCluster, tmp_path: Path) -> None:
    text = (
        "touch up; test -e go || sleep 100\n[# 1 #] srun --overlap --nodes=1 --ntasks=1 echo a\n#@ node=mini2\ntrue\n"
    )
    (tmp_path / "t.txt").write_text(text)
    job = submit(four, tmp_path, "--nodes=2", "--gpus=0")
    eventually((tmp_path / "up").exists)
    eventually(lambda: len(ends(tmp_path, job)) == 1)
    command(four, tmp_path, "scancel", "--signal=USR2", "--batch", job)
    assert finish(four, tmp_path, job) == "FAILED"
    restart = (tmp_path / f"t.txt-{job}.rst").read_text()
    assert restart.count("\n[# ") == 1
    assert "node=mini2" not in restart
    (tmp_path / "go").touch()
    (tmp_path / "t.txt").write_text(restart)
    again = submit(four, tmp_path, "--nodes=1")
    assert finish(four, tmp_path, again) == "COMPLETED"
    assert (tmp_path / f"t.txt-{again}.records" / "output").exists()
    assert len(ends(tmp_path, again)) == 2


def test_a_node_that_is_lost_gives_its_tasks_to_others(four: MiniCluster, tmp_path: Path) -> None:
    # The first task keeps the runner's own node busy until the other node is lost.
    (tmp_path / "t.txt").write_text(
        "#@ node=mini1\nwhile ! test -e go; do sleep 0.1; done\n"
        "#@ node=mini[1-2]\n"
        "echo $SLURMD_NODENAME >> on; while ! test -e go; do sleep 0.1; done; test $SLURMD_NODENAME = mini1\n"
        "#@ nodes=2\necho $HPC_DL_TASK_NODELIST >> wide; while ! test -e go; do sleep 0.1; done\n"
    )
    (tmp_path / "job.sh").write_text("#!/bin/sh\n" + " ".join([*HPC_DL, "tasks", "run", "t.txt", "--json", "> report"]))
    options = ["--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=4", "--no-kill", "--output=log"]
    job = command(four, tmp_path, "sbatch", "--parsable", "--nodelist=mini[1-3]", *options, "job.sh").strip()
    eventually((tmp_path / "on").exists)
    eventually((tmp_path / "wide").exists)
    command(four, tmp_path, "scontrol", "update", "nodename=mini2", "state=DOWN", "reason=test")
    eventually(lambda: "Node mini2 is gone; tasks 4, 6 start again elsewhere" in (tmp_path / "log").read_text())
    eventually(lambda: (tmp_path / "wide").read_text().count("\n") == 2)
    (tmp_path / "go").touch()
    finish(four, tmp_path, job)
    eventually(lambda: "mini2 down" not in command(four, tmp_path, "sinfo", "--Node", "--noheader", "--format=%N %t"))
    report = json.loads((tmp_path / "report").read_text())
    assert {row["number"]: (row["state"], row["node"]) for row in report["tasks"]} == {
        2: ("OK", "mini1"),
        4: ("OK", "mini1"),
        6: ("OK", "mini[1,3]"),
    }
    assert (tmp_path / "wide").read_text().split() == ["mini1,mini2", "mini1,mini3"]
    assert (tmp_path / "on").read_text().split() == ["mini2", "mini1"]


def test_scancel_writes_the_restart_file(four: MiniCluster, tmp_path: Path, marker: Marker) -> None:
    (tmp_path / "t.txt").write_text(f"touch up; {marker.sleep}\n{marker.sleep}\n")
    job = submit(four, tmp_path, "--nodes=2")
    eventually((tmp_path / "up").exists)
    command(four, tmp_path, "scancel", job)
    assert finish(four, tmp_path, job) == "CANCELLED"
    eventually((tmp_path / f"t.txt-{job}.rst").exists)
    assert (tmp_path / f"t.txt-{job}.rst").read_text().count("\n# Task") == 2


def test_a_killed_runner_leaves_no_task_behind(four: MiniCluster, tmp_path: Path, marker: Marker) -> None:
    (tmp_path / "t.txt").write_text(f"touch up; test -e go || {marker.sleep}\ntrue\n")
    (tmp_path / "job.sh").write_text(
        "#!/bin/sh\n" + " ".join([*HPC_DL, "tasks", "run", "t.txt", "&"]) + "\necho $! > pid\nwait\n"
    )
    options = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--output=log"]
    job = command(four, tmp_path, "sbatch", "--parsable", *options, "job.sh").strip()
    eventually((tmp_path / "up").exists)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    finish(four, tmp_path, job)
    eventually(marker.gone)
    (tmp_path / "go").touch()
    command(four, tmp_path, *HPC_DL, "tasks", "run", "t.txt", "--resume")
