"""The hardware and disks of a node, read on the node itself: `node_rules` judges them, `describe` writes them down."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from hpc_dl.spec.cores import cores_in

# Vendor's number on the PCI bus to the classes of its devices that compute: displays, 3D controllers, accelerators.
# A display of Intel's is a processor's own.
_GPUS = {
    "0x10de": ("nvidia", ("0x0300", "0x0302")),
    "0x1002": ("amd", ("0x0300", "0x0380", "0x1200")),
    "0x8086": ("other", ("0x0380", "0x1200")),
}
# ARPHRD_ETHER and ARPHRD_INFINIBAND of the kernel's if_arp.h.
_LINKS = {"1": "ethernet", "32": "infiniband"}
_LOCAL = ("ext4", "ext3", "xfs", "btrfs", "zfs", "tmpfs", "overlay")
USUAL_DISKS = ("$TMPDIR", "/tmp")  # noqa: S108 - only looked at
"""Where a job looks for the node's own disk if its site names none."""
_DISKS = ("$LOCAL_SCRATCH", "$SLURM_TMPDIR", "/local_scratch/$USER", "/local", "/scratch/$USER", *USUAL_DISKS)
_GB = 1e9


class Gpu(msgspec.Struct, frozen=True):
    """A GPU on the PCI bus."""

    vendor: str
    cores: str
    """The cores next to it, such as ``48-63,112-127``; empty if the node doesn't say."""


class Interface(msgspec.Struct, frozen=True):
    """A network interface of real hardware that is up."""

    name: str
    link: str
    """``ethernet`` or ``infiniband``."""
    gbits: float
    """Its speed in Gbit/s; 0 if not known."""


class Disk(msgspec.Struct, frozen=True):
    """A folder that may be on a disk of the node's own."""

    path: str
    """With variables, as it would stand in a site file."""
    filesystem: str
    free_gb: float


class Hardware(msgspec.Struct, frozen=True):
    """What a node has, whatever a job may use of it."""

    cores: int
    threads_per_core: int
    memory_gb: float
    gpus: tuple[Gpu, ...] = ()
    """In the order of their addresses on the PCI bus."""
    interfaces: tuple[Interface, ...] = ()
    """The fastest first."""
    disks: tuple[Disk, ...] = ()
    modules: str = ""
    """``batch`` if every bash has the command `module`, ``login`` if only a login shell has it; empty: none has."""
    module_files: tuple[str, ...] = ()
    """Files of /etc/profile.d that may define it."""


def look(environ: Mapping[str, str], root: Path = Path("/")) -> Hardware:
    """Return what this node has.

    Args:
        environ: the variables of a job.
        root: the folder that holds ``sys`` and ``proc``.
    """
    threads = _read(root / "sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    memory = re.search(r"MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"))
    profile = root / "etc/profile.d"
    return Hardware(
        cores=len(cores_in(_read(root / "sys/devices/system/cpu/online"))),
        threads_per_core=len(cores_in(threads)) or 1,
        memory_gb=round(int(memory[1]) / 2**20, 1) if memory else 0.0,
        gpus=tuple(_gpus(root / "sys/bus/pci/devices")),
        interfaces=tuple(sorted(_interfaces(root / "sys/class/net"), key=lambda one: (-one.gbits, one.name))),
        disks=tuple(_disks(environ, _read(root / "proc/mounts"))),
        modules=_modules(environ),
        module_files=tuple(str(path) for path in sorted(profile.glob("*mod*.sh"))),
    )


def _gpus(devices: Path) -> Iterator[Gpu]:
    for device in sorted(devices.glob("*")):
        vendor, classes = _GPUS.get(_read(device / "vendor"), ("", ()))
        if vendor and _read(device / "class").startswith(classes):
            yield Gpu(vendor, _read(device / "local_cpulist"))


def _interfaces(net: Path) -> Iterator[Interface]:
    for one in sorted(net.glob("*")):
        link = _LINKS.get(_read(one / "type"), "")
        if link and (one / "device").exists() and _read(one / "operstate") == "up":
            speed = _read(one / "speed")
            yield Interface(one.name, link, int(speed) / 1000 if speed.isdigit() else 0.0)


def _disks(environ: Mapping[str, str], mounts: str) -> Iterator[Disk]:
    known = {fields[1]: fields[2] for line in mounts.splitlines() if len(fields := line.split()) > 2}
    for path in _DISKS:
        folder = Path(re.sub(r"\$(\w+)", lambda found: environ.get(found[1], "/none"), path))
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            continue
        place = folder.resolve()
        filesystem = next((known[str(one)] for one in (place, *place.parents) if str(one) in known), "")
        if filesystem in _LOCAL:
            yield Disk(path, filesystem, round(shutil.disk_usage(folder).free / _GB, 1))


def _modules(environ: Mapping[str, str]) -> str:
    """Return which shells define the command `module`, beginning with none of our own variables."""
    clean = {key: environ[key] for key in ("HOME", "USER", "PATH") if key in environ}
    for name, option in (("batch", "-c"), ("login", "-lc")):
        try:
            done = subprocess.run(
                ["bash", option, "type -t module"], env=clean, capture_output=True, check=False, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return name
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
