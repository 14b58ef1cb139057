"""`hpc-dl check` on a real Slurm: much is wrong at once, and on the nodes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_dl.minicluster import MiniCluster
from hpc_dl.spec.site_files import load_site
from tests.slurm.helpers import Bench
from tests.unit.fakes.processes import names

# All nodes are this machine. Few of a node's cores, since the private cluster has more of them than there are.
SITE = """
cores = 16
gpus = 4
gpu_type = "k80"
partition = "main"
address = "127.0.0.1"
srun = []
"""
BROKEN = """
cores = 8
gpus = 4
gpu_type = "k8"
partition = "main"
module_init = "init.sh"
modules = ["good/1", "none/2"]
python = "/no/python"
runs = "/proc/runs"
ports = [40000, 40001]
grace = 30
"""


@pytest.fixture
def bench(cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    one = Bench(cluster, tmp_path)
    (tmp_path / "own").write_text("#!/bin/sh\n")
    (tmp_path / "own").chmod(0o755)
    (tmp_path / "here.toml").write_text(SITE)
    yield one
    one.clean()


def test_all_that_is_wrong_is_said_at_once(bench: Bench) -> None:
    (bench.folder / "init.sh").write_text('module() { [ "$2" = good/1 ] || { echo "ERROR: no $2" >&2; return 1; }; }\n')
    (bench.folder / "broken.toml").write_text(BROKEN)
    (bench.folder / "own").chmod(0o644)
    said = bench.run("check", "--site=./broken.toml", "--script=own", "--nodes=3", "--time=2:00", code=2)
    wanted = [
        "error: nodes = 3: of 2 nodes in partition 'main' 0 have 8 cores and 4 x gpu:k8; the largest, ",
        "error: site 'broken': gpu_type = 'k8' (did you mean 'k80'?): nodes of partition 'main' have 'k80'; correct it",
        "error: module 'none/2' does not load here: ERROR: no none/2; see `module avail`, correct the site file",
        "error: python = '/no/python': can't run hpc_dl here: ",
        "error: runs = '/proc/runs': can't be written: /proc: ",
        f"error: script = '{bench.folder}/own': it is not executable: chmod +x {bench.folder}/own",
        "error: node node1: no port left in the site's range 40000-40001: 0 in use there, 2 by this job",
        "warning: site 'broken': cores = 8, sinfo says 16: set cores = 16 in the site file",
        "warning: site 'broken': grace = 30 s, but Slurm kills a job 20 s after SIGTERM (KillWait in slurm.conf): ",
        "warning: site 'broken': ports = 40000-40001: the kernel gives ",
    ]
    lines = said.splitlines()
    for text in wanted:
        assert any(line.startswith(text) for line in lines), (text, said)
    assert len(lines) == len(wanted), said
    assert names(bench.folder) == ["broken.toml", "here.toml", "init.sh", "own", "own.py"]
    # What the description itself has wrong comes with what is wrong with the site.
    said = bench.run("check", "--site=./broken.toml", "--gpus=5", code=2)
    assert said.startswith("error: gpus = 5: a node of site 'broken' has 4 (allowed: 0 to 4)\n")
    assert wanted[2] in said


def test_the_nodes_are_asked_and_nothing_is_left(bench: Bench) -> None:
    said = bench.run("check", "--site=./here.toml", "--script=own", "--nodes=2", "--on-node")
    good, job = said.splitlines()  # what is told while it waits goes to stderr
    assert job.endswith(", which checks 2 nodes")
    assert good == "Nothing is wrong with job train on site here, as far as can be seen here and on its nodes"
    text = (bench.folder / "here.toml").read_text().replace("127.0.0.1", "203.0.113.7")
    (bench.folder / "elsewhere.toml").write_text(text)
    said = bench.run("check", "--site=./elsewhere.toml", "--script=own", "--nodes=2", "--on-node", code=2)
    for node, other in (("mini1", "mini2"), ("mini2", "mini1")):
        assert f"{node}: error: 203.0.113.7:2000" in said
        assert f"{node}: error: node {other} (203.0.113.7:2000" in said
    assert names(bench.folder) == ["elsewhere.toml", "here.toml", "own", "own.py"]
    left = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True, timeout=120).stdout
    assert left == ""


def test_a_site_file_is_written_from_slurm_and_from_a_node(bench: Bench) -> None:
    text, _, _ = bench.run("sites", "--describe", "--on-node").partition("Submitted batch job")
    assert "\nthreads_per_core = " not in text, "the default is commented out"
    assert re.search(r"^# \(node mini[12]: \d+ CPUs, \d for each physical core\)$", text, re.MULTILINE)
    assert re.search(r"^# \(srun --mpi=list says: .*pmi2.*; MpiDefault is none", text, re.MULTILINE)
    (bench.folder / "new.toml").write_text(text)
    site = load_site(bench.folder / "new.toml")
    assert (site.nodes, site.cores, site.gpus, site.gpu_type, site.partition) == ("mini[1-2]", 16, 4, "k80", "main")
    assert not (bench.folder / "runs").exists(), "the job of the look leaves nothing behind"


def test_a_table_of_no_partition_stops_a_job_with_the_line(bench: Bench) -> None:
    (bench.folder / "here.toml").write_text(f"{SITE}[partitions.mian]\ncores = 8\n")
    said = bench.run("submit", "--site=./here.toml", "--script=own", "--detach", code=2)
    assert "here.toml, line 8: [partitions.mian]: Slurm has no such partition (did you mean 'main'?)" in said
