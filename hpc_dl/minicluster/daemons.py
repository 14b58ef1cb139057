"""The daemons of a private cluster: their commands, their ports, and what they say when they fail."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.minicluster.config import Place
from hpc_dl.minicluster.programs import Programs
from hpc_dl.minicluster.supervisor import Daemon

# Below the ports that the kernel gives to clients (32768 up) and below those that jobs use (20000 up).
_PORTS = range(10_000, 20_000)


def free_ports(count: int) -> list[int]:
    """Return ports on which nobody listens. The search starts at random: two clusters may start at the same time.

    Raises:
        UserError: There are not enough.
    """
    start = secrets.randbelow(len(_PORTS))
    found: list[int] = []
    for port in (*_PORTS[start:], *_PORTS[:start]):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise UserError(f"private cluster: no {count} free ports in {_PORTS.start}-{_PORTS.stop - 1}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def daemons(place: Place, names: Iterable[str], programs: Programs, accounting: Iterable[Daemon] = ()) -> list[Daemon]:
    """Return the daemons in the order in which they start.

    First munged(8), then the daemons of accounting if there is any, slurmctld(8), a slurmd(8) for each node.
    """
    # -c: forget the nodes and jobs of the last cluster; job numbers continue.
    known = ["-D", "-f", str(place.root / "slurm.conf")]
    options = [*known, "-c"]
    stepd = programs.find("slurmstepd")
    # By itself, slurmd looks for slurmstepd only in the folder that is built into it.
    node_options = [*options, "-d", stepd] if stepd else options
    slurmctld, slurmd = programs.path("slurmctld"), programs.path("slurmd")
    controller = daemon("slurmctld", [slurmctld, *options], port=place.controller_port, again=[slurmctld, *known])
    nodes = [
        daemon(f"slurmd-{name}", [*place.host(name).enter, slurmd, *node_options, "-N", name], essential=False)
        for name in names
    ]
    return [_munged(place.root / "munge", programs), *accounting, controller, *nodes]


def _munged(folder: Path, programs: Programs) -> Daemon:
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}
    options = [f"--{option}={folder / file}" for option, file in files.items()]
    # --force: munged wants its folders to belong to the system.
    command = [programs.path("munged"), "--foreground", "--force", *options]
    return daemon("munged", command, socket=str(folder / "socket"))


def daemon(
    name: str, command: list[str], *, socket: str = "", port: int = 0, essential: bool = True, again: Sequence[str] = ()
) -> Daemon:
    """Return a daemon; see `Daemon`."""
    return Daemon(name=name, command=command, again=list(again), socket=socket, port=port, essential=essential)


def last_words(log: Path) -> str:
    """Return the last error that the daemons have written to the folder `log`, the fatal ones first, or ''."""
    lines = [line for file in sorted(log.glob("*")) for line in file.read_text(errors="replace").splitlines()]
    for word in ("fatal: ", "error: ", "Error: "):
        for line in reversed(lines):
            if word in line:
                return line.partition(word)[2]
    return ""


def kill_strays(slurm_conf: Path) -> None:
    """Kill job processes that outlived their cluster, because both processes of its supervisor were killed.

    A user's shell may have the cluster's SLURM_CONF too, but it has no SLURM_JOB_ID.
    """
    ours = f"SLURM_CONF={slurm_conf}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or it has just ended
            variables = (folder / "environ").read_bytes().split(b"\0")
            of_job = ours in variables and any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
            if (of_job or _is_step(folder, slurm_conf.parent)) and int(folder.name) != os.getpid():
                os.kill(int(folder.name), signal.SIGKILL)


def _is_step(process: Path, root: Path) -> bool:
    """Return whether a process is a slurmstepd of the cluster in `root`.

    Its title has overwritten its environment, so that its working folder has to tell. It may wait for slurmctld for
    ever.
    """
    if not (process / "cmdline").read_bytes().startswith(b"slurmstepd: "):
        return False
    return Path(str((process / "cwd").readlink()).removesuffix(" (deleted)")).is_relative_to(root)
