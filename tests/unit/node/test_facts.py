"""What a node has for a job."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.errors import UserError
from hpc_dl.gpus import local_gpus, slurm_gpus
from hpc_dl.machine import ports_in_use
from hpc_dl.node import facts
from hpc_dl.node.facts import local_facts, node_name, slurm_facts
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import NodeFacts
from hpc_dl.spec.site import Site


@pytest.mark.parametrize(
    ("environ", "gpus"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, ("0", "1", "2")),
        ({"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_STEP_GPUS": "6,7"}, ("2", "3")),
        ({"SLURM_STEP_GPUS": "2,3", "SLURM_JOB_GPUS": "0,1,2,3"}, ("2", "3")),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_GPUS": "1"}, ("1",)),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c,MIG-1"}, ("GPU-8932f937-d72c", "MIG-1")),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ()),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ()),
        ({}, ()),
    ],
)
def test_gpus_are_those_that_slurm_gave(environ: dict[str, str], gpus: tuple[str, ...]) -> None:
    assert slurm_gpus(environ) == gpus


@pytest.mark.parametrize(("value", "gpus"), [("1,3", ("1", "3")), ("", ()), ("-1", ())])
def test_this_machines_gpus_are_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch, value: str, gpus: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert local_gpus() == gpus


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_listening_socket_is_a_port_in_use(family: socket.AddressFamily, host: str) -> None:
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"no {host} here")
    with server:
        port = server.getsockname()[1]
        assert port in ports_in_use((1024, 65535))
        assert ports_in_use((port, port)) == {port}
        assert port not in ports_in_use((port + 1, 65535))


def _slurm_facts(monkeypatch: pytest.MonkeyPatch, allowed: set[int], cores: int, **site: Any) -> NodeFacts:
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed)
    return slurm_facts(JobSpec(cores=cores, gpus=0), Site(cores=8, **site))


def _node(monkeypatch: pytest.MonkeyPatch, folder: Path, cpus: Sequence[tuple[int, list[int]]]) -> None:
    """Make this a node whose CPUs have these sockets and siblings."""
    for number, (socket_, siblings) in enumerate(cpus):
        topology = folder / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{socket_}\n")
        mask = f"{sum(1 << cpu for cpu in siblings):016x}"
        (topology / "thread_siblings").write_text(f"{mask[:8]},{mask[8:]}\n")
    monkeypatch.setattr(facts._Topology.__init__, "__defaults__", (folder,))


def _slurm_cores(
    monkeypatch: pytest.MonkeyPatch, allowed: set[int], cores: int, threads: int = 1, **site: Any
) -> tuple[int, ...]:
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(0, list(range(cpu - cpu % threads, cpu - cpu % threads + threads))) for cpu in range(16)]
        _node(monkeypatch, Path(folder), pairs)
        return _slurm_facts(monkeypatch, allowed, cores, **site).cores


def test_cores_come_in_the_order_of_sockets_and_physical_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Sockets alternate, and the second half of the numbers are the other threads: as on many nodes of two sockets.
    _node(monkeypatch, tmp_path, [(cpu % 2, [cpu % 4, cpu % 4 + 4]) for cpu in range(8)])
    found = _slurm_facts(monkeypatch, set(range(8)), 8)
    assert (found.cores, found.threads) == ((0, 4, 2, 6, 1, 5, 3, 7), 2)
    # A job that has not both threads of each of its cores has no whole physical cores to share out.
    found = _slurm_facts(monkeypatch, {0, 4, 1, 3}, 4)
    assert (found.cores, found.threads) == ((0, 4, 1, 3), 1)


def test_a_machine_that_says_nothing_of_its_cores_has_them_in_the_order_of_their_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _node(monkeypatch, tmp_path, [])
    found = _slurm_facts(monkeypatch, {2, 0, 1}, 3)
    assert (found.cores, found.threads) == ((0, 1, 2), 1)


def test_cores_that_slurm_confines_the_job_to_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _slurm_cores(monkeypatch, {6, 4, 5, 7}, 4) == (4, 5, 6, 7)


def test_what_slurm_rounds_up_to_a_whole_physical_core_is_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _slurm_cores(monkeypatch, set(range(4)), 3, threads=2) == (0, 1, 2, 3)
    assert _slurm_cores(monkeypatch, set(range(5)), 3, threads=2) == ()


def test_a_physical_core_of_this_machine_has_its_threads() -> None:
    shared = Path("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").read_text().strip()
    runs = [part.partition("-") for part in shared.split(",")]
    assert len(facts._Topology().siblings(0)) == sum(int(last or first) - int(first) + 1 for first, _, last in runs)


@pytest.mark.parametrize("site", [{"slurm": {"hint": "nomultithread"}}, {"srun": ("--threads-per-core=1",)}])
def test_a_job_that_counts_physical_cores_has_all_their_threads(
    monkeypatch: pytest.MonkeyPatch, site: dict[str, Any]
) -> None:
    assert _slurm_cores(monkeypatch, set(range(8)), 4, threads=2, **site) == tuple(range(8))
    assert _slurm_cores(monkeypatch, {0, 2, 4, 6}, 4, threads=2, **site) == (0, 2, 4, 6)
    assert _slurm_cores(monkeypatch, set(range(10)), 4, threads=2, **site) == ()
    assert _slurm_cores(monkeypatch, set(range(8)), 4, threads=2) == ()


def test_reserved_cores_are_given_to_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _slurm_cores(monkeypatch, set(range(8)), 8, threads=2, exclusive=True, reserved_cores="0,5")
    assert found == (2, 3, 6, 7)


@pytest.mark.parametrize(
    ("environ", "near"),
    [
        ({}, ((0, 1), (2, 3))),
        # The job may open only GPUs 2 and 3 of the node, which are its numbers 0 and 1.
        ({"SLURM_STEP_GPUS": "2,3"}, ((4, 5), (6, 7))),
        ({"SLURM_STEP_GPUS": "3,4"}, ((6, 7), ())),
    ],
)
def test_the_sites_table_has_the_cores_next_to_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environ: dict[str, str], near: tuple[tuple[int, ...], ...]
) -> None:
    _node(monkeypatch, tmp_path, [(0, [cpu - cpu % 2, cpu - cpu % 2 + 1]) for cpu in range(8)])
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("SLURM_STEP_GPUS", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    site = Site(cores=8, gpus=4, gpu_cores=("0", "2", "5", "6-7"))
    found = slurm_facts(JobSpec(cores=8, gpus=2), site)
    assert (found.gpus, found.gpu_cores) == (("0", "1"), near)


def test_without_a_table_the_node_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _node(monkeypatch, tmp_path, [])
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.setattr(facts, "cores_next_to", lambda vendor, gpus: {"amd": ("2-3", "0-1")}[vendor])
    site = Site(cores=4, gpus=2, gpu_vendor="amd")
    assert slurm_facts(JobSpec(cores=4, gpus=2), site).gpu_cores == ((2, 3), (0, 1))
    monkeypatch.setattr(facts, "cores_next_to", lambda vendor, gpus: ("", ""))
    assert slurm_facts(JobSpec(cores=4, gpus=2), site).gpu_cores == ()


def test_gpus_that_slurm_does_not_tell_are_those_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # PSSlurm shows each process only its nearest GPU
    site = Site(cores=8, gpus=4, gpu_list="all", fake_gpus=True)
    assert slurm_facts(JobSpec(gpus=4), site).gpus == ("0", "1", "2", "3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    site = Site(cores=8, gpus=4, gpu_request="none", fake_gpus=True)
    assert slurm_facts(JobSpec(gpus=4), site).gpus == ("0", "1", "2", "3")
    if not local_gpus():
        with pytest.raises(UserError, match=r"node n1: the job has 4 GPUs there, says the site file; 0 can be opened"):
            slurm_facts(JobSpec(gpus=4), Site(cores=8, gpus=4, gpu_list="all"))


def test_cores_that_others_use_too_are_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _slurm_cores(monkeypatch, set(range(8)), 4) == ()


def test_all_cores_of_an_exclusive_node_are_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _slurm_cores(monkeypatch, set(range(8)), 4, exclusive=True) == tuple(range(8))


def test_nodes_that_are_one_machine_have_no_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _slurm_cores(monkeypatch, {0, 1}, 4, exclusive=True, address="127.0.0.1") == ()


def test_a_job_without_gpus_sees_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert slurm_facts(JobSpec(gpus=0), Site(cores=8)).gpus == ()
    assert slurm_facts(JobSpec(gpus=2), Site(cores=8)).gpus == ("0", "1")


def test_local_nodes_share_the_machines_gpus_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    found = local_facts(JobSpec(gpus=2), Site(cores=8), ["a", "b"])
    assert [(facts.node, facts.gpus, facts.cores) for facts in found] == [("a", ("0", "1"), ()), ("b", ("2", "3"), ())]


def test_outside_a_slurm_step_there_is_no_node_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    with pytest.raises(UserError, match="inside a Slurm step"):
        node_name()


def test_a_kernel_without_ipv6_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: self.name != "tcp6" and exists(self))
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert server.getsockname()[1] in ports_in_use((1024, 65535))
