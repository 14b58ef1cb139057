"""Accounting for the private cluster: slurmdbd and its database, which only a socket in the root folder leads to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.minicluster.daemons import daemon
from hpc_dl.minicluster.programs import Programs
from hpc_dl.minicluster.supervisor import Daemon

_PATIENCE = 60.0  # seconds for making an empty database; 0.4 s are usual
# Small: there is one user, and nothing of it survives the cluster.
_SIZES = ("--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=0")


class Accounting:
    """The programs of a cluster's accounting, and their commands.

    Args:
        root: the cluster's root folder.
        programs: Slurm and the database.
        user: the name of the user.
    """

    def __init__(self, root: Path, programs: Programs, user: str) -> None:
        self._user = user
        self.data = root / "db"
        self._socket = self.data / "socket"
        self._slurmdbd = os.path.realpath(programs.path("slurmdbd"))
        self._database = Path(os.path.realpath(programs.path("mariadbd")))
        self._base = self._database.parent.parent

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
            daemon("mariadbd", [*env, *self._mariadbd(), *options], socket=str(self._socket)),
            daemon("slurmdbd", [*env, self._slurmdbd, "-D"], port=port),
        ]

    def _mariadbd(self) -> list[str]:
        places = [f"--datadir={self.data}", f"--basedir={self._base}", f"--pid-file={self.data / 'pid'}"]
        return [str(self._database), "--no-defaults", *places, f"--user={self._user}", *_SIZES]
