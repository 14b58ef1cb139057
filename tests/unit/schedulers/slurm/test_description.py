"""A site file from all that Slurm says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.schedulers.slurm import description
from hpc_dl.schedulers.slurm.commands import Answer
from hpc_dl.schedulers.slurm.partitions import with_cores
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import load_site
from tests.unit.fakes.slurm import FakeSlurm

NODES = """\
g1|gpu*|idle|128|1|512000|gpu:mi250:8|64|2
g2|gpu*|idle|128|1|512000|gpu:mi250:8|64|2
g1|gpu-dev|idle|128|1|512000|gpu:mi250:8|64|2
c1|cpu|idle|256|2|256000|(null)|128|1
a1|a100|idle|64|2|512000|gpu:a100:4|32|2
"""
PARTITIONS = """\
PartitionName=gpu Default=YES OverSubscribe=EXCLUSIVE State=UP
PartitionName=gpu-dev Default=NO OverSubscribe=NO State=UP
PartitionName=cpu Default=NO OverSubscribe=NO State=UP
PartitionName=a100 Default=NO OverSubscribe=EXCLUSIVE State=UP
"""
CONFIG = """\
AccountingStorageEnforce = associations,limits,qos,safe
ClusterName             = lumi
KillWait                = 30 sec
MpiDefault              = cray_shasta
"""
G1 = (
    "NodeName=g1 Arch=x86_64 CoresPerSocket=64 CPUAlloc=0 CPUEfctv=112 CPUTot=128 CPULoad=0.0 Gres=gpu:mi250:8"
    " Sockets=1 Boards=1 CoreSpecCount=8 CPUSpecList=0,16,32,48,64,80,96,112 State=IDLE ThreadsPerCore=2 OS=Linux 5"
)
A1 = "NodeName=a1 CoresPerSocket=32 CPUTot=64 Sockets=2 ThreadsPerCore=2"


@pytest.fixture
def lumi(monkeypatch: pytest.MonkeyPatch) -> dict[str, Answer]:
    """Answers by the beginning of a command line."""
    answers = {
        "sinfo": Answer(0, NODES),
        "scontrol show partition": Answer(0, PARTITIONS),
        "scontrol show config": Answer(0, CONFIG),
        "scontrol show node g1": Answer(0, G1),
        "scontrol show node a1": Answer(0, A1),
        "srun --mpi=list": Answer(0, "MPI plugin types are...\n\tnone\n\tpmi2\n\tcray_shasta\n\tpmix\n"),
        "srun --mpi=pmix": Answer(0),
    }

    def ask(_: Mapping[str, str], *command: str, **__: Any) -> Answer:
        line = " ".join(command)
        return next((answer for begin, answer in answers.items() if line.startswith(begin)), Answer(1))

    for module in ("description", "partitions", "mpi"):
        monkeypatch.setattr(f"hpc_dl.schedulers.slurm.{module}.ask", ask)
    return answers


def test_cores_that_jobs_never_get_are_left_out(lumi: dict[str, Answer]) -> None:
    site = description.describe({}, "lumi").site
    assert (site.cores, site.threads_per_core, site.reserved_cores) == (112, 2, "0,16,32,48,64,80,96,112")
    assert (site.gpu_vendor, site.gpus, site.exclusive, site.grace) == ("amd", 8, True, 20)


def test_partitions_whose_nodes_differ_have_tables(lumi: dict[str, Answer]) -> None:
    tables = description.describe({}, "lumi").tables
    assert tables["gpu-dev"] == {"nodes": "g1", "exclusive": False}
    assert tables["a100"]["gpus"] == 4
    assert tables["a100"]["gpu_vendor"] == "nvidia"
    assert (tables["a100"]["cores"], "exclusive" in tables["a100"]) == (64, False)
    assert tables["cpu"] | {"memory_gb": 0} == {
        "nodes": "c1",
        "cores": 256,
        "threads_per_core": 1,
        "reserved_cores": "",
        "memory_gb": 0,
        "gpus": 0,
        "gpu_type": "",
        "gpu_vendor": "nvidia",
        "exclusive": False,
    }
    assert description.describe({}, "lumi", "cpu").site.cores == 256


@pytest.mark.parametrize(
    ("default", "listed", "pmix", "mpi"),
    [
        ("cray_shasta", "cray_shasta\npmi2\npmix", "", "cray_shasta"),
        ("none", "none\npmi2\npmix\ncray_shasta", "", "pmix"),
        ("none", "none\npmi2\npmix", "srun: error: mpi/pmix_v4: can not load PMIx library\nInvalid MPI type", "pmi2"),
        ("none", "none\nopenmpi", "", ""),
        ("pmix", "srun: MPI types are...\nsrun: pmi2\nsrun: pmix_v3\nsrun: pmix", "", "pmix"),
    ],
)
def test_the_kind_of_mpi(lumi: dict[str, Answer], default: str, listed: str, pmix: str, mpi: str) -> None:
    lumi["scontrol show config"] = Answer(0, CONFIG.replace("cray_shasta", default))
    lumi["srun --mpi=list"] = Answer(0, "", listed)
    lumi["srun --mpi=pmix"] = Answer(1 if pmix else 0, "", pmix)
    found = description.describe({}, "lumi")
    assert found.site.mpi == mpi
    assert f"MpiDefault is {default}" in found.notes["mpi"]


def test_that_an_account_is_wanted_is_a_note(lumi: dict[str, Answer]) -> None:
    assert "wants an account" in description.describe({}, "lumi").notes["slurm"]
    lumi["scontrol show config"] = Answer(0, CONFIG.replace("associations,", ""))
    assert "slurm" not in description.describe({}, "lumi").notes


@pytest.mark.parametrize(
    ("fields", "cores", "reserved"),
    [
        ({}, 96, ""),
        ({"CPUTot": "96"}, 96, ""),
        ({"CPUTot": "96", "CPUEfctv": "88", "CPUSpecList": "0-3,48-51"}, 88, "0-3,48-51"),
        # Slurm 20.11 does not count what is left.
        ({"CPUTot": "96", "CPUSpecList": "0-1,48-49", "CoreSpecCount": "2"}, 92, "0-1,48-49"),
        # The node is another than those that were counted.
        ({"CPUTot": "48", "CPUEfctv": "40"}, 96, ""),
        ({"CPUTot": "x", "CPUEfctv": "(null)"}, 96, ""),
        ({"CPUTot": "96", "CPUEfctv": "n/a", "CPUSpecList": "(null)"}, 96, ""),
    ],
)
def test_cores_of_a_node(fields: dict[str, str], cores: int, reserved: str) -> None:
    site = with_cores(Site(cores=96), fields)
    assert (site.cores, site.reserved_cores) == (cores, reserved)


@pytest.mark.parametrize(
    ("kind", "vendor"),
    [
        ("", "nvidia"),
        ("a100", "nvidia"),
        ("mi250", "amd"),
        ("amd_mi210", "amd"),
        ("MI300A", "amd"),
        ("pvc", "other"),
        ("mig-1g.5gb", "nvidia"),
        ("max1550", "other"),
    ],
)
def test_the_vendor_of_a_type(kind: str, vendor: str) -> None:
    assert description.vendor(kind) == vendor


def test_a_file_with_tables_is_printed_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], lumi: dict[str, Answer]
) -> None:
    from hpc_dl.cli.main import main

    fake = FakeSlurm(tmp_path / "fake", monkeypatch)
    monkeypatch.setattr("hpc_dl.schedulers.slurm.scheduler.which.cluster_name", lambda: "lumi")
    with pytest.raises(SystemExit) as ended:
        main(["sites", "--describe"])
    text = capfd.readouterr().out
    assert ended.value.code == 0
    assert fake.calls() == []
    assert "# (srun --mpi=list says: none, pmi2, cray_shasta, pmix; MpiDefault is cray_shasta)\nmpi = " in text
    path = tmp_path / "lumi.toml"
    path.write_text(text)
    site = load_site(path, "a100")
    assert (site.cores, site.gpu_type, site.cluster, site.nodes) == (64, "a100", "lumi", "a1")
    assert load_site(path).gpu_vendor == "amd"
