"""A network for the nodes of a private cluster, so that one of them can be cut off: see network_namespaces(7).

Each node gets a network and a host name of its own, and an Ethernet link to a bridge. All of it lies in namespaces of
this process, which vanish with their last process, however that ends. The host's network stays as it is. Without root
a user namespace is needed, and some systems forbid those.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from hpc_dl.errors import UserError
from hpc_dl.minicluster.config import Host

_INSIDE = "HPC_DL_PRIVATE_NETWORK"
_PREFIX = "10.77.0"
_BRIDGE = "hpcdl"
_PATIENCE = 10.0  # seconds to wait for a process to get its namespaces


def in_namespaces(command: Sequence[str]) -> list[str]:
    """Return the command that runs another command in new namespaces."""
    user = [] if os.getuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
    return ["unshare", *user, "--net", "--uts", "--mount", "env", f"{_INSIDE}=yes", *command]


def enter_namespaces(command: Sequence[str]) -> None:
    """Replace this process by its own command, run in new namespaces. Return if it is in them already.

    Raises:
        UserError: the program ``unshare`` (util-linux) is not here.
    """
    if os.environ.get(_INSIDE):
        return
    try:
        os.execvp("unshare", in_namespaces(command))  # noqa: S606 - nothing for a shell
    except OSError as error:
        raise UserError(f"unshare: {error.strerror}; get the package util-linux") from error


class Network:
    """The network of some nodes. Its process must be one of `in_namespaces`.

    Args:
        names: the nodes' names.
        folder: gets the file that becomes their ``/etc/hosts``.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        if not os.environ.get(_INSIDE):
            raise RuntimeError("a network is made only in namespaces of its own")
        self.head = Host(f"{_PREFIX}.1", "head")
        self.hosts: dict[str, Host] = {}
        self._links: dict[str, str] = {}
        self._undo = contextlib.ExitStack()
        try:
            self._build(names, folder / "hosts")
        except BaseException:
            self.close()
            raise

    def _build(self, names: Sequence[str], hosts_file: Path) -> None:
        _run("hostname", self.head.name)
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", _BRIDGE, "type", "bridge")
        self._undo.callback(_run, "ip", "link", "delete", _BRIDGE)
        _run("ip", "address", "add", f"{self.head.address}/24", "dev", _BRIDGE)
        _run("ip", "link", "set", _BRIDGE, "up")
        for number, name in enumerate(names, start=10):
            self._add(name, f"{_PREFIX}.{number}", f"to-{number}")
        lines = ["127.0.0.1 localhost", f"{self.head.address} {self.head.name}"]
        lines += [f"{host.address} {name}" for name, host in self.hosts.items()]
        hosts_file.write_text("\n".join([*lines, ""]))
        _run("mount", "--bind", str(hosts_file), "/etc/hosts")
        self._undo.callback(_run, "umount", "/etc/hosts")

    def _add(self, name: str, address: str, link: str) -> None:
        # A namespace lives as long as a process is in it. This process ends when our end of its pipe is closed.
        holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self._undo.callback(holder.communicate)
        _wait_for_namespaces(holder)
        enter = ("nsenter", f"--net=/proc/{holder.pid}/ns/net", f"--uts=/proc/{holder.pid}/ns/uts")
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        # The link is gone already if a signal to all of us has ended the holder of its namespace.
        self._undo.callback(subprocess.run, ["ip", "link", "delete", link], capture_output=True, check=False)
        _run("ip", "link", "set", link, "master", _BRIDGE, "up")
        _run(*enter, "hostname", name)
        _run(*enter, "ip", "link", "set", "lo", "up")
        _run(*enter, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        _run(*enter, "ip", "link", "set", "eth0", "up")
        self.hosts[name] = Host(address, name, enter)
        self._links[name] = link

    def cut(self, name: str) -> None:
        """Take a node off the network. Its processes go on."""
        _run("ip", "link", "set", self._links[name], "down")

    def mend(self, name: str) -> None:
        """Put a node on the network again."""
        _run("ip", "link", "set", self._links[name], "up")

    def close(self) -> None:
        """Take the network down."""
        self._undo.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wait_for_namespaces(holder: subprocess.Popen[bytes]) -> None:
    ours, its = (Path(f"/proc/{pid}/ns/uts") for pid in ("self", holder.pid))
    deadline = time.monotonic() + _PATIENCE
    while holder.poll() is None and time.monotonic() < deadline:
        if its.readlink() != ours.readlink():
            return
        time.sleep(0.01)
    raise UserError("unshare: namespaces can't be made here")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr.strip()}")
