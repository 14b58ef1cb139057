"""Accounting for the private cluster: slurmdbd and its database, which only a socket in the root folder leads to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.minicluster.programs import Programs, find_accounting
from hpc_dl.minicluster.supervisor import Daemon

_PATIENCE = 60.0  # seconds for making an empty database; 0.4 s are usual
# Small: there is one user, and nothing of it survives the cluster.
_SIZES = ("--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0")


class Accounting:
    """The programs of a cluster's accounting, and their commands.

    Args:
        root: the cluster's root folder.
        slurm: the Slurm that it belongs to.
        user: the name of the user.

    Raises:
        UserError: the programs are not here; the message says how to get them.
    """

    def __init__(self, root: Path, slurm: Programs, user: str) -> None:
        self._slurm = slurm
        self._slurmdbd = find_accounting(slurm)
        self._user = user
        self.data = root / "db"
        self._socket = self.data / "socket"
        # Any version of the database will do.
        self._database = _path(find_accounting(slurm, "mariadbd"), "mariadbd")

    @property
    def plugins(self) -> str:
        """Slurm's folders of plugins, for PluginDir; empty where Slurm finds them by itself."""
        folders = (self._slurmdbd.accounting_plugin_dir, self._slurm.plugin_dir)
        named = [str(folder) for folder in folders if folder]
        if not named:
            return ""
        # PluginDir replaces the folder that is built into the system's Slurm, so it must name that folder too.
        built = () if self._slurm.prefix else Path("/usr/lib").glob("*/slurm*/auth_none.so")
        return ":".join(dict.fromkeys([*named, *(str(path.parent) for path in built)]))

    def make_database(self) -> None:
        """Make an empty database, as mariadb-install-db(1) does.

        Raises:
            UserError: the database's program failed; its last words are shown.
        """
        self.data.mkdir(mode=0o700)
        tables = next(self._base.glob("share/*/*_system_tables.sql")).read_text(encoding="utf-8")
        done = subprocess.run(
            [*self._mariadbd(), "--bootstrap", "--silent-startup"],
            input=f"create database mysql;\nuse mysql;\n{tables}",
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        if done.returncode:
            raise UserError(f"private cluster: no database: {' '.join(done.stderr.strip().splitlines()[-3:])}")

    def daemons(self, port: int) -> list[Daemon]:
        """Return mariadbd(8) and slurmdbd(8), which listens on `port`."""
        # Whoever reaches the socket may do everything. It is in the user's own folder, and there is no other way in.
        # No TLS inside this host: with the TLS of MariaDB 11.8, slurmdbd fails at its second query.
        options = ["--skip-networking", "--skip-grant-tables", "--skip-ssl", f"--socket={self._socket}"]
        env = ["env", f"MYSQL_UNIX_PORT={self._socket}"]
        return [
            _daemon("mariadbd", [*env, *self._mariadbd(), *options], socket=str(self._socket)),
            _daemon("slurmdbd", [*env, _path(self._slurmdbd, "slurmdbd"), "-D"], port=port),
        ]

    @property
    def _base(self) -> Path:
        return Path(self._database).parent.parent

    def _mariadbd(self) -> list[str]:
        places = [f"--datadir={self.data}", f"--basedir={self._base}", f"--pid-file={self.data / 'pid'}"]
        return [self._database, "--no-defaults", *places, f"--user={self._user}", *_SIZES]


def _path(programs: Programs, name: str) -> str:
    path = programs.find(name)
    if path is None:
        raise UserError(f"private cluster: {name} is not here any more")
    return os.path.realpath(path)


def _daemon(name: str, command: list[str], *, socket: str = "", port: int = 0) -> Daemon:
    return Daemon(name=name, command=command, again=[], socket=socket, port=port, essential=True)
