"""Shares of a node's cores: what holds for all nodes, and what real nodes look like."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hpc_dl.planning.place import expected_facts, place, resolve
from hpc_dl.planning.share_cores import share_cores
from hpc_dl.spec.cores import cores_in
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import NodeFacts, Role
from hpc_dl.spec.site import Site

Roles = list[Role]


@st.composite
def nodes(draw: st.DrawFn) -> tuple[list[int], int, Roles, list[set[int]], list[frozenset[int]]]:
    """Return a node's CPUs, threads per core, roles, the CPUs near each process, and the groups of these CPUs."""
    threads = draw(st.sampled_from([1, 2, 4]))
    physical = draw(st.integers(1, 48))
    order = draw(st.permutations(range(physical)))
    cpus = [core + physical * thread for core in order for thread in range(threads)]
    workers = draw(st.integers(1, 8))
    helpers: Roles = ["ps"]
    roles: Roles = helpers * draw(st.integers(0, 2))
    roles += ["worker" for _ in range(workers)]
    # GPUs are next to whole groups of cores; several GPUs may be next to the same.
    cuts = sorted(draw(st.sets(st.integers(0, physical), max_size=8)) | {0, physical})
    groups = [
        frozenset(core + physical * thread for core in range(low, high) for thread in range(threads))
        for low, high in itertools.pairwise(cuts)
    ]
    near = [set(draw(st.sampled_from(groups))) if role == "worker" else set() for role in roles]
    return cpus, threads, roles, near, groups


@given(nodes(), st.one_of(st.none(), st.integers(1, 8)))
def test_no_core_is_given_twice_and_nearness_changes_no_share(
    node: tuple[list[int], int, Roles, list[set[int]], list[frozenset[int]]], ps_cores: int | None
) -> None:
    cpus, threads, roles, near, _ = node
    shares = share_cores(cpus, roles, ps_cores, threads, near)
    plain = share_cores(cpus, roles, ps_cores, threads)
    assert [len(share) for share in shares] == [len(share) for share in plain]
    given = [cpu for share in shares for cpu in share]
    assert len(given) == len(set(given))
    assert not given or sorted(given) == sorted(cpus)


@given(nodes())
def test_workers_have_equal_parts_of_the_cores_next_to_their_gpus(
    node: tuple[list[int], int, Roles, list[set[int]], list[frozenset[int]]],
) -> None:
    cpus, threads, roles, near, groups = node
    shares = share_cores(cpus, roles, None, threads, near)
    if not any(shares) or len(cpus) // threads < len(roles):
        return
    for group in groups:
        members = [number for number, cpus_near in enumerate(near) if cpus_near == group]
        wanted = sum(len(shares[number]) for number in members)
        own = [len(group.intersection(shares[number])) for number in members]
        if not any(0 < len(one) < len(cpus) for one in near):
            continue  # all are near all of them: that tells nothing
        assert sum(own) == min(wanted, len(group)), "none of the near cores is left to others"
        assert not own or max(own) - min(own) <= threads


def test_a_process_that_shares_a_physical_core_is_none() -> None:
    shares = share_cores([0, 4, 1, 5, 2, 6, 3, 7], ["ps", "worker"], None, 2, [set(), {2, 3}])
    assert shares == [(0, 4, 1, 5), (2, 6, 3, 7)]


def _cores(site: Site, **job: object) -> dict[str, str]:
    resolved = resolve(msgspec.convert({"nodes": 1, **job}, JobSpec), site)
    found = place(resolved, site, expected_facts(resolved, site, ["n1"])).processes
    return {process.name: process.core_list for process in found}


def _lists(names: Sequence[str]) -> dict[str, str]:
    return {f"worker:{number}": name for number, name in enumerate(names)}


def test_delta_numbers_its_gpus_against_its_cores() -> None:
    site = Site(name="delta", cores=64, gpus=4, gpu_cores=("48-63", "32-47", "16-31", "0-15"))
    # The ps takes the cores that each worker leaves next to its GPU.
    assert _cores(site) == {
        "ps:0": "13-15,29-31,45-47,61-63",
        **_lists(["48-60", "32-44", "16-28", "0-12"]),
    }
    assert _cores(site, mode="horovod") == _lists(["48-63", "32-47", "16-31", "0-15"])
    # A job with a half of a node sees the cores next to its GPUs.
    assert _cores(site, mode="horovod", gpus=2) == _lists(["48-63", "32-47"])


def test_lumi_gives_each_gpu_its_seven_cores() -> None:
    table = ("49-55", "57-63", "17-23", "25-31", "1-7", "9-15", "33-39", "41-47")
    site = Site(name="lumi", cores=56, gpus=8, reserved_cores="0,8,16,24,32,40,48,56", gpu_cores=table)
    assert _cores(site, mode="horovod") == _lists(table)
    with_ps = _cores(site)
    assert with_ps["worker:0"] == "49-55"
    assert with_ps["worker:2"] == "17-22"


def test_two_gpus_with_the_same_cores_share_them_and_take_the_rest_elsewhere() -> None:
    table = ("48-63", "48-63", "16-31", "16-31", "112-127", "112-127", "80-95", "80-95")
    site = Site(name="delta", cores=128, gpus=8, gpu_cores=table)
    found = _cores(site, mode="horovod")
    for number, near in enumerate(table):
        own, (first, last) = cores_in(found[f"worker:{number}"]), near.split("-")
        assert len(own) == 16
        assert len(set(own) & set(range(int(first), int(last) + 1))) == 8


def test_a_worker_stays_on_the_socket_of_its_gpu() -> None:
    near: list[set[int]] = [set(), {0, 1, 2, 3}, {8, 9, 10, 11}]
    cores = list(range(16))
    shares = share_cores(cores, ["ps", "worker", "worker"], 2, near=near)
    assert shares == [(7, 15), (0, 1, 2, 3, 4, 5, 6), (8, 9, 10, 11, 12, 13, 14)]
    # The node itself tells its sockets, of which it may have four.
    sockets = [core // 4 for core in cores]
    shares = share_cores(cores, ["worker", "worker"], None, near=[{4, 5}, {8, 9}], sockets=sockets)
    assert set(shares[0]) >= {4, 5, 6, 7}
    assert set(shares[1]) >= {8, 9, 10, 11}


def test_perlmutter_binds_to_whole_cores_with_both_threads() -> None:
    site = Site(name="nersc", cores=128, threads_per_core=2, gpus=4, gpu_cores=("48-63", "32-47", "16-31", "0-15"))
    assert _cores(site, mode="horovod")["worker:0"] == "48-63,112-127"
    job = resolve(JobSpec(mode="horovod", gpus=1), site)
    assert job.cores == 32
    (process,) = place(job, site, expected_facts(job, site, ["n1"])).processes
    assert (process.core_list, process.threads) == ("48-63,112-127", 16)


def test_where_nothing_is_known_of_gpus_the_cores_come_in_runs() -> None:
    site = Site(name="k80", cores=16, gpus=4)
    expected = {"ps:0": "0-2", **_lists(["3-6", "7-9", "10-12", "13-15"])}
    assert _cores(site) == expected
    job = resolve(JobSpec(), site)
    everywhere = tuple(range(16))
    facts = NodeFacts("n1", tuple("0123"), everywhere, gpu_cores=(everywhere,) * 4)
    assert {p.name: p.core_list for p in place(job, site, [facts]).processes} == expected


def test_a_worker_with_several_gpus_is_near_all_of_them() -> None:
    site = Site(name="x", cores=16, gpus=4, gpu_cores=("12-15", "8-11", "4-7", "0-3"))
    assert _cores(site, mode="horovod", workers=2) == _lists(["8-15", "0-7"])


def test_an_idle_thread_is_no_thread_of_openmp() -> None:
    idris = Site(name="idris", cores=40, gpus=4, slurm={"hint": "nomultithread"})
    job = resolve(JobSpec(mode="horovod"), idris)
    cpus = tuple(cpu for core in range(40) for cpu in (core, core + 40))  # what the kernel lets the job use
    found = place(job, idris, [NodeFacts("n1", tuple("0123"), cpus, threads=2)]).processes
    assert (found[0].core_list, found[0].threads) == ("0-9,40-49", 10)
    unbound = place(job, idris, [NodeFacts("n1", tuple("0123"))]).processes
    assert unbound[0].threads == 10
    hyper = Site(name="h", cores=80, threads_per_core=2, gpus=4)
    job = resolve(JobSpec(mode="horovod"), hyper)
    assert place(job, hyper, [NodeFacts("n1", tuple("0123"))]).processes[0].threads == 10
    assert resolve(JobSpec(slurm={"hint": "nomultithread"}), hyper).cores == 40
