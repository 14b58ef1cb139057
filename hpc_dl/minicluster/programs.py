"""Where Slurm's programs are: in the system, or in a copy (see `hpc_dl.minicluster.install`).

The programs of accounting (slurmdbd and its database) may be in a copy of their own, beside the system's Slurm.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_dl.errors import UserError, allowed, near_match

PREFIX_VARIABLE = "HPC_DL_SLURM_PREFIX"
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
COMMANDS = ("slurmctld", "slurmd", "srun", "sbatch", "squeue", "sinfo", "scontrol", "scancel")
INSTALL = "hpc-dl cluster install"
# The database's bare programs: the package mariadb-server would bring a system service.
ACCOUNTING_PACKAGES = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server-core")
ACCOUNTING_COMMANDS = ("slurmdbd", "mariadbd")
SUITES = {"20.11": "bullseye", "22.05": "bookworm", "24.11": "trixie", "26.05": "sid"}
"""Which Debian has which version of Slurm."""

# An ordinary user's PATH lacks the folders of the daemons.
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")


@dataclass(frozen=True)
class Programs:
    """Where Slurm is.

    `prefix` is the top folder of a copy, or of another build that finds its libraries by itself. None means the
    system's Slurm.
    """

    prefix: Path | None = None

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return `base` with a PATH on which these programs are found."""
        path = base.get("PATH", os.defpath).split(os.pathsep)
        if self.prefix is None:
            # Behind the user's own folders: programs of the system must not hide the user's.
            path = [*path, *_sibling_folders(path), *_SYSTEM_FOLDERS]
        else:
            path = [*(str(self.prefix / sub) for sub in ("bin", "sbin", "usr/bin", "usr/sbin")), *path]
        return {**base, "PATH": os.pathsep.join(dict.fromkeys(path))}

    def find(self, name: str) -> str | None:
        """Return the path of a program, or None."""
        path = self.environment(os.environ)["PATH"]
        if self.prefix is not None:
            path = os.pathsep.join(
                folder for folder in path.split(os.pathsep) if Path(folder).is_relative_to(self.prefix)
            )
        return shutil.which(name, path=path)

    def missing(self, commands: Sequence[str] = COMMANDS) -> tuple[str, ...]:
        """Return the commands that are not there. munge's are not needed."""
        return tuple(name for name in commands if not self.find(name))

    @property
    def plugin_dir(self) -> Path | None:
        """Return the folder of Slurm's plugins; None if Slurm finds it by itself."""
        return self._folder_of_plugin("auth_none.so")

    @property
    def accounting_plugin_dir(self) -> Path | None:
        """Return the folder of slurmdbd's plugin for the database; None if Slurm finds it by itself."""
        return self._folder_of_plugin("accounting_storage_mysql.so")

    def _folder_of_plugin(self, name: str) -> Path | None:
        if self.prefix is None:
            return None
        found = (p.parent for sub in ("lib*", "usr/lib", "usr/lib/*") for p in self.prefix.glob(f"{sub}/slurm*/{name}"))
        return next(found, None)


def _sibling_folders(path: Sequence[str]) -> list[str]:
    """Return the sbin folder beside the bin folder that Slurm's commands are in."""
    sinfo = shutil.which("sinfo", path=os.pathsep.join(path))
    return [str(Path(sinfo).parent.parent / "sbin")] if sinfo else []


def default_prefix(version: str = "") -> Path:
    """Return where a copy is or goes: ``$HPC_DL_SLURM_PREFIX``, else in ``.cache`` of the current folder.

    Args:
        version: such as ``24.11``; default is the version of the machine's own Debian.

    Raises:
        UserError: No Debian has this version.
    """
    if version and version not in SUITES:
        raise UserError(f"Slurm {version}: unknown version{near_match(version, SUITES)}; known are {allowed(SUITES)}")
    here = Path.cwd() / ".cache" / (f"slurm-{version}" if version else "slurm")
    return Path(os.environ.get(PREFIX_VARIABLE) or here).absolute()


def find_programs(version: str = "") -> Programs:
    """Return where Slurm is: in ``$HPC_DL_SLURM_PREFIX`` if that is set, else in the system, else in the copy.

    Args:
        version: such as ``24.11``: the copy of this version. Default is any.

    Raises:
        UserError: It is nowhere; the message says how to get it.
    """
    places = [Programs(default_prefix(version))]
    if not version and not os.environ.get(PREFIX_VARIABLE):
        places.insert(0, Programs())
    for programs in places:
        missing = programs.missing()
        if not missing:
            return programs
    where, how = "PATH", f"as root, the packages {' '.join(PACKAGES)}; else a copy in {default_prefix()}"
    if len(places) == 1:
        where, how = str(default_prefix(version)), "a copy"
        if os.environ.get(PREFIX_VARIABLE):
            where = f"{PREFIX_VARIABLE}={where}"
    command = f"{INSTALL} --version {version}" if version else INSTALL
    raise UserError(
        f"Slurm's programs are not here: {', '.join(missing)} not found in {where}; get them with `{command}` ({how})"
    )


def accounting_prefix() -> Path:
    """Return where the copy of accounting's programs is or goes: beside `default_prefix()`."""
    return default_prefix().with_name(f"{default_prefix().name}-accounting")


def find_accounting(slurm: Programs, name: str = "slurmdbd") -> Programs:
    """Return where a program of accounting is: with Slurm, else in a copy of its own, else in the system.

    Raises:
        UserError: It is nowhere; the message says how to get it.
    """
    for programs in (slurm, Programs(accounting_prefix()), Programs()):
        if programs.find(name):
            return programs
    raise UserError(
        f"{name}, a program for accounting, is not here; get it with `{INSTALL}` "
        f"(as root, the packages {' '.join(ACCOUNTING_PACKAGES)}; else a copy in {accounting_prefix()})"
    )
