"""GPUs by vendor: the variables that give them to a process, their device files, and the cores next to them.

Slurm numbers the GPUs of a node from 0. Where it confines a job to its devices (ConstrainDevices), the vendor's
variable counts only the devices that the job may open: a job with GPUs 2 and 3 has 0 and 1 there (Slurm's "Generic
Resource (GRES) Scheduling"). SLURM_STEP_GPUS and SLURM_JOB_GPUS always have the numbers of the node.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpc_dl.errors import UserError

VARIABLES = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "ROCR_VISIBLE_DEVICES", "other": ""}
"""The variable that gives a process its GPUs, by vendor; empty: there is none that we know."""
# ROCm reads these too, and counts in them only the GPUs that ROCR_VISIBLE_DEVICES leaves.
_COUNTED_AFTER = {"amd": ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")}
ALL_VARIABLES = tuple(dict.fromkeys([*filter(None, VARIABLES.values()), *_COUNTED_AFTER["amd"]]))
"""Every variable that hides GPUs from a process of one vendor or another."""
# What Slurm sets for the GPUs of a job, best first.
_SET_BY_SLURM = {
    "nvidia": ("CUDA_VISIBLE_DEVICES",),
    "amd": ("ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
    "other": ("ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL", "CUDA_VISIBLE_DEVICES"),
}
_OF_THE_NODE = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
_AMD = "0x1002"  # the vendor's number on the PCI bus


def variables(vendor: str, gpus: Sequence[str]) -> dict[str, str]:
    """Return the variable that gives `gpus` to a process; its empty value hides all of them."""
    return {name: ",".join(gpus)} if (name := VARIABLES[vendor]) else {}


def counted_after(vendor: str) -> tuple[str, ...]:
    """Return the variables that would hide a part of the GPUs that `variables` gives."""
    return _COUNTED_AFTER.get(vendor, ())


def without_lists(environ: Mapping[str, str], vendor: str) -> dict[str, str]:
    """Return an environment without the variables that would hide a part of the GPUs that `variables` gives."""
    return {key: value for key, value in environ.items() if key not in counted_after(vendor)}


def slurm_gpus(environ: Mapping[str, str], vendor: str = "nvidia") -> tuple[str, ...]:
    """Return the GPUs that Slurm gave this step, in the words of the vendor's variable.

    Some versions of Slurm leave that variable unset for typed GPUs. Then the numbers in Slurm's own variables count.
    """
    for key in _SET_BY_SLURM[vendor]:
        if value := environ.get(key):
            return _gpu_list(value)
    numbers = _numbers_of_the_node(environ)
    confined = len(_usable(vendor)) < len(devices(vendor))
    return tuple(map(str, range(len(numbers)))) if confined else numbers


def step_gpus(
    environ: Mapping[str, str], vendor: str, untold: int, believe: bool = False, fake: bool = False
) -> tuple[str, ...]:
    """Return the GPUs of this Slurm step, in the words of the vendor's variable.

    Args:
        environ: the step's environment.
        vendor: of the GPUs.
        untold: how many GPUs the step has, where Slurm doesn't tell which; 0: Slurm tells.
        believe: what Slurm tells all the same counts.
        fake: the GPUs need not exist.

    Raises:
        UserError: the node has fewer devices than `untold`.
    """
    if not untold or (believe and any(environ.get(key) for key in (*_SET_BY_SLURM[vendor], *_OF_THE_NODE))):
        return slurm_gpus(environ, vendor)
    found = _usable(vendor)
    if not fake and vendor != "other" and len(found) < untold:
        node = environ.get("SLURMD_NODENAME") or os.uname().nodename
        names = ", ".join(map(str, found)) or "none"
        raise UserError(
            f"node {node}: the job has {untold} GPUs there, says the site file; {len(found)} can be opened: {names}"
        )
    return tuple(map(str, range(untold)))


def local_gpus(vendor: str = "nvidia") -> tuple[str, ...]:
    """Return the numbers of this machine's GPUs; if the vendor's variable is set, the GPUs that it lists."""
    if (chosen := os.environ.get(VARIABLES[vendor])) is not None:
        return _gpu_list(chosen)
    found = devices(vendor)
    return tuple(map(str, range(len(found)))) if vendor == "amd" else tuple(path.name[6:] for path in found)


def node_numbers(environ: Mapping[str, str], gpus: Sequence[str]) -> tuple[str, ...]:
    """Return the numbers that the node has for GPUs of this step, which the vendor's variable may number from 0."""
    numbers = _numbers_of_the_node(environ)
    return numbers if len(numbers) == len(gpus) else tuple(gpus)


def devices(vendor: str) -> list[Path]:
    """Return the device files of this node's GPUs, in the order of their numbers; none for other vendors."""
    if vendor == "nvidia":
        return _numbered(Path("/dev"), r"nvidia(\d+)")
    if vendor == "amd" and Path("/dev/kfd").exists():
        found = _numbered(Path("/dev/dri"), r"renderD(\d+)")
        return [path for path in found if _read(_drm(path) / "vendor") == _AMD]
    return []


def cores_next_to(vendor: str, gpus: Sequence[str]) -> tuple[str, ...]:
    """Return the list of the cores next to each GPU, as the kernel has it: ``48-63,112-127``; empty if not known.

    Args:
        vendor: of the GPUs.
        gpus: in the words of the vendor's variable, which counts the devices that this process can open.
    """
    names = _nvidia_on_pci() if vendor == "nvidia" else [(str(_drm(path)), "") for path in _usable(vendor)]
    by_name = {str(number): folder for number, (folder, _) in enumerate(names)}
    by_name |= {uuid: folder for folder, uuid in names if uuid}
    return tuple(_read(Path(by_name[gpu], "local_cpulist")) if gpu in by_name else "" for gpu in gpus)


def _nvidia_on_pci(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[tuple[str, str]]:
    """Return folder in sysfs and UUID of the NVIDIA GPUs that can be opened, in the order of CUDA's numbers.

    For GPUs of one kind these follow the addresses on the PCI bus; the numbers of the device files may not.
    """
    usable = {path.name for path in _usable("nvidia")}
    found = []
    for place in sorted(folder.glob("*")):
        said = dict(line.split(":", 1) for line in _read(place / "information").splitlines() if ":" in line)
        if f"nvidia{said.get('Device Minor', '').strip()}" in usable:
            found.append((f"/sys/bus/pci/devices/{place.name.lower()}", said.get("GPU UUID", "").strip()))
    return found


def _usable(vendor: str, can_open: Callable[..., bool] = os.access) -> list[Path]:
    """Return the device files that this process may open: a cgroup may forbid some."""
    return [path for path in devices(vendor) if can_open(path, os.R_OK | os.W_OK)]


def _numbered(folder: Path, pattern: str) -> list[Path]:
    matches = ((re.fullmatch(pattern, path.name), path) for path in folder.glob("*"))
    return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]


def _drm(device: Path) -> Path:
    return Path("/sys/class/drm", device.name, "device")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _numbers_of_the_node(environ: Mapping[str, str]) -> tuple[str, ...]:
    return next((_gpu_list(value) for key in _OF_THE_NODE if (value := environ.get(key))), ())


def _gpu_list(value: str) -> tuple[str, ...]:
    """Return the GPUs that a variable names; ``-1`` and Slurm's ``NoDevFiles`` mean none."""
    return () if value in ("-1", "NoDevFiles") else tuple(filter(None, value.split(",")))
