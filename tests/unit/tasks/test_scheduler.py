"""The scheduler and the pool against an independent model of what must become of each task."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.spec.nodelist import expand
from hpc_dl.tasks.file.task import Task
from hpc_dl.tasks.pool import Demand, Node, Pool
from hpc_dl.tasks.scheduler import Scheduler, Start, TaskState

NODES = [Node("n1", (0, 1, 2, 3), ("0", "1"), 1000), Node("n2", (0, 1), ("0", "1", "2", "3"), 500), Node("n3", (4, 5))]


def demand(task: Task) -> Demand:
    return Demand(task.cores or 1, task.gpus or 0, task.memory, task.node, task.nodes)


def reference(tasks: Sequence[Task], failing: set[int]) -> dict[int, TaskState]:
    """Return the states as the user guide defines them."""
    states: dict[int, TaskState] = {}
    for task in tasks:
        if any(states[parent] is not TaskState.OK for parent in task.after):
            states[task.number] = TaskState.CANCELLED
        else:
            states[task.number] = TaskState.FAILED if task.number in failing else TaskState.OK
    return states


@st.composite
def graphs(draw: st.DrawFn) -> list[Task]:
    tasks: list[Task] = []
    for number in range(1, draw(st.integers(1, 25)) + 1):
        after = draw(st.sets(st.integers(1, number - 1), max_size=3)) if number > 1 else set()
        wants: dict[str, Any] = draw(
            st.sampled_from(
                [
                    *({}, {"gpus": 1}, {"gpus": 4}, {"cores": 4}, {"memory": 600}, {"node": "n[2-3]"}),
                    *({"nodes": 2}, {"nodes": 3, "cores": 2}, {"nodes": 2, "gpus": 2}, {"nodes": 2, "node": "n[1,3]"}),
                ]
            )
        )
        tasks.append(Task(number, "true", tuple(sorted(after)), **wants))
    return tasks


def play(scheduler: Scheduler, failing: set[int], order: random.Random) -> list[int]:
    """Let tasks start and end, the next one by chance; check what they have; return the order of the starts."""
    started: list[int] = []
    have: dict[int, Start] = {}
    while True:
        for start in scheduler.starts():
            started.append(start.task.number)
            have[start.task.number] = start
            task = start.task
            assert len({share.node for share in start.shares}) == len(start.shares) == task.nodes
            assert {share.node for share in start.shares} <= set(expand(task.node or "n[1-3]"))
            for share in start.shares:
                assert (len(share.cores), len(share.gpus)) == (task.cores or 1, task.gpus or 0)
                assert share.memory == task.memory
        shares = [share for one in have.values() for share in one.shares]
        cores = [(share.node, core) for share in shares for core in share.cores]
        gpus = [(share.node, gpu) for share in shares for gpu in share.gpus]
        assert len(set(cores)) == len(cores)
        assert len(set(gpus)) == len(gpus)
        for node in NODES:
            assert sum(share.memory for share in shares if share.node == node.name) <= node.memory
        assert set(scheduler.running) == set(have)
        if not have:
            return started
        number = order.choice(sorted(have))
        del have[number]
        scheduler.ended(number, number not in failing)


@settings(max_examples=300)
@given(graphs(), st.sets(st.integers(1, 25)), st.randoms(use_true_random=False), st.integers(0, 2))
def test_states_are_those_of_the_model(
    tasks: list[Task], failing: set[int], order: random.Random, retries: int
) -> None:
    scheduler = Scheduler(tasks, Pool(NODES), demand, retries)
    started = play(scheduler, failing, order)
    expected = reference(tasks, failing)
    assert scheduler.states == expected
    for number, state in expected.items():
        tries = {TaskState.OK: 1, TaskState.FAILED: 1 + retries, TaskState.CANCELLED: 0}[state]
        assert started.count(number) == scheduler.attempts[number] == tries


@settings(max_examples=100)
@given(graphs(), st.sets(st.integers(1, 25)), st.randoms(use_true_random=False))
def test_what_is_resumed_completes_and_runs_nothing_twice(
    tasks: list[Task], failing: set[int], order: random.Random
) -> None:
    first = Scheduler(tasks, Pool(NODES), demand)
    play(first, failing, order)
    done = {number for number, state in first.states.items() if state is TaskState.OK}
    second = Scheduler(tasks, Pool(NODES), demand, done=done)
    assert sorted(play(second, set(), order)) == sorted(set(first.states) - done)
    assert set(second.states.values()) == {TaskState.OK}


def names(starts: list[Start]) -> list[tuple[int, str]]:
    return [(start.task.number, start.node) for start in starts]


def test_the_longest_chain_starts_first_then_the_largest() -> None:
    tasks = [Task(1, "a"), Task(2, "b", cores=2), Task(3, "c"), Task(4, "d", (3,)), Task(5, "e", (4,))]
    scheduler = Scheduler(tasks, Pool([Node("n", (0, 1))]), demand)
    assert names(scheduler.starts()) == [(3, "n")]  # and task 2 keeps the node for itself
    scheduler.ended(3, True)
    assert names(scheduler.starts()) == [(4, "n")]


def test_a_large_task_is_not_overtaken_for_ever() -> None:
    tasks = [Task(1, "a"), Task(2, "b"), Task(3, "big", cores=2), Task(4, "c"), Task(5, "d")]
    pool = Pool([Node("n", (0, 1))])
    scheduler = Scheduler(tasks, pool, demand)
    assert names(scheduler.starts()) == [(3, "n")]
    scheduler.ended(3, False)
    assert names(scheduler.starts()) == [(1, "n"), (2, "n")]


@pytest.mark.parametrize("seed", range(20))
def test_a_task_of_several_nodes_is_not_overtaken_for_ever(seed: int) -> None:
    chance = random.Random(seed)
    nodes = [Node(f"n{number}", (0, 1, 2)) for number in range(4)]
    wide = Task(2, "wide", (1,), nodes=3, cores=2)
    # The others are as long as it, and there are always more of them than room.
    tasks = [Task(1, "first"), wide, *(Task(number, "narrow") for number in range(3, 200))]
    scheduler = Scheduler(tasks, Pool(nodes), demand)
    running: list[int] = []
    ends = 0
    while scheduler.states[2] is TaskState.WAITING:
        running += [start.task.number for start in scheduler.starts()]
        # Each task ends in time, though not in order: one of the four oldest.
        number = running.pop(chance.randrange(min(4, len(running))))
        scheduler.ended(number, True)
        ends += scheduler.states[1] is TaskState.OK
    assert ends < 40
    assert sum(state is TaskState.WAITING for state in scheduler.states.values()) > 100


def test_what_several_nodes_wait_for_does_not_hold_up_the_others() -> None:
    nodes = [Node(name, (0, 1)) for name in ("n1", "n2", "n3")]
    tasks = [
        Task(1, "a", node="n1"),
        Task(2, "wide", nodes=2, cores=2),
        *(Task(n, "b", (1,) * (n > 4)) for n in (3, 4, 5)),
    ]
    pool = Pool(nodes)
    scheduler = Scheduler(tasks, pool, demand)
    assert sorted(names(scheduler.starts())) == [(1, "n1"), (2, "n2"), (3, "n1")]
    assert [share.node for share in scheduler.running[2]] == ["n2", "n3"]
    pool.lose("n2")
    pool.lose("n3")
    scheduler.lost(2)
    scheduler.ended(1, True)  # and now task 2 can never run
    assert names(scheduler.starts()) == [(4, "n1")]


def test_gpu_tasks_fill_nodes_up_and_others_spread() -> None:
    nodes = [Node("n1", tuple(range(8)), ("0", "1")), Node("n2", tuple(range(8)), ("0", "1"))]
    gpu = Scheduler([Task(n, "a", gpus=1) for n in (1, 2)], Pool(nodes), demand)
    assert names(gpu.starts()) == [(1, "n1"), (2, "n1")]
    cpu = Scheduler([Task(n, "a") for n in (1, 2)], Pool(nodes), demand)
    assert names(cpu.starts()) == [(1, "n1"), (2, "n2")]


def test_a_task_lost_with_its_node_runs_elsewhere_without_using_up_a_retry() -> None:
    pool = Pool([Node("n1", (0,)), Node("n2", (0,))])
    scheduler = Scheduler([Task(1, "a")], pool, demand, retries=1)
    assert names(scheduler.starts()) == [(1, "n1")]
    pool.lose("n1")
    scheduler.lost(1)
    assert names(scheduler.starts()) == [(1, "n2")]
    scheduler.ended(1, False)
    assert (scheduler.attempts[1], names(scheduler.starts())) == (2, [(1, "n2")])


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (Demand(), ""),
        (Demand(cores=5), "wants 5 cores; the most that a node has is 4"),
        (Demand(gpus=5), "wants 5 GPUs; the most that a node has is 4"),
        (Demand(memory=2000), "wants 2000 MiB of memory; the most that a node has is 1000"),
        (Demand(node="nn3"), "node 'nn3' is none of this run (did you mean 'n3'?)"),
        (Demand(node="n[1-2]", gpus=4), ""),
        (Demand(node="n[1,3]", gpus=4), "wants 4 GPUs; the most that a node has is 2"),
        (Demand(cores=4, gpus=4), "no node has all that it wants together"),
        (Demand(nodes=3, cores=2), ""),
        (Demand(nodes=4), "wants 4 nodes at once; this run has 3"),
        (Demand(nodes=3, node="n[1-2]"), "wants 3 nodes at once; this run has 2 called n[1-2]"),
        (Demand(nodes=3, gpus=1), "wants 3 nodes at once; 2 of this run have what it wants of each"),
        (Demand(nodes=2, gpus=5), "wants 5 GPUs; the most that a node has is 4"),
    ],
)
def test_what_can_never_run_is_named(wanted: Demand, problem: str) -> None:
    assert Pool(NODES).problem(wanted) == problem


def test_no_node_is_an_error() -> None:
    with pytest.raises(UserError, match="no node"):
        Pool([])
