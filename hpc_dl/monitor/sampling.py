"""Reads the counters of this node and of the job's processes on it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

import msgspec
import psutil

from hpc_dl.monitor import infiniband
from hpc_dl.monitor.gpus import Gpus
from hpc_dl.monitor.records import LOOPBACK, Sample, Start, Traffic, Use

# Looks at a process until it counts as another program's: right after fork it still has its parent's environment.
_LOOKS = 3
_WAITED_EVERY = 10  # looks, since a process may have hundreds of threads
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Sampler:
    """The counters of this node.

    Args:
        node: its name in the job.
        run: the job's run folder.
        attempt: the attempt whose processes are measured.
        names: these processes, such as ``worker:3``.
    """

    def __init__(self, node: str, run: Path, attempt: int, names: Collection[str]) -> None:
        self._node, self._attempt = node, attempt
        self._gpus = Gpus()
        self._interfaces = _interfaces()
        self._processes = JobProcesses(run, attempt, names)

    def start(self) -> Start:
        """Return what does not change."""
        return Start(
            time=time.time(),
            attempt=self._attempt,
            node=self._node,
            cores=psutil.cpu_count() or 1,
            memory=psutil.virtual_memory().total,
            machine=_BOOT.read_text().strip(),
            interfaces={**self._interfaces, **infiniband.rates()},
            gpus=self._gpus.kinds(),
        )

    def sample(self) -> Sample:
        """Return the counters now."""
        cpu = psutil.cpu_times()
        counters = psutil.net_io_counters(pernic=True)
        disk = psutil.disk_io_counters()
        moved = {
            name: Traffic(found.bytes_sent, found.bytes_recv, found.packets_sent, found.packets_recv)
            for name, found in counters.items()
            if name in self._interfaces
        }
        return Sample(
            time=round(time.time(), 3),
            attempt=self._attempt,
            # Time of guests is in user and nice already (man proc, /proc/stat).
            busy=round(cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq + cpu.steal, 2),
            iowait=round(cpu.iowait, 2),
            memory=psutil.virtual_memory().used,
            bytes_read=disk.read_bytes if disk else 0,
            bytes_written=disk.write_bytes if disk else 0,
            network={**moved, **infiniband.counters()},
            processes=self._processes.use(),
            gpus=self._gpus.look(),
        )


def _interfaces() -> dict[str, int]:
    """Return the rate in Mbit/s of each interface that is up and has an address.

    The parts of a bond or bridge have none, and would count its traffic twice.
    """
    found = psutil.net_if_stats()
    families = {name: {one.family.name for one in of} for name, of in psutil.net_if_addrs().items()}
    return {
        name: 0 if name == LOOPBACK else max(of.speed, 0)
        for name, of in found.items()
        if of.isup and families.get(name, set()) & {"AF_INET", "AF_INET6"}
    }


class JobProcesses:
    """The processes of a job on this node, known by the environment that the launcher gave them.

    So their children count too, and a process that is started again is found.
    """

    def __init__(self, run: Path, attempt: int, names: Collection[str]) -> None:
        self._run, self._attempt, self._names = str(run), str(attempt), set(names)
        self._known: dict[int, tuple[psutil.Process, str]] = {}
        self._looks: dict[int, int] = {}  # how often a process was looked at that is none of ours
        self._waited: dict[int, float] = {}
        self._uses = 0

    def use(self) -> dict[str, Use]:
        """Return what each process uses now, with its children."""
        self._find()
        if self._uses % _WAITED_EVERY == 0:
            self._waited = {pid: _waited(pid) for pid in self._known}
        self._uses += 1
        found: dict[str, Use] = {}
        for pid, (process, name) in list(self._known.items()):
            try:
                with process.oneshot():
                    cpu, memory, cores = process.cpu_times(), process.memory_info().rss, process.cpu_affinity()
            except psutil.Error:  # it has ended
                del self._known[pid]
                continue
            before = found.get(name, Use(0, 0))
            # The last two are those of children that have ended.
            seconds = cpu.user + cpu.system + cpu.children_user + cpu.children_system
            found[name] = Use(
                cpu=round(before.cpu + seconds, 2),
                memory=before.memory + memory,
                cores=max(before.cores, len(cores or ())),
                waited=round(before.waited + self._waited.get(pid, 0.0), 2),
            )
        return dict(sorted(found.items()))

    def _find(self) -> None:
        there = psutil.pids()
        self._looks = {pid: self._looks.get(pid, 0) for pid in there if pid not in self._known}
        for pid in [pid for pid, looks in self._looks.items() if looks < _LOOKS]:
            self._looks[pid] += 1
            try:
                process = psutil.Process(pid)
                name = self._name(process.environ())
            except (psutil.Error, OSError):  # another user's, or it has ended
                continue
            if name:
                self._known[pid] = process, name

    def _name(self, environ: dict[str, str]) -> str:
        """Return the name of a process of ours; empty for another program's."""
        if environ.get("HPC_DL_RUN") != self._run or environ.get("HPC_DL_ATTEMPT") != self._attempt:
            return ""
        try:
            task = msgspec.json.decode(environ.get("TF_CONFIG", ""))["task"]
            name = f"{task['type']}:{task['index']}"
        except (msgspec.DecodeError, KeyError, TypeError):
            return ""
        return name if name in self._names else ""


def _waited(pid: int) -> float:
    """Return for how long the threads of a process have waited for a core (kernel documentation, sched-stats.rst).

    psutil has no such figure.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - pathlib takes twice the time
    except OSError:  # it has ended
        return 0.0
    return sum(_thread_waited(f"/proc/{pid}/task/{thread}/schedstat") for thread in threads) / 1e9


def _thread_waited(path: str) -> int:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:  # it has ended, or this kernel does not count
        return 0
    try:
        return int(os.read(file, 100).split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    finally:
        os.close(file)
