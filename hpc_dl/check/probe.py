"""Probe: runs on a node, looks at the node, and calls the others. `node_rules` judges what it finds.

The nodes meet in the run folder of their job: each writes there where it listens, and waits until all others are done.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hpc_dl import data
from hpc_dl.check.facts import Folder, look_at
from hpc_dl.check.finding import last_line
from hpc_dl.check.hardware import Hardware, look
from hpc_dl.check.python import Python, read_python, wanted_packages
from hpc_dl.disk import write_whole
from hpc_dl.errors import UserError
from hpc_dl.gpus import local_gpus
from hpc_dl.machine import ports_in_use
from hpc_dl.node.addresses import own_host
from hpc_dl.node.facts import gpus_of_step
from hpc_dl.planning.task_file import inner_module
from hpc_dl.processes import python_module
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.slurm.environment import without_step
from hpc_dl.schedulers.slurm.steps import srun_command
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site

_MEETING = 60.0  # seconds to wait for all nodes to come, and to be done: the slowest imports TensorFlow first
_CALL = 5.0  # seconds for a connection between two nodes
_TIME = struct.Struct("!d")  # what a caller gets from a node: its clock, in Unix seconds


class Address(msgspec.Struct, frozen=True):
    """Where a node can be reached."""

    node: str
    host: str
    port: int
    problem: str = ""
    """Why it does not listen; empty if it does."""


class Call(msgspec.Struct, frozen=True):
    """How one node reached another."""

    node: str
    address: str
    problem: str = ""
    ahead: float = 0.0
    """Seconds by which the other clock is ahead of ours."""
    took: float = 0.0
    """Seconds that the call took. `ahead` may be wrong by as much."""


class NodeAnswer(msgspec.Struct, frozen=True):
    """What the probe found on one node."""

    node: str
    python: Python | None
    said: str
    """The last line that its Python wrote to standard error: the cause, if `python` is None."""
    gpus: tuple[str, ...]
    """The GPUs that the job got there."""
    run: Folder
    local_disk: Folder
    data_problem: str
    address: Address
    calls: tuple[Call, ...] = ()
    hardware: Hardware | None = None


def probe(run: RunFolder, node: str, nodes: list[str], with_data: bool, local: bool = False) -> NodeAnswer:
    """Look at this node, and call the others.

    Args:
        run: a run folder that all nodes share, with the job and the site.
        node: this node's name.
        nodes: all of them.
        with_data: the data set was found, as seen where the job is submitted.
        local: there is no Slurm that assigns GPUs.
    """
    job, site = run.read_job(), run.read_site()
    meeting = run.path / "meeting"
    meeting.mkdir(exist_ok=True)
    with _listening(site, node, nodes) as address:
        write_whole(meeting / f"{node}.here", msgspec.json.encode(address))
        python, said = _ask_python(job, site, node)
        _wait(lambda: len(list(meeting.glob("*.here"))) >= len(nodes))
        calls = [call(other) for other in _others(meeting, node, nodes)]
        (meeting / f"{node}.done").touch()
        _wait(lambda: len(list(meeting.glob("*.done"))) >= len(nodes))
    disk = Path(os.path.expandvars(site.local_disk) or tempfile.gettempdir())
    return NodeAnswer(
        node,
        python,
        said,
        local_gpus(site.gpu_vendor) if local else gpus_of_step(job, site) if job.gpus else (),
        look_at(run.path),
        _usable(disk) if job.stage else Folder(str(disk)),
        _data_problem(job, site) if with_data else "",
        address,
        tuple(calls),
        look(os.environ),
    )


@contextlib.contextmanager
def _listening(site: Site, node: str, nodes: list[str]) -> Iterator[Address]:
    """Listen on this node's interconnect address, on a free port of the site's. Send callers the time."""
    try:
        host = own_host(site, node)
    except UserError as error:
        yield Address(node, "", 0, str(error))
        return
    first, last = site.ports
    # Nodes that share one machine must not try the same ports.
    wanted = range(first + nodes.index(node) if node in nodes else first, last + 1, len(nodes) or 1)
    busy = ports_in_use(site.ports)
    port = next((port for port in wanted if port not in busy), 0)
    if not port:
        yield Address(node, host, 0, f"no port of {first}-{last} is free")
        return
    try:
        server = socket.create_server((host, port))
    except OSError as error:
        yield Address(node, host, port, str(error.strerror or error))
        return
    with server:
        threading.Thread(target=_tell_time, args=(server,), daemon=True).start()
        yield Address(node, host, port)


def _tell_time(server: socket.socket) -> None:
    with contextlib.suppress(OSError):  # closed: all calls are over
        while True:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(_TIME.pack(time.time()))


def call(other: Address | str) -> Call:
    """Reach another node: resolve its name, connect, compare clocks."""
    if isinstance(other, str):
        return Call(other, "", f"did not come within {_MEETING:g} s")
    where = f"{other.host}:{other.port}"
    if other.problem:
        return Call(other.node, where, "it does not listen")
    begin = time.time()
    try:
        with socket.create_connection((other.host, other.port), timeout=_CALL) as connection:
            said = connection.recv(_TIME.size, socket.MSG_WAITALL)
    except OSError as error:
        return Call(other.node, where, str(error.strerror or error))
    end = time.time()
    if len(said) != _TIME.size:
        return Call(other.node, where, "somebody else answers there")
    return Call(other.node, where, ahead=_TIME.unpack(said)[0] - (begin + end) / 2, took=end - begin)


def _others(meeting: Path, node: str, nodes: list[str]) -> Iterator[Address | str]:
    for name in nodes:
        if name != node:
            try:
                yield msgspec.json.decode((meeting / f"{name}.here").read_bytes(), type=Address)
            except OSError:
                yield name


def _wait(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _MEETING
    while not met() and time.monotonic() < deadline:
        time.sleep(0.2)


def _ask_python(job: JobSpec, site: Site, node: str) -> tuple[Python | None, str]:
    wanted = ["hpc_dl.check.python", *wanted_packages(job.mode, job.script)]
    command = [
        *(inner_module(job, site) if job.python or site.in_container else python_module(sys.executable)),
        *wanted,
    ]
    if site.container_srun:
        command = srun_command(node, job.cores or 1, [*site.srun, *site.container_srun, *command])
        environ = without_step(os.environ)
    else:
        command = [*site.container, *command]
        # Like a process of the job, it must be alone in its MPI world.
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("PMI", "SLURM_"))}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environ)
    return read_python(done.stdout), last_line(done.stderr)


def _usable(disk: Path) -> Folder:
    """Look at a folder that must exist."""
    return look_at(disk) if disk.is_dir() else Folder(str(disk), "there is no such folder")


def _data_problem(job: JobSpec, site: Site) -> str:
    """Return why this node can't read an existing data set; empty if it can."""
    if job.script or not data.describe(job.data).needs_files:
        return ""
    folder = data.describe(job.data).folder(Path(job.workdir, site.data))
    for path in (folder, *sorted(folder.rglob("*"))):
        if not os.access(path, os.R_OK):
            return f"{path}: can't be read"
    return ""
