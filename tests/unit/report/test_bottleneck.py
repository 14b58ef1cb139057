"""Each cause is named from its figures, and where no figure is at a limit nothing is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_dl.monitor.reading import read_node
from hpc_dl.monitor.records import Sample, Start, Traffic, Use
from hpc_dl.report.bottleneck import findings
from hpc_dl.report.measured import measure
from hpc_dl.report.one_job import situation
from hpc_dl.report.situation import Link, NodeUse, ProcessUse, Situation, uses
from hpc_dl.spec.placement import Placement, Process
from hpc_dl.spec.site import Site
from tests.unit.report.runs import make_run, write_lines

GBIT = 1e9


def worker(index: int, cpu: float = 2.0, node: str = "", gpus: int = 0, cores: int = 4) -> ProcessUse:
    return ProcessUse(f"worker {index}", "worker", node or f"n{index}", cpu, cores, gpus)


def node(index: int, **keys: Any) -> NodeUse:
    return NodeUse(**{"name": f"n{index}", "cores": 16, "busy": 4.0, "own": 4.0, "link": link(0.2, 0.2), **keys})


def link(sent: float, received: float) -> Link:
    return Link("eth0", sent * GBIT, received * GBIT, GBIT)


def cluster(*nodes: NodeUse, ps_cpu: float = 0.5, **keys: Any) -> Situation:
    """Return a ps and a worker on n0, workers on n1 and n2; `nodes` replace nodes that have nothing to say."""
    base = {
        "processes": [ProcessUse("ps 0", "ps", "n0", ps_cpu, 2), *(worker(index) for index in range(3))],
        "nodes": [{one.name: one for one in nodes}.get(f"n{index}", node(index)) for index in range(3)],
        "step_seconds": {f"worker {index}": 0.4 for index in range(3)},
    }
    return Situation(**{**base, **keys})


GPU_WORKERS = [worker(index, gpus=1) for index in range(3)]
CASES = {
    "nothing": (cluster(), None, ""),
    "network of a ps": (
        cluster(node(0, link=link(0.94, 0.5))),
        "ps 0's network",
        "Node n0 sends 94% and receives 50% of the 1 Gbit/s of eth0.",
    ),
    "network of a ps, in turns": (
        cluster(node(0, link=link(0.5, 0.45))),
        "ps 0's network",
        "Node n0 sends 50% and receives 45% of the 1 Gbit/s of eth0.",
    ),
    "network of one worker": (cluster(node(2, link=link(0.1, 0.9))), "node n2's network", "On it: worker 2."),
    "network of a ring": (
        cluster(
            *(node(n, link=link(0.9, 0.9)) for n in range(3)), processes=[worker(n) for n in range(3)], synchronous=True
        ),
        "the network of all nodes",
        "and the others are alike",
    ),
    "CPU of a ps": (cluster(ps_cpu=1.95), "ps 0's CPU", "It uses 1.9 of its 2 cores."),
    "half a core for a ps": (
        cluster(processes=[ProcessUse("ps 0", "ps", "n0", 0.5, 2, waited=0.5), worker(0), worker(1)]),
        "ps 0's CPU",
        "It uses 0.5 cores, and waits for a core 50% of the time in which it could compute",
    ),
    "quota of one worker": (
        cluster(processes=[worker(0), worker(1), msgspec.structs.replace(worker(2), waited=3.0)], synchronous=True),
        "worker 2's CPU",
        "waits for a core 60% of the time",
    ),
    "more threads than cores": (
        cluster(processes=[msgspec.structs.replace(worker(n, cpu=3.9), waited=9.0) for n in range(3)]),
        "the workers' cores",
        "They use 11.7 of 12 cores.",
    ),
    "other programs": (
        cluster(node(1, busy=16.0)),
        "other programs on node n1",
        "12.0 of them with what is not of this job",
    ),
    "slow worker, each at its pace": (
        cluster(step_seconds={"worker 0": 0.4, "worker 1": 0.9, "worker 2": 0.41}),
        "worker 1 on node n1",
        "A step takes 900 ms, that of the others 405 ms",
    ),
    "worker with a slow network": (
        cluster(
            step_seconds={"worker 0": 0.4, "worker 1": 0.9, "worker 2": 0.41},
            processes=[worker(0), worker(1, cpu=0.5), worker(2)],
        ),
        "the network of worker 1 on node n1",
        "it computes 12% of the time, the others 50%",
    ),
    "straggler, all in step": (
        cluster(synchronous=True, processes=[worker(0, 1.0), worker(1, 3.9), worker(2, 1.2)]),
        "worker 1 on node n1",
        "they wait for it in each step",
    ),
    "disk": (cluster(node(1, iowait=4.0)), "the disk of node n1", "4.0 cores wait for a disk"),
    "input": (
        cluster(
            *(node(n, gpu_use=0.4) for n in range(3)),
            processes=[*(worker(n, gpus=1) for n in range(2)), worker(2, cpu=3.9, gpus=1)],
        ),
        "the input of worker 2",
        "Its GPUs compute 40% of the time, and it uses all of its 4 cores.",
    ),
    "start": (cluster(start_seconds=300.0, all_seconds=600.0), "the start", "300 of 600 seconds"),
    "GPUs compute": (
        cluster(*(node(n, gpu_use=0.95) for n in range(3)), processes=GPU_WORKERS),
        "the workers' GPUs",
        "They compute 95% of the time.",
    ),
    "cores compute": (
        cluster(processes=[worker(n, cpu=3.9) for n in range(3)]),
        "the workers' cores",
        "They use 11.7 of 12 cores.",
    ),
    "all cores of a machine": (
        cluster(node(0, busy=15.9, own=15.5), processes=[worker(0, cores=0)]),
        "the cores of node n0",
        "All cores are busy there, 15.5 of them with this job.",
    ),
    "idle GPUs and nothing full": (cluster(*(node(n, gpu_use=0.3) for n in range(3)), processes=GPU_WORKERS), None, ""),
    "short start": (cluster(start_seconds=30.0, all_seconds=40.0), None, ""),
    "nothing measured": (Situation([], []), None, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named(case: str) -> None:
    now, what, why = CASES[case]
    found = findings(now)
    assert [one.what for one in found] == ([what] if what else [])
    assert not found or why in found[0].why


def test_the_usual_step_is_set_beside_the_fastest() -> None:
    now = cluster(node(0, link=link(0.94, 0.5)), fastest_step=0.156)
    assert findings(now)[0].why.endswith("A step takes 400 ms, the fastest took 156 ms: up to 61% of it is waiting.")


def test_many_nodes_with_one_cause_are_one_finding() -> None:
    nodes = [node(number, busy=16.0) for number in range(64)]
    (found,) = findings(cluster(nodes=nodes))
    assert found.what == "other programs on nodes n0, n1, n2 and 61 more"


numbers = st.floats(0, 1e12)


@given(
    st.builds(
        Situation,
        st.lists(
            st.builds(
                ProcessUse,
                st.just("w"),
                st.sampled_from(["ps", "worker"]),
                st.sampled_from("ab"),
                numbers,
                st.integers(0, 9),
            )
        ),
        st.lists(st.builds(NodeUse, st.sampled_from("ab"), st.integers(1, 9), numbers, numbers)),
        st.booleans(),
        st.dictionaries(st.just("w"), st.floats(1e-6, 1e6)),
        numbers,
        numbers,
        numbers,
    )
)
def test_no_figures_break_the_rules(now: Situation) -> None:
    assert all(one.what and one.why and one.remedy for one in findings(now))


def test_the_busiest_link_is_that_with_the_largest_share_of_its_rate(tmp_path: Path) -> None:
    def sample(time: float, share: float) -> Sample:
        slow, fast = Traffic(int(share * 125e5), 0, 0, 0), Traffic(0, int(share * 125e6), 0, 0)
        processes = {"worker:0": Use(2 * time, 0, 4), "ps:0": Use(time, 0, 8)}
        return Sample(
            time=time,
            attempt=0,
            busy=3 * time,
            iowait=0.0,
            memory=0,
            network={"a": slow, "b": fast, "lo": fast},
            processes=processes,
        )

    write_lines(
        tmp_path / "n1.jsonl",
        [Start(0.0, 0, "n1", 8, 1, "n1", {"a": 100, "b": 10_000, "lo": 0}), sample(1, 0), sample(2, 0.9)],
    )
    placement = Placement(("n1",), (Process("worker", 0, "n1", "", 1, cores=(0, 1)), Process("ps", 0, "n1", "", 2)))
    nodes = {"n1": read_node(tmp_path / "n1.jsonl")}
    processes, (used,) = uses(nodes, placement, Site(cores=8))
    assert used.link == Link("a", 0.9 * 100e6, 0.0, 100e6)
    assert (used.busy, used.own) == (3.0, 3.0)
    # The smaller of what the placement gives and what the process may use.
    assert [(one.name, one.cpu, one.cores) for one in processes] == [("ps 0", 1.0, 8), ("worker 0", 2.0, 2)]
    told = uses(nodes, placement, Site(cores=8, network_gbit=10.0))[1][0].link
    assert told is not None
    assert (told.name, told.rate) == ("b", 10e9)


def test_the_situation_of_a_job_is_that_of_its_training(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    idle = Sample(time=1_700_001_300.0, attempt=0, busy=4.0 * 1190, iowait=0.0, memory=0)
    with (run.monitor / "n1.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(idle) + b"\n")
    now = situation(measure(run))
    assert math.isclose(now.nodes[0].busy, 4.0)
    assert now.nodes[0].link == Link("eth0", 80e6, 160e6, 1e9)
    assert now.step_seconds == {"worker 0": 0.13, "worker 1": 0.13}
    assert now.fastest_step == 0.1
    assert (now.start_seconds, now.all_seconds) == (110.0, 1200.0)


def test_nodes_that_are_one_machine_share_what_the_job_uses(tmp_path: Path) -> None:
    for number, machine in enumerate(("a", "a", "b")):
        use = [{f"worker:{number}": Use(cpu, 0)} for cpu in (0.0, 3.0)]
        samples = [Sample(1.0 + n, 0, 4.0 * n, 0.0, 0, processes=one) for n, one in enumerate(use)]
        write_lines(tmp_path / f"n{number}.jsonl", [Start(0.0, 0, f"n{number}", 8, 1, machine), *samples])
    nodes = {path.stem: read_node(path) for path in sorted(tmp_path.iterdir())}
    _, used = uses(nodes, None, Site(cores=8))
    assert [one.own for one in used] == [6.0, 6.0, 3.0]
