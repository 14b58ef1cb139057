"""The monitor with real processes and counters of the kernel; InfiniBand and GPUs are imitations."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from hpc_dl.disk import LineFile
from hpc_dl.monitor import infiniband
from hpc_dl.monitor.gpus import Gpus
from hpc_dl.monitor.reading import read_node
from hpc_dl.monitor.records import Gpu, GpuKind, Sample, Start, Traffic
from hpc_dl.monitor.sampling import JobProcesses, Sampler
from tests.unit.fakes.processes import eventually

_BUSY = """
import sys, time
sys.stdin.read(1)
end = time.process_time() + 0.3
while time.process_time() < end:
    pass
print(flush=True)
sys.stdin.read(1)
"""


def environment(run: Path, name: str, attempt: int = 0) -> dict[str, str]:
    role, _, index = name.partition(":")
    task = json.dumps({"cluster": {}, "task": {"type": role, "index": int(index)}})
    return {**os.environ, "HPC_DL_RUN": str(run), "HPC_DL_ATTEMPT": str(attempt), "TF_CONFIG": task}


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of worker 3 whose child computes for a moment when it gets a line, and says when it is done."""
    command = [
        sys.executable,
        "-c",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])",
        _BUSY,
    ]
    env = environment(tmp_path, "worker:3")
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_the_cpu_seconds_of_a_process_count_those_of_its_children(tmp_path: Path, busy: subprocess.Popen[str]) -> None:
    processes = JobProcesses(tmp_path, 0, ["worker:3"])
    eventually(lambda: "worker:3" in processes.use())
    before = processes.use()["worker:3"]
    assert before.memory > 1_000_000
    assert busy.stdin is not None
    assert busy.stdout is not None
    busy.stdin.write("\n")
    busy.stdin.flush()
    busy.stdout.readline()
    now = processes.use()["worker:3"].cpu
    assert now - before.cpu > 0.25
    busy.communicate("\n")
    assert processes.use() == {}


@pytest.mark.parametrize(("run", "attempt", "names"), [("other", 0, ["worker:3"]), ("", 1, ["worker:3"]), ("", 0, [])])
def test_processes_of_other_jobs_attempts_and_nodes_do_not_count(
    tmp_path: Path, busy: subprocess.Popen[str], run: str, attempt: int, names: list[str]
) -> None:
    processes = JobProcesses(tmp_path / run, attempt, names)
    assert [processes.use() for _ in range(4)] == [{}] * 4
    eventually(lambda: "worker:3" in JobProcesses(tmp_path, 0, ["worker:3"]).use())


def test_a_look_at_a_node_agrees_with_the_kernels_counters(tmp_path: Path) -> None:
    sampler = Sampler("n1", tmp_path, 2, [])
    start, before = sampler.start(), sampler.sample()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        for _ in range(200):
            client.sendall(bytes(50_000))
            accepted.recv(50_000, socket.MSG_WAITALL)
    after = sampler.sample()
    assert (start.node, start.attempt, after.attempt) == ("n1", 2, 2)
    assert start.cores == psutil.cpu_count()
    assert start.machine
    assert start.interfaces["lo"] == 0
    moved = after.network["lo"].bytes_sent - before.network["lo"].bytes_sent
    assert moved >= 10_000_000  # other programs use this interface too
    assert after.network["lo"].packets_received > before.network["lo"].packets_received
    assert after.busy >= before.busy
    assert 0 < after.memory < start.memory


def monitor(tmp_path: Path, *options: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hpc_dl.monitor", "--node=n1", f"--run={tmp_path}", "--attempt=0"]
    file = tmp_path / "monitor" / "n1.jsonl"
    return subprocess.Popen([*command, *options, "--", str(file)], stderr=subprocess.PIPE, text=True, **more)


def lines(tmp_path: Path) -> list[bytes]:
    file = tmp_path / "monitor" / "n1.jsonl"
    return file.read_bytes().splitlines() if file.exists() else []


def test_the_monitor_appends_a_line_for_each_look(tmp_path: Path) -> None:
    (tmp_path / "monitor").mkdir()
    (tmp_path / "monitor" / "n1.jsonl").write_text('{"event": "earlier attempt"}\n{"torn')
    with monitor(tmp_path, "--every=0.05") as process:
        eventually(lambda: len(lines(tmp_path)) > 6)
        process.kill()
    first, start, *samples = lines(tmp_path)[:6]
    assert first == b'{"event": "earlier attempt"}'
    assert msgspec.json.decode(start, type=Start).node == "n1"
    times = [msgspec.json.decode(line, type=Sample).time for line in samples]
    assert times == sorted(set(times))


def test_a_full_disk_loses_lines_and_the_next_one_says_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = LineFile(tmp_path / "folder" / "lines", "the monitor")
    file.append(b'{"n": 1}')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12, hard))  # a part of the next line fits
    try:
        assert not file.append(b'{"n": 2}')
        assert not file.append(b'{"n": 3}')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.append(b'{"n": 4}')
    first, lost, last = map(json.loads, (tmp_path / "folder" / "lines").read_text().splitlines())
    assert (first, last) == ({"n": 1}, {"n": 4})
    assert (lost["event"], lost["lines"]) == ("lost", 2)
    assert capsys.readouterr().err.splitlines() == [
        "warning: the monitor can't be written: No space left on device",
        "warning: 2 lines of the monitor are lost",
    ]


def test_without_psutil_the_monitor_says_so_and_ends(tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("raise ImportError('no psutil here')")
    with monitor(tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}) as process:
        assert process.communicate(timeout=20)[1] == "hpc-dl: no monitor on node n1: no psutil here\n"
    assert not lines(tmp_path)


def test_the_ports_of_infiniband_are_counted_in_bytes(tmp_path: Path) -> None:
    port = tmp_path / "mlx5_0" / "ports" / "1"
    (port / "counters").mkdir(parents=True)
    (port / "rate").write_text("100 Gb/sec (4X EDR)\n")
    names = ("port_xmit_data", "port_rcv_data", "port_xmit_packets", "port_rcv_packets")
    for number, name in enumerate(names, 1):
        (port / "counters" / name).write_text(f"{number}\n")
    (tmp_path / "silent" / "ports" / "1").mkdir(parents=True)
    assert infiniband.rates(tmp_path) == {"mlx5_0/1": 100_000, "silent/1": 0}
    assert infiniband.counters(tmp_path) == {"mlx5_0/1": Traffic(4, 8, 3, 4)}
    assert infiniband.counters(tmp_path / "absent") == {}


class _NvmlError(Exception):
    pass


def nvml(power: bool) -> Any:
    """An imitation of nvidia-ml-py with two GPUs."""

    def milliwatts(handle: int) -> int:
        if not power:
            raise _NvmlError
        return 250_000 + handle

    module: Any = types.ModuleType("pynvml")
    module.NVMLError = _NvmlError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetCount = lambda: 2
    module.nvmlDeviceGetHandleByIndex = lambda number: number
    module.nvmlDeviceGetName = lambda handle: b"Tesla K80" if handle else "H200"
    module.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=12_000, used=3000)
    module.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=75)
    module.nvmlDeviceGetPowerUsage = milliwatts
    return module


def test_gpus_tell_use_memory_and_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(power=True))
    gpus = Gpus()
    assert gpus.kinds() == [GpuKind("H200", 12_000), GpuKind("Tesla K80", 12_000)]
    assert gpus.look() == [Gpu(0.75, 3000, 250.0), Gpu(0.75, 3000, 250.001)]


def test_what_a_gpu_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(power=False))
    assert Gpus().look()[0] == Gpu(0.75, 3000, None)


def test_without_library_or_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not Gpus().kinds()
    assert not Gpus().look()
    module = nvml(power=True)
    module.nvmlDeviceGetCount = lambda: (_ for _ in ()).throw(_NvmlError)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert Gpus().look() == []


def test_a_monitor_that_begins_on_a_full_disk_says_later_what_the_node_is(tmp_path: Path) -> None:
    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))

    with monitor(tmp_path, "--every=0.05", preexec_fn=full) as process:
        assert process.stderr is not None
        assert "can't be written" in process.stderr.readline()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        eventually(lambda: len(lines(tmp_path)) > 3)
        process.kill()
    assert b'"event": "lost"' in lines(tmp_path)[0]
    found = read_node(tmp_path / "monitor" / "n1.jsonl")
    assert found.start is not None
    assert found.start.node == "n1"


def test_the_cores_of_a_process_are_those_that_it_may_run_on(tmp_path: Path) -> None:
    processes = JobProcesses(tmp_path, 0, ["ps:0"])
    with subprocess.Popen(["sleep", "300"], env=environment(tmp_path, "ps:0")) as process:
        eventually(lambda: "ps:0" in processes.use())
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        assert processes.use()["ps:0"].cores == 1
        process.kill()


def test_a_process_that_shares_its_core_waits_for_it(tmp_path: Path) -> None:
    core = {min(os.sched_getaffinity(0))}
    command = [sys.executable, "-c", "while True: pass"]
    names = ["worker:0", "worker:1"]
    processes = JobProcesses(tmp_path, 0, names)
    with contextlib.ExitStack() as stack:
        for name in names:
            env = environment(tmp_path, name)
            one = subprocess.Popen(command, env=env, preexec_fn=lambda: os.sched_setaffinity(0, core))
            stack.callback(one.communicate)
            stack.callback(one.kill)
        eventually(lambda: [use.waited > 0.2 for use in processes.use().values()] == [True, True])
