"""What a node has, as its kernel says, and what is said of a site file that tells it otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc_dl.check.describe import with_node
from hpc_dl.check.facts import Folder
from hpc_dl.check.finding import Finding
from hpc_dl.check.hardware import Disk, Gpu, Hardware, Interface, look
from hpc_dl.check.hardware_rules import hardware as rule
from hpc_dl.check.probe import Address, NodeAnswer
from hpc_dl.schedulers.cluster import Description
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site


def files(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def pci(root: Path, address: str, vendor: str, kind: str, cores: str) -> None:
    folder = f"sys/bus/pci/devices/{address}"
    files(root, **{f"{folder}/vendor": vendor, f"{folder}/class": kind, f"{folder}/local_cpulist": cores})


def interface(root: Path, name: str, kind: str, state: str, speed: str = "", real: bool = True) -> None:
    folder = f"sys/class/net/{name}"
    files(
        root, **{f"{folder}/type": kind, f"{folder}/operstate": state, **({f"{folder}/speed": speed} if speed else {})}
    )
    if real:
        (root / folder / "device").mkdir()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node like those of Delta's gpuA100x4, with hardware threads."""
    files(
        tmp_path,
        **{
            "sys/devices/system/cpu/online": "0-127",
            "sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0,64",
            "proc/meminfo": "MemTotal:       263000000 kB\nMemFree: 1 kB",
            "proc/mounts": f"rootfs / ext4 rw 0 0\nsrv:/home /home nfs4 rw 0 0\ntmp {tmp_path}/fast xfs rw 0 0",
            "etc/profile.d/z00_lmod.sh": "",
            "etc/profile.d/vim.sh": "",
        },
    )
    pci(tmp_path, "0000:07:00.0", "0x10de", "0x030200", "48-63")
    pci(tmp_path, "0000:c7:00.0", "0x10de", "0x030200", "0-15")
    pci(tmp_path, "0000:46:00.0", "0x10de", "0x030200", "32-47")
    pci(tmp_path, "0000:85:00.0", "0x10de", "0x030200", "16-31")
    pci(tmp_path, "0000:01:00.0", "0x1a03", "0x030000", "0-15")  # the display of the board
    pci(tmp_path, "0000:02:00.0", "0x15b3", "0x020700", "0-15")  # a network card
    interface(tmp_path, "lo", "772", "unknown", real=False)
    interface(tmp_path, "docker0", "1", "up", "10000", real=False)
    interface(tmp_path, "eno1", "1", "up", "1000")
    interface(tmp_path, "hsn1", "1", "down", "200000")
    interface(tmp_path, "hsn0", "1", "up", "200000")
    interface(tmp_path, "ib0", "32", "up")
    return tmp_path


def test_a_node_is_read(root: Path) -> None:
    (root / "fast").mkdir()
    found = look({"TMPDIR": f"{root}/fast", "PATH": "/usr/bin:/bin", "HOME": str(root)}, root)
    assert (found.cores, found.threads_per_core, found.memory_gb) == (128, 2, 250.8)
    assert [(gpu.vendor, gpu.cores) for gpu in found.gpus] == [
        ("nvidia", cores) for cores in ("48-63", "32-47", "16-31", "0-15")
    ]
    assert [(one.name, one.link, one.gbits) for one in found.interfaces] == [
        ("hsn0", "ethernet", 200),
        ("eno1", "ethernet", 1),
        ("ib0", "infiniband", 0),
    ]
    assert next((disk.path, disk.filesystem) for disk in found.disks) == ("$TMPDIR", "xfs")
    assert [Path(path).name for path in found.module_files] == ["z00_lmod.sh"]


def test_a_node_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    found = look({}, tmp_path)
    assert (found.cores, found.threads_per_core, found.gpus, found.interfaces) == (0, 1, (), ())


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [
        ("0x1002", "0x120000", ["amd"]),
        ("0x1002", "0x038000", ["amd"]),
        ("0x8086", "0x038000", ["other"]),
        ("0x8086", "0x030000", []),
        ("0x10de", "0x040300", []),  # the sound of a graphics card
    ],
)
def test_vendors(tmp_path: Path, vendor: str, kind: str, found: list[str]) -> None:
    pci(tmp_path, "0000:01:00.0", vendor, kind, "0-3")
    assert [gpu.vendor for gpu in look({}, tmp_path).gpus] == found


DELTA = Hardware(
    64,
    1,
    251.6,
    tuple(Gpu("nvidia", cores) for cores in ("48-63", "32-47", "16-31", "0-15")),
    (Interface("hsn0", "ethernet", 200), Interface("eno1", "ethernet", 1)),
    (Disk("$SLURM_TMPDIR", "xfs", 1400), Disk("/tmp", "tmpfs", 100)),
    "login",
    ("/etc/profile.d/lmod.sh",),
)


def findings(site: dict[str, Any], seen: dict[str, Any]) -> list[Finding]:
    found = NodeAnswer("n1", None, "", (), Folder("/r"), Folder("/t"), "", Address("n1", "n1", 1))
    answer = msgspec.structs.replace(found, hardware=msgspec.structs.replace(DELTA, **seen))
    return list(rule(JobSpec(), Site(**{"name": "delta", "cores": 64, "gpus": 4, **site}), answer))


@pytest.mark.parametrize(
    ("site", "seen"),
    [
        ({}, {}),
        ({"memory_gb": 256}, {}),
        ({"gpu_cores": ("48-63", "32-40", "16-31", "0-15")}, {}),
        ({"cores": 56, "reserved_cores": "0,8,16,24,32,40,48,56"}, {}),
        ({"cores": 128, "threads_per_core": 2}, {"cores": 128, "threads_per_core": 2}),
        ({"cores": 64}, {"cores": 128, "threads_per_core": 2}),  # Slurm counts physical cores
        ({"cores": 2, "address": "127.0.0.1"}, {}),  # all nodes are this machine
        ({"gpus": 0, "gpu_vendor": "amd"}, {}),
    ],
)
def test_nothing_is_wrong_with_a_site_file_that_is_right(site: dict[str, Any], seen: dict[str, Any]) -> None:
    assert findings(site, seen) == []


@pytest.mark.parametrize(
    ("site", "seen", "text"),
    [
        ({"cores": 48}, {}, "warning: site 'delta': cores = 48: the node has 64"),
        ({"reserved_cores": "0-7"}, {}, "warning: site 'delta': cores = 64 and reserved_cores: the node has 64"),
        ({"cores": 128}, {"cores": 128, "threads_per_core": 2}, "warning: site 'delta': threads_per_core = 1: of the"),
        ({"memory_gb": 512}, {}, "warning: site 'delta': memory_gb = 512: the node has 251.6"),
        ({"gpu_vendor": "amd"}, {}, "error: site 'delta': gpu_vendor = 'amd': the node's GPUs are of 'nvidia'"),
        (
            {"gpu_cores": ("48-63", "16-31", "32-47", "0-15")},
            {"gpus": (Gpu("nvidia", "48-63"), Gpu("nvidia", "32-47"))},
            "warning: site 'delta': gpu_cores: '16-31' for GPU 1: that GPU of the PCI bus is next to '32-47'",
        ),
    ],
)
def test_a_site_file_is_compared_with_the_node(site: dict[str, Any], seen: dict[str, Any], text: str) -> None:
    (found,) = findings(site, seen)
    assert str(found).startswith(text)


def test_what_a_node_says_becomes_a_part_of_the_site_file() -> None:
    found = with_node(Description(Site(name="delta", cores=64, gpus=4), {}, {"mpi": "pmix"}), DELTA, "n1")
    site = found.site
    assert (site.gpu_vendor, site.interface, site.local_disk) == ("nvidia", "hsn0", "$SLURM_TMPDIR")
    assert site.gpu_cores == ("48-63", "32-47", "16-31", "0-15")
    assert site.module_init == "/etc/profile.d/lmod.sh"
    assert found.notes["mpi"] == "pmix"
    assert found.notes["interface"] == "node n1: hsn0 (ethernet, 200 Gbit/s), eno1 (ethernet, 1 Gbit/s)"
    assert found.notes["threads_per_core"] == "node n1: 64 CPUs, 1 for each physical core"


def test_of_a_plain_node_only_notes_are_written() -> None:
    plain = Hardware(8, 1, 16.0, (Gpu("nvidia", "0-7"),), (Interface("eth0", "ethernet", 1),), (), "batch")
    site = Site(name="plain", cores=8, gpus=2)
    found = with_node(Description(site), plain, "n1")
    assert found.site == site
    assert set(found.notes) == {"threads_per_core", "gpu_vendor", "gpu_cores", "interface", "module_init"}
