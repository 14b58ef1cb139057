"""Placement: what holds for every job on every site."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.planning.place import expected_facts, place, resolve
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import NodeFacts, Placement, Process, classic_flags, tf_config
from hpc_dl.spec.site import Site

K80 = Site(name="k80", cores=16, gpus=4, interconnect_suffix="-ib0", ports=(2220, 6219))


@dataclass(frozen=True)
class Case:
    job: JobSpec
    site: Site
    facts: list[NodeFacts]
    first_port: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A job that fits its site, and what its nodes tell: some ports are in use, some cores are another job's."""
    gpus = draw(st.integers(0, 8))
    low = draw(st.integers(1024, 60000))
    site = Site(
        name="any",
        cores=draw(st.integers(1, 64)),
        gpus=gpus,
        interconnect_suffix=draw(st.sampled_from(["", "-ib0"])),
        address=draw(st.sampled_from(["", "127.0.0.1"])),
        ports=(low, low + 300),
        exclusive=draw(st.booleans()),
    )
    own = draw(st.none() | st.integers(0, gpus))
    used = gpus if own is None else own
    workers = draw(st.none() | st.sampled_from([n for n in range(1, 9) if not used or used % n == 0]))
    nodes = draw(st.integers(1, 6))
    job = JobSpec(
        nodes=nodes,
        gpus=own,
        workers=workers,
        ps=draw(st.none() | st.integers(1, nodes * (workers or used or 1))),
        chief=draw(st.booleans()),
        script="/train.py",
    )
    cores = st.one_of(st.just(()), st.sets(st.integers(0, 127), max_size=64).map(lambda s: tuple(sorted(s))))
    busy = st.frozensets(st.integers(low, low + 30), max_size=20)
    names = draw(st.permutations([f"n{number}" for number in range(nodes)]))
    ids = tuple(str(gpu) for gpu in draw(st.permutations(range(gpus))))
    facts = [NodeFacts(name, ids, draw(cores), draw(busy)) for name in names]
    return Case(resolve(job, site), site, facts, draw(st.integers(0, 10**9)))


def placed(case: Case) -> Placement:
    return place(case.job, case.site, case.facts, case.first_port)


@given(cases())
@settings(max_examples=150)
def test_what_holds_for_every_placement(case: Case) -> None:
    placement = placed(case)
    facts = {fact.node: fact for fact in case.facts}
    nodes = placement.by_node()
    assert list(nodes) == list(placement.nodes) == [fact.node for fact in case.facts], "the order of nodes is kept"

    addresses = [(process.host, process.port) for process in placement.processes]
    assert len(set(addresses)) == len(addresses), "no two processes share an address"
    for process in placement.processes:
        assert case.site.ports[0] <= process.port <= case.site.ports[1]
        assert process.host == (case.site.address or process.node + case.site.interconnect_suffix)
        assert process.port not in facts[process.node].busy_ports
        if case.site.address:
            assert all(process.port not in fact.busy_ports for fact in case.facts), "one machine has one set of ports"
        assert process.role == "worker" or not process.gpus, "a ps or chief has no GPU"
        assert set(process.cores) <= set(facts[process.node].cores)

    for node, here in nodes.items():
        gpus = [gpu for process in here for gpu in process.gpus]
        assert tuple(gpus) == facts[node].gpus[: case.job.gpus], "each GPU of the job belongs to one worker"
        cores = [core for process in here for core in process.cores]
        assert len(set(cores)) == len(cores), "no core belongs to two processes"
        bound = {bool(process.cores) for process in here}
        assert len(bound) == 1, "all processes of a node are bound, or none"
        assert bound == {False} or cores == list(facts[node].cores), "no core is idle"
        sizes = [len(process.cores) for process in here if process.role == "worker"]
        assert max(sizes) - min(sizes) <= 1
        assert len({len(process.gpus) for process in here if process.role == "worker"}) == 1

    per_node = Counter(process.node for process in placement.processes if process.role == "ps")
    counts = [per_node[node] for node in placement.nodes]
    assert max(counts) - min(counts) <= 1, "ps are spread over the nodes"
    expected = {"ps": case.job.ps or 0, "chief": int(case.job.chief), "worker": case.job.nodes * case.job.per_node}
    for role, count in expected.items():
        indices = [process.index for process in placement.processes if process.role == role]
        assert indices == list(range(count)), "task_index counts from 0, in the order of the nodes"


@given(cases())
@settings(max_examples=50)
def test_tf_config_says_for_each_process_what_it_is(case: Case) -> None:
    placement = placed(case)
    cluster = placement.cluster()
    for process in placement.processes:
        config = json.loads(tf_config(cluster, process.role, process.index))
        assert config["task"] == {"type": process.role, "index": process.index}
        assert config["cluster"][process.role][process.index] == process.address
        flags = dict(
            flag.removeprefix("--").split("=", 1) for flag in classic_flags(cluster, process.role, process.index)
        )
        assert flags["ps_hosts"].split(",") == cluster["ps"]
        assert flags["worker_hosts"].split(",") == cluster["worker"]
        assert (flags["job_name"], flags["task_index"]) == (process.role, str(process.index))


@given(cases())
@settings(max_examples=30)
def test_the_same_input_gives_the_same_placement(case: Case) -> None:
    assert placed(case) == placed(case)


@given(st.sets(st.integers(0, 200), max_size=40))
def test_taskset_reads_the_core_list_as_meant(cores: set[int]) -> None:
    process = Process("worker", 0, "n", "n", 1, (), tuple(sorted(cores)))
    read: set[int] = set()
    for part in filter(None, process.core_list.split(",")):
        first, _, last = part.partition("-")
        read.update(range(int(first), int(last or first) + 1))
    assert read == cores


def _bound(cores: tuple[int, ...], threads: int, **settings: Any) -> list[str]:
    """Return the core list of each process of a node."""
    site = msgspec.structs.replace(K80, cores=len(cores))
    facts = NodeFacts("n1", ("0", "1", "2"), cores, threads=threads)
    job = resolve(JobSpec(gpus=2, cores=len(cores), **settings), site)
    return [process.core_list for process in place(job, site, [facts]).processes]


def test_processes_share_no_physical_core() -> None:
    # Two sockets, 0-3 and 4-7, whose second threads are 8-11 and 12-15.
    cores = tuple(itertools.chain.from_iterable((core, core + 8) for core in range(8)))
    assert _bound(cores, 2) == ["0-1,8-9", "2-4,10-12", "5-7,13-15"]
    assert _bound(cores, 2, ps_cores=1) == ["0,8", "1-4,9-12", "5-7,13-15"]
    # Two cores for three processes.
    assert _bound((0, 8, 1, 9), 2) == ["0", "1,8", "9"]


def test_a_ps_has_the_cores_that_were_asked_for() -> None:
    job = resolve(JobSpec(gpus=2, ps_cores=4), K80)
    ps, *workers = place(job, K80, [NodeFacts("n1", ("2", "3"), tuple(range(16)))]).processes
    assert (ps.core_list, [w.core_list for w in workers]) == ("0-3", ["4-9", "10-15"])
    assert [w.visible_gpus for w in workers] == ["2", "3"]
    assert workers[0].summary == "worker 0 (GPU 2, cores 4-9, n1-ib0:2221)"
    assert ps.summary == "ps 0 (no GPU, cores 0-3, n1-ib0:2220)"


def test_parameter_servers_may_have_nodes_of_their_own() -> None:
    job = resolve(JobSpec(nodes=2, gpus=2, ps=3, ps_nodes=2), K80)
    facts = expected_facts(job, K80, ["n1", "n2", "c1", "c2"])
    found = place(job, K80, facts).processes
    assert [(p.name, p.node, p.visible_gpus, p.core_list) for p in found] == [
        ("worker:0", "n1", "0", "0-3"),
        ("worker:1", "n1", "1", "4-7"),
        ("worker:2", "n2", "0", "0-3"),
        ("worker:3", "n2", "1", "4-7"),
        ("ps:0", "c1", "", "0-3"),
        ("ps:1", "c1", "", "4-7"),
        ("ps:2", "c2", "", "0-7"),
    ]
    assert job.ps_node_cores == 8
    unbound = place(job, K80, [msgspec.structs.replace(one, cores=()) for one in facts]).processes
    assert [process.threads for process in unbound] == [4, 4, 4, 4, 4, 4, 8]


@pytest.mark.parametrize(
    ("job", "ps", "ps_nodes", "cores"),
    [
        ({"ps_partition": "cpu"}, 1, 1, 4),
        ({"ps_nodes": 2}, 2, 2, 4),
        ({"ps_nodes": 2, "ps": 3}, 3, 2, 8),
        ({"ps_nodes": 1, "ps": 3, "ps_cores": 20}, 3, 1, 60),  # the nodes of workers may be smaller
        ({}, 1, 0, 4),
    ],
)
def test_what_nodes_of_parameter_servers_have(job: dict[str, Any], ps: int, ps_nodes: int, cores: int) -> None:
    found = resolve(JobSpec(**job), K80)
    assert (found.ps, found.ps_nodes, found.ps_node_cores) == (ps, ps_nodes, cores)
    assert resolve(found, K80) == found


def test_two_jobs_on_a_node_do_not_meet() -> None:
    job = resolve(JobSpec(), K80)
    first = place(job, K80, [NodeFacts("n1", tuple("0123"))])
    busy = frozenset(process.port for process in first.processes)
    second = place(job, K80, [NodeFacts("n1", tuple("0123"), (), busy)])
    assert busy.isdisjoint(process.port for process in second.processes)


def test_a_node_without_a_free_port_is_named() -> None:
    site = msgspec.structs.replace(K80, ports=(2220, 2225))
    facts = [NodeFacts("n1", tuple("0123"), (), frozenset([2221, 2222]))]
    with pytest.raises(
        UserError, match=r"node n1: no port left in the site's range 2220-2225: 2 in use there, 4 by this"
    ):
        place(resolve(JobSpec(), site), site, facts)


def test_a_node_with_too_few_gpus_is_named() -> None:
    with pytest.raises(UserError, match="node n1: the job needs 4 GPUs, visible there: 0, 1"):
        place(resolve(JobSpec(), K80), K80, [NodeFacts("n1", ("0", "1"))])


@pytest.mark.parametrize(
    ("job", "site", "expected"),
    [
        ({}, K80, {"gpus": 4, "cores": 16, "ps": 1}),
        ({"gpus": 2}, K80, {"gpus": 2, "cores": 8, "ps": 1}),
        ({"gpus": 1, "nodes": 4, "ps": 2}, K80, {"gpus": 1, "cores": 4, "ps": 2}),
        ({"gpus": 0}, K80, {"gpus": 0, "cores": 16}),
        ({"gpus": 2}, msgspec.structs.replace(K80, exclusive=True), {"cores": 16}),
        ({"cores": 3}, K80, {"cores": 3}),
        ({"mode": "single"}, K80, {"gpus": 1, "cores": 4, "ps": None}),
        ({"mode": "single", "gpus": 4}, K80, {"gpus": 4, "cores": 16, "ps": None}),
        ({}, Site(cores=8), {"gpus": 0, "cores": 8, "ps": 1}),
        ({"mode": "single"}, Site(cores=8), {"gpus": 0, "cores": 8, "ps": None, "towers": 1}),
        ({"mode": "single", "towers": 2}, K80, {"gpus": 2, "towers": 2}),
        ({"mode": "mixed"}, K80, {"gpus": 4, "cores": 16, "ps": 1, "towers": 4}),
        ({"mode": "mixed", "workers": 2}, K80, {"towers": 2}),
        ({"mode": "mixed", "towers": 3}, K80, {"towers": 3}),
        ({"mode": "mixed", "towers": 3}, Site(cores=8), {"towers": 3}),
        ({"mode": "sync"}, K80, {"ps": 1, "towers": None}),
    ],
)
def test_what_the_site_fills_in(job: dict[str, Any], site: Site, expected: dict[str, Any]) -> None:
    resolved = resolve(JobSpec(**job), site)
    assert {key: getattr(resolved, key) for key in expected} == expected
    assert resolve(resolved, site) == resolved, "a resolved job stays as it is"


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"gpus": 5}, "gpus = 5: a node of site 'k80' has 4 (allowed: 0 to 4)"),
        ({"cores": 17}, "cores = 17: a node of site 'k80' has 16"),
        ({"ps_cores": 17}, "ps_cores = 17: the job has 16 cores on each node"),
        ({"gpus": 1, "ps_cores": 5}, "ps_cores = 5: the job has 4 cores on each node"),
        ({"workers": 3}, "workers = 3: 4 GPUs can't be shared out equally among them"),
        ({"workers": 8}, "workers = 8: 4 GPUs can't be shared out equally among them"),
        ({"mode": "mixed", "towers": 5}, "towers = 5: a worker of this job has 4 GPUs (allowed: 1 to 4)"),
        (
            {"mode": "sync", "backup_workers": 4},
            "backup_workers = 4: must be less than the workers, which are 4",
        ),
        ({"ps": 1, "ps_nodes": 2}, "ps_nodes = 2: more nodes than parameter servers, of which the job has 1"),
        ({"nodes": 2, "ps": 9}, "ps = 9: more parameter servers than workers, of which the job has 8"),
    ],
)
def test_what_a_site_cannot_give_is_refused(job: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(JobSpec(**job), K80)
    assert str(caught.value) == message


def test_single_is_one_process_with_all_the_gpus_asked_for() -> None:
    job = resolve(JobSpec(mode="single", gpus=4), K80)
    (process,) = place(job, K80, expected_facts(job, K80, ["n1"])).processes
    assert (process.name, process.visible_gpus, process.core_list) == ("worker:0", "0,1,2,3", "0-15")


def test_no_core_belongs_to_a_node_where_all_nodes_are_one_machine() -> None:
    site = msgspec.structs.replace(K80, address="127.0.0.1")
    job = resolve(JobSpec(nodes=2), site)
    placement = place(job, site, expected_facts(job, site, ["n1", "n2"]))
    assert all(not process.cores and process.threads == 1 for process in placement.processes)
    assert {process.host for process in placement.processes} == {"127.0.0.1"}


def test_processes_that_are_not_bound_share_the_jobs_cores() -> None:
    job = resolve(JobSpec(nodes=1, gpus=2, cores=9), K80)
    placement = place(job, K80, [NodeFacts("n1", ("0", "1"))])
    assert [(process.core_list, process.threads) for process in placement.processes] == [("", 3)] * 3


def test_nodes_of_a_local_run_share_the_gpus_of_this_machine() -> None:
    site = Site(name="local", cores=8, gpus=4, scheduler="local", address="127.0.0.1")
    assert resolve(JobSpec(nodes=2), site).gpus == 2
    with pytest.raises(UserError, match=r"gpus = 3: a node of site 'local' has 2 \(allowed: 0 to 2\)"):
        resolve(JobSpec(nodes=2, gpus=3), site)


def test_a_local_run_has_no_nodes_for_parameter_servers() -> None:
    site = Site(name="local", cores=8, scheduler="local", address="127.0.0.1")
    with pytest.raises(UserError, match="ps_nodes = 1: the nodes of site 'local' are one machine: leave it out"):
        resolve(JobSpec(ps_partition="cpu"), site)


def test_mixed_is_one_worker_per_node_with_all_gpus() -> None:
    job = resolve(JobSpec(mode="mixed", nodes=2), K80)
    ps, *workers = place(job, K80, expected_facts(job, K80, ["n1", "n2"])).processes
    assert (ps.name, ps.visible_gpus) == ("ps:0", "")
    assert [(worker.name, worker.node, worker.visible_gpus) for worker in workers] == [
        ("worker:0", "n1", "0,1,2,3"),
        ("worker:1", "n2", "0,1,2,3"),
    ]
