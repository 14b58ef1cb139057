"""The private cluster: start it, use it, stop it."""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from hpc_dl.errors import UserError
from hpc_dl.minicluster.accounting import Accounting
from hpc_dl.minicluster.config import (
    ACCOUNTING_FILE,
    HERE,
    ClusterConfig,
    Host,
    NodeGroup,
    Partition,
    Place,
    render,
)
from hpc_dl.minicluster.daemons import daemons, free_ports, kill_strays, last_words
from hpc_dl.minicluster.programs import Programs, find_programs
from hpc_dl.minicluster.root import default_root, is_root, lock, make_root, running, supervisor_pid
from hpc_dl.minicluster.supervisor import Daemon, Orders
from hpc_dl.processes import python_module

__all__ = ["ClusterConfig", "MiniCluster", "NodeGroup", "Partition", "Status"]

# Inherited, these change what Slurm's commands do, or make MPI programs believe that they are in a job.
_FOREIGN = ("SLURM", "SBATCH", "SALLOC", "SRUN", "SQUEUE", "SINFO", "SCANCEL", "SACCT", "PMI")
_POLL = 0.01


@dataclass(frozen=True)
class Status:
    """A running cluster: its supervisor's process id, node states in Slurm's words."""

    pid: int
    nodes: dict[str, str]


class MiniCluster:
    """A private Slurm on this host, in one folder.

    As a context manager it ends with the block, and with the process in any case::

        with MiniCluster(root) as cluster:
            subprocess.run(["sbatch", "job.sh"], env=cluster.env(), check=True)

    Args:
        root: The cluster's folder; default is `default_root()`. `stop`, `status` and `env` find a cluster that runs
            there, whichever process started it.
        config: What nodes and partitions it has.
        programs: Which Slurm; default is what `find_programs()` finds.
        controller: Where slurmctld is on the network; default is this host.
        hosts: Where the nodes are, by name; default is that all are this host.
    """

    def __init__(
        self,
        root: Path | None = None,
        config: ClusterConfig | None = None,
        *,
        programs: Programs | None = None,
        controller: Host = HERE,
        hosts: Mapping[str, Host] | None = None,
    ) -> None:
        self.root = root.absolute() if root else default_root()
        self.config = config or ClusterConfig()
        self._programs = programs
        self._controller, self._hosts = controller, hosts or {}
        self._accounting: Accounting | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def slurm_conf(self) -> Path:
        """The cluster's slurm.conf: what SLURM_CONF must be."""
        return self.root / "slurm.conf"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the nodes."""
        return self.config.names

    @property
    def programs(self) -> Programs:
        """The Slurm that is used: the one that runs, else the one that would be started.

        Raises:
            UserError: There is none; the message says how to get it.
        """
        if self._programs is None:
            record = self._record()
            if record:
                self._programs = Programs(Path(record["prefix"]) if record["prefix"] else None)
            else:
                self._programs = find_programs(accounting=self.config.accounting)
        return self._programs

    def env(self) -> dict[str, str]:
        """Return the environment for processes that use the cluster: this process's, with Slurm's commands on PATH.

        Variables of another Slurm or of a surrounding job are left out.
        """
        base = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        # All nodes have one host name, so Open MPI's shared-memory segments of two nodes would have the same name.
        return self.programs.environment(base) | {"SLURM_CONF": str(self.slurm_conf), "OMPI_MCA_btl": "tcp,self"}

    def is_up(self) -> bool:
        """Return whether a cluster with this very configuration runs in the root folder."""
        record = self._record()
        if record is None or record["config"] != _plain(self.config):
            return False
        return self._programs is None or record["prefix"] == _text(self._programs.prefix)

    def status(self) -> Status | None:
        """Return the state of the cluster in the root folder, or None if there is none."""
        record, pid = self._record(), supervisor_pid(self.root)
        if record is None or not pid:
            return None
        return Status(pid, self._node_states())

    def start(self, *, detach: bool = False, timeout_s: float = 30.0) -> MiniCluster:
        """Start the cluster; return when all nodes are idle.

        Args:
            detach: The cluster outlives this process. Otherwise it ends with it, even if that is killed.
            timeout_s: How long to wait for the nodes, in seconds.

        Raises:
            UserError: A cluster runs there already, there is no Slurm, the folder is not usable, or a daemon failed
                (its own words are shown).
        """
        if supervisor_pid(self.root) is not None:
            raise self._busy()
        place = self._place()
        texts = render(self.config, place)
        make_root(self.root)
        lock_file = lock(self.root)
        if lock_file is None:
            raise self._busy()
        try:
            try:
                orders = self._write(texts, place, lock_file, tied=not detach, timeout_s=timeout_s)
                ready = self._launch(orders, lock_file)
            finally:
                os.close(lock_file)  # the supervisor has its copy
            self._wait_until_idle(ready, time.monotonic() + timeout_s)
        except BaseException:
            self.stop()
            raise
        record = {"config": _plain(self.config), "prefix": _text(self.programs.prefix)}
        (self.root / "cluster.json").write_text(json.dumps(record), encoding="utf-8")
        return self

    def stop(self, timeout_s: float = 20.0) -> bool:
        """End the cluster that runs in the root folder, its jobs too; return False if there is none.

        Raises:
            UserError: It did not end in time.
        """
        deadline = time.monotonic() + timeout_s
        found = False
        while (pid := supervisor_pid(self.root)) is not None:
            if pid and not found:
                (self.root / "cluster.json").unlink(missing_ok=True)
                os.kill(pid, signal.SIGTERM)
                found = True
            if time.monotonic() > deadline:
                raise UserError(f"private cluster: process {pid or ''} did not end; see {self.root / 'log'}")
            time.sleep(_POLL)
        if self._supervisor is not None:
            self._supervisor.wait()
            self._supervisor = None
        if is_root(self.root) and (lock_file := lock(self.root)) is not None:
            self._sweep()
            os.close(lock_file)
        return found

    def __enter__(self) -> MiniCluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _record(self) -> dict[str, Any] | None:
        """Return what `start` has written about the cluster that runs."""
        if running(self.root) is None:
            return None
        record: dict[str, Any] = json.loads((self.root / "cluster.json").read_text(encoding="utf-8"))
        return record

    def _busy(self) -> UserError:
        if running(self.root) is None:
            return UserError(f"private cluster: one is starting or stopping in {self.root}")
        return UserError(f"private cluster: one runs in {self.root} already; `hpc-dl cluster stop` ends it")

    def _place(self) -> Place:
        """Find out what the configuration needs to know about this machine."""
        user = _user_name()
        self._accounting = Accounting(self.root, self.programs, user) if self.config.accounting else None
        controller, accounting, *nodes = free_ports(2 + len(self.names))
        return Place(
            root=self.root,
            user=str(os.getuid()),
            controller_port=controller,
            node_ports=dict(zip(self.names, nodes, strict=True)),
            version=self._version(),
            plugin_dir=self.programs.plugin_dir,
            user_name=user,
            accounting_port=accounting,
            controller=self._controller,
            hosts=self._hosts,
        )

    def _version(self) -> tuple[int, int]:
        """Return Slurm's year and month, from a line such as ``slurm-wlm 22.05.8``."""
        command = [self.programs.path("slurmd"), "-V"]
        done = subprocess.run(command, env=self.env(), capture_output=True, text=True, timeout=60)
        if not (found := re.search(r" (\d+)\.(\d+)", done.stdout)):
            said = (done.stderr or done.stdout).strip()
            raise UserError(f"private cluster: `{' '.join(command)}` does not tell its version: {said}")
        return int(found[1]), int(found[2])

    def _sweep(self) -> None:
        """Remove what a killed cluster has left. Slurm's own state stays, so job numbers continue."""
        kill_strays(self.slurm_conf)
        (self.root / "cluster.json").unlink(missing_ok=True)
        for name in ("spool", "tmp", "munge", "db"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def _write(self, texts: dict[str, str], place: Place, lock_file: int, *, tied: bool, timeout_s: float) -> Path:
        """Write the configuration and the folders that it names; return the file with the supervisor's orders."""
        self._sweep()
        log, munge = self.root / "log", self.root / "munge"
        shutil.rmtree(log, ignore_errors=True)
        self._forget_other_version(place.version)
        for name in ("spool", "log", "dev", "munge", *(f"tmp/{node}" for node in self.names)):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for number in range(max(group.gpus for group in self.config.groups)):
            device = self.root / "dev" / f"gpu{number}"
            if not device.is_symlink():
                device.symlink_to(os.devnull)
        (munge / "key").touch(mode=0o600)
        (munge / "key").write_bytes(secrets.token_bytes(128))
        for name, text in texts.items():
            (self.root / name).write_text(text, encoding="utf-8")
        accounting: list[Daemon] = []
        if self._accounting:
            (self.root / ACCOUNTING_FILE).chmod(0o600)  # slurmdbd insists
            self._accounting.make_database()
            accounting = self._accounting.daemons(place.accounting_port)
        nodes = daemons(place, self.names, self.programs, accounting)
        orders = Orders(lock=lock_file, tied=tied, log=str(log), timeout=timeout_s, daemons=nodes)
        file = self.root / "orders.json"
        file.write_text(json.dumps(orders), encoding="utf-8")
        return file

    def _forget_other_version(self, version: tuple[int, int]) -> None:
        """Remove Slurm's state if another version has written it: this version may not understand it."""
        state, file, text = self.root / "state", self.root / "state" / "version", ".".join(map(str, version))
        if file.exists() and file.read_text(encoding="utf-8") != text:
            shutil.rmtree(state)
        state.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def _launch(self, orders: Path, lock_file: int) -> BinaryIO:
        """Start the supervisor; return the pipe in which it says that the daemons are up."""
        read_end, write_end = os.pipe()
        ready = open(read_end, "rb")  # noqa: SIM115, PTH123 - the caller closes it
        try:
            with orders.open("rb") as stdin, (self.root / "log" / "supervisor.log").open("ab") as log:
                self._supervisor = subprocess.Popen(
                    [*python_module(sys.executable), "hpc_dl.minicluster.supervisor"],
                    stdin=stdin,
                    stdout=write_end,
                    stderr=log,
                    cwd=self.root,
                    env=self.env(),
                    pass_fds=(lock_file,),
                    start_new_session=True,
                )
        finally:
            os.close(write_end)
        return ready

    def _wait_until_idle(self, ready: BinaryIO, deadline: float) -> None:
        with ready:
            if ready.readline() != b"ready\n":
                raise self._failure()
        while set((states := self._node_states()).values()) != {"idle"} or len(states) != len(self.names):
            if supervisor_pid(self.root) is None:
                raise self._failure()
            if time.monotonic() > deadline:
                raise self._failure(f"nodes are not idle in time: {states}")
            time.sleep(_POLL)

    def _node_states(self) -> dict[str, str]:
        command = [self.programs.path("sinfo"), "--noheader", "--Node", "--format=%N %T"]
        done = subprocess.run(command, env=self.env(), capture_output=True, text=True, timeout=60)
        return dict(line.split() for line in done.stdout.splitlines())

    def _failure(self, what: str = "") -> UserError:
        words = "; ".join(filter(None, (what, last_words(self.root / "log"))))
        return UserError(f"private cluster: {words or 'the supervisor has ended'}; see {self.root / 'log'}")


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        return str(os.getuid())


def _text(path: Path | None) -> str | None:
    return str(path) if path else None


def _plain(config: ClusterConfig) -> object:
    """Return a configuration as JSON would give it back."""
    return json.loads(json.dumps(asdict(config)))
