"""The limit of a running job, as `watch` shows it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hpc_dl.monitor.records import Sample, Start, Traffic
from hpc_dl.report.live import LiveLimit
from tests.unit.report.runs import make_run, write_lines


def test_a_full_network_is_named_after_a_minute_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)

    def seconds(begin: float, share: float) -> list[Sample]:
        moved = int(share * 125e6)
        traffic = [{"eth0": Traffic(moved * n, 0, 0, 0)} for n in range(60)]
        return [Sample(begin + n, 0, 0.5 * n, 0.0, 0, network=one) for n, one in enumerate(traffic)]

    start = Start(now - 200, 0, "n1", 8, 1, "n1", {"eth0": 1000})
    write_lines(run.monitor / "n1.jsonl", [start, *seconds(now - 150, 0.0), *seconds(now + 1, 0.95)])
    limit = LiveLimit(run)
    assert limit.look(trains=True) is None
    now += 59
    assert limit.look(trains=True) is None  # it has not trained for a minute
    now += 2
    found = limit.look(trains=True)
    assert found is not None
    assert "n1" in found.what
    assert "sends 95% and receives 0% of the 1 Gbit/s" in found.why
    now += 1000
    assert limit.look(trains=True) is None  # the monitors have nothing new
    assert limit.look(trains=False) is None


def test_a_job_without_monitor_has_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    for path in run.monitor.iterdir():
        path.unlink()
    run.placement.write_text("damaged")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    limit = LiveLimit(run)
    limit.look(trains=True)
    now += 61
    assert limit.look(trains=True) is None
