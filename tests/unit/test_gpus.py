"""GPUs by vendor: variables, devices, and the cores next to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpc_dl import gpus
from hpc_dl.errors import UserError
from hpc_dl.gpus import (
    cores_next_to,
    devices,
    local_gpus,
    node_numbers,
    slurm_gpus,
    step_gpus,
    variables,
    without_lists,
)


class Node:
    """A node with fake device files; some of them can't be opened, as a cgroup would have it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.closed: set[str] = set()
        monkeypatch.setattr(gpus, "Path", self._path)
        monkeypatch.setattr(os, "access", lambda path, _: path.name not in self.closed)
        monkeypatch.setattr(gpus._usable, "__defaults__", (os.access,))
        monkeypatch.setattr(gpus._nvidia_on_pci, "__defaults__", (root / "proc/driver/nvidia/gpus",))
        for name in gpus.ALL_VARIABLES:
            monkeypatch.delenv(name, raising=False)

    def _path(self, first: str | Path, *more: str) -> Path:
        path = Path(first, *more)
        return path if path.is_relative_to(self.root) else self.root / str(path).lstrip("/")

    def write(self, name: str, text: str = "") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def nvidia(self, minor: int, address: str, cores: str) -> None:
        self.write(f"dev/nvidia{minor}")
        text = f"Model: \t\t A100\nGPU UUID:   \t GPU-{minor}aa\nBus Location: \t {address}\nDevice Minor: \t {minor}\n"
        self.write(f"proc/driver/nvidia/gpus/{address}/information", text)
        self.write(f"sys/bus/pci/devices/{address}/local_cpulist", f"{cores}\n")

    def amd(self, number: int, cores: str, vendor: str = "0x1002") -> None:
        self.write("dev/kfd")
        self.write(f"dev/dri/renderD{number}")
        self.write(f"sys/class/drm/renderD{number}/device/vendor", f"{vendor}\n")
        self.write(f"sys/class/drm/renderD{number}/device/local_cpulist", f"{cores}\n")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_each_vendor_has_its_variable() -> None:
    assert variables("nvidia", ("0", "2")) == {"CUDA_VISIBLE_DEVICES": "0,2"}
    assert variables("amd", ()) == {"ROCR_VISIBLE_DEVICES": ""}
    assert variables("other", ("0",)) == {}


def test_what_would_hide_gpus_a_second_time_is_dropped() -> None:
    environ = dict.fromkeys(gpus.ALL_VARIABLES, "2,3") | {"HOME": "/h"}
    assert without_lists(environ, "amd") == {"ROCR_VISIBLE_DEVICES": "2,3", "HOME": "/h"}
    assert without_lists(environ, "nvidia") == environ
    assert without_lists(environ, "other") == environ


@pytest.mark.parametrize(
    ("vendor", "environ", "found"),
    [
        ("amd", {"ROCR_VISIBLE_DEVICES": "0,1", "SLURM_STEP_GPUS": "2,3"}, ("0", "1")),
        ("amd", {"ROCR_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "7"}, ("1",)),
        ("amd", {"GPU_DEVICE_ORDINAL": "0"}, ("0",)),
        ("amd", {"CUDA_VISIBLE_DEVICES": "1", "SLURM_JOB_GPUS": "3"}, ("3",)),
        ("nvidia", {"ROCR_VISIBLE_DEVICES": "1"}, ()),
        ("other", {"ZE_AFFINITY_MASK": "0,1"}, ("0", "1")),
    ],
)
def test_slurms_variable_follows_the_vendor(
    node: Node, vendor: str, environ: dict[str, str], found: tuple[str, ...]
) -> None:
    assert slurm_gpus(environ, vendor) == found


def test_numbers_of_the_node_count_from_0_where_the_job_can_open_only_its_own_devices(node: Node) -> None:
    for minor in range(4):
        node.nvidia(minor, f"0000:0{minor}:00.0", "")
    environ = {"SLURM_STEP_GPUS": "2,3"}
    assert slurm_gpus(environ) == ("2", "3")
    node.closed = {"nvidia0", "nvidia1"}
    assert slurm_gpus(environ) == ("0", "1")
    assert node_numbers(environ, ("0", "1")) == ("2", "3")
    assert node_numbers({}, ("0", "1")) == ("0", "1")


def test_the_devices_of_a_vendor_are_its_own_in_the_order_of_their_numbers(node: Node) -> None:
    node.write("dev/nvidiactl")
    for minor in (10, 2):
        node.nvidia(minor, f"0000:{minor}:00.0", "")
    node.amd(129, "")
    node.amd(128, "", vendor="0x1a03")  # the console of the board
    node.amd(130, "")
    assert [path.name for path in devices("nvidia")] == ["nvidia2", "nvidia10"]
    assert [path.name for path in devices("amd")] == ["renderD129", "renderD130"]
    assert devices("other") == []
    assert local_gpus("nvidia") == ("2", "10")
    assert local_gpus("amd") == ("0", "1")


def test_without_the_driver_there_is_no_amd_gpu(node: Node) -> None:
    node.amd(128, "")
    (node.root / "dev/kfd").unlink()
    assert devices("amd") == []


def test_where_slurm_does_not_tell_the_gpus_all_of_the_job_count(node: Node) -> None:
    for minor in range(4):
        node.nvidia(minor, f"0000:0{minor}:00.0", "")
    one = {"CUDA_VISIBLE_DEVICES": "3", "SLURMD_NODENAME": "n7"}
    assert step_gpus(one, "nvidia", untold=4) == ("0", "1", "2", "3")
    assert step_gpus(one, "nvidia", untold=4, believe=True) == ("3",)
    assert step_gpus({}, "nvidia", untold=3, believe=True) == ("0", "1", "2")
    assert step_gpus(one, "nvidia", untold=0) == ("3",)
    node.closed = {"nvidia0"}
    with pytest.raises(UserError) as caught:
        step_gpus(one, "nvidia", untold=4)
    assert str(caught.value).startswith("node n7: the job has 4 GPUs there, says the site file; 3 can be opened: ")
    assert str(caught.value).endswith("/dev/nvidia3")
    assert step_gpus(one, "nvidia", untold=4, fake=True) == ("0", "1", "2", "3")
    assert step_gpus(one, "other", untold=2) == ("0", "1")


def test_the_kernel_knows_the_cores_next_to_an_nvidia_gpu(node: Node) -> None:
    # CUDA counts along the PCI bus; the numbers of the device files run the other way here.
    node.nvidia(1, "0000:07:00.0", "48-63")
    node.nvidia(0, "0000:0f:00.0", "32-47")
    node.nvidia(2, "0000:C7:00.0", "16-31")
    node.write("sys/bus/pci/devices/0000:c7:00.0/local_cpulist", "16-31\n")
    assert cores_next_to("nvidia", ("0", "1", "2")) == ("48-63", "32-47", "16-31")
    assert cores_next_to("nvidia", ("GPU-0aa", "MIG-1", "7")) == ("32-47", "", "")
    node.closed = {"nvidia1"}  # CUDA counts only what can be opened
    assert cores_next_to("nvidia", ("0", "1")) == ("32-47", "16-31")


def test_the_kernel_knows_the_cores_next_to_an_amd_gpu(node: Node) -> None:
    node.amd(128, "49-55")
    node.amd(129, "57-63")
    assert cores_next_to("amd", ("0", "1")) == ("49-55", "57-63")
    node.closed = {"renderD128"}
    assert cores_next_to("amd", ("0",)) == ("57-63",)
    assert cores_next_to("other", ("0",)) == ("",)
