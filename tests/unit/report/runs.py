"""Run folders with made-up figures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from hpc_dl.monitor.records import Gpu, GpuKind, Sample, Start, Traffic, Use
from hpc_dl.runfolder.folder import RunFolder, to_toml
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.placement import Placement, Process
from hpc_dl.spec.site import Site

BEGUN = 1_700_000_000.0
HISTOGRAM = [[0.1, 30], [0.12589254117941673, 60], [0.19952623149688797, 10]]


def write_lines(path: Path, records: Iterable[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))


def make_run(folder: Path, name: str = "train-12", workers: int = 2, speed: float = 100.0, **keys: Any) -> RunFolder:
    """Return the run folder of a finished job: a ps and a worker on the first of two nodes, each node with a GPU."""
    run = RunFolder.create(folder / name)
    settings: dict[str, Any] = {"nodes": 2, "gpus": 1, "ps": 1, **keys}
    run.job_file.write_text(to_toml(JobSpec(**settings)))
    run.site_file.write_text(to_toml(Site(name="here", cores=8, node_price=3.0)))
    nodes = ("n1", "n2")
    processes = [Process("ps", 0, "n1", "n1", 20000)]
    processes += [Process("worker", index, nodes[index % 2], "n1", 20001 + index, ("0",)) for index in range(workers)]
    run.placement.write_bytes(msgspec.json.encode(Placement(nodes, tuple(processes))))
    events = [{"attempt": 0, "time": BEGUN, "event": "started"}, {"attempt": 0, "time": BEGUN + 1200, "event": "ended"}]
    write_lines(run.attempts, events)
    for index in range(workers):
        write_lines(run.metrics / f"worker-{index}.jsonl", metrics(index, speed))
    write_lines(
        run.metrics / "ps-0.jsonl", [{"time": BEGUN, "event": "traffic", "bytes_sent": 400, "bytes_received": 40}]
    )
    for node in nodes:
        write_lines(run.monitor / f"{node}.jsonl", monitor(node))
    confusion = [[9, 1], [0, 10]]
    result = {"test_accuracy": 0.95, "steps": 200, "steps_per_s": 0.2, "images_per_s": speed * workers, "images": 6400}
    run.result.write_text(json.dumps({**result, "confusion": confusion}))
    summary = {"state": "COMPLETED", "exit_code": 0, "started": BEGUN, "ended": BEGUN + 1200}
    run.summary.write_text(json.dumps(summary))
    return run


def metrics(index: int, speed: float) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"time": BEGUN + 5, "event": "imported", "devices": ["K80"]}]
    for number in range(1, 101):
        figures = {
            "steps_per_s": 0.1,
            "global_steps_per_s": 0.2,
            "images_per_s": speed,
            "loss": 2 / number,
            "accuracy": 0.5,
        }
        lines.append({"time": BEGUN + 100 + 10 * number, "step": 2 * number - index, "local_step": number, **figures})
    lines.append({"time": BEGUN + 1150, "event": "evaluated", "step": 200, "test_loss": 0.1, "test_accuracy": 0.9})
    times = {"min": 0.1, "median": 0.13, "p90": 0.2, "p99": 0.21, "max": 0.25, "histogram": HISTOGRAM}
    moved = {"bytes_sent": 1000, "bytes_received": 2000}
    return [*lines, {"time": BEGUN + 1160, "event": "trained", "local_steps": 100, "step_seconds": times, **moved}]


def monitor(node: str) -> list[Any]:
    start = Start(BEGUN, 0, node, 8, 64 * 10**9, node, {"lo": 0, "eth0": 1000}, [GpuKind("K80", 12 * 10**9)])
    return [start, *(sample(node, second) for second in range(0, 1200, 10))]


def sample(node: str, second: int) -> Sample:
    own = {"worker:0": Use(2.0 * second, 10**8), "ps:0": Use(0.5 * second, 10**8)} if node == "n1" else {}
    return Sample(
        time=BEGUN + second,
        attempt=0,
        busy=4.0 * second,
        iowait=0.0,
        memory=10**9,
        network={"eth0": Traffic(10**7 * second, 2 * 10**7 * second, 1000 * second, 2000 * second)},
        processes=own,
        gpus=[Gpu(0.8, 10**9, 120.0)],
    )
