"""Where Slurm's programs are, and how to get them: as root by apt, as any user by unpacking Debian's packages.

Those of accounting (slurmdbd and its database) may stand apart: an unpacked copy beside the system's Slurm.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_dl.errors import UserError

PREFIX_VARIABLE = "HPC_DL_SLURM_PREFIX"
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
COMMANDS = ("slurmctld", "slurmd", "srun", "sbatch", "squeue", "sinfo", "scontrol", "scancel")
INSTALL = "hpc-dl cluster install"
# The database's bare programs: the package mariadb-server would bring a system service.
ACCOUNTING_PACKAGES = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server-core")
ACCOUNTING_COMMANDS = ("slurmdbd", "mariadbd")

# An ordinary user's PATH lacks the folders of the daemons.
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")
_POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Programs:
    """Where Slurm is.

    `prefix` is the top of a Slurm that stands apart: an unpacked copy, or another build. None means the system's.
    """

    prefix: Path | None = None

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return `base` with PATH, and for a Slurm that stands apart LD_LIBRARY_PATH, so that these are found."""
        path = base.get("PATH", os.defpath).split(os.pathsep)
        if self.prefix is None:
            # Behind the user's own folders, in front of which nothing of the system must come.
            return {**base, "PATH": os.pathsep.join(dict.fromkeys([*path, *_sibling_folders(path), *_SYSTEM_FOLDERS]))}
        folders = [str(self.prefix / sub) for sub in ("bin", "sbin", "usr/bin", "usr/sbin")]
        own = sorted({str(file.parent) for sub in ("lib", "usr/lib") for file in self.prefix.glob(f"{sub}/*/*.so*")})
        libraries = [str(self.plugin_dir), *own] if self.plugin_dir else own
        libraries += filter(None, base.get("LD_LIBRARY_PATH", "").split(os.pathsep))
        return {
            **base,
            "PATH": os.pathsep.join(dict.fromkeys([*folders, *path])),
            "LD_LIBRARY_PATH": os.pathsep.join(dict.fromkeys(libraries)),
        }

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
        """Slurm's plugins, where Slurm does not find them by itself."""
        return self._folder_of_plugin("auth_none.so")

    @property
    def accounting_plugin_dir(self) -> Path | None:
        """Return the folder of slurmdbd's plugin for the database, where Slurm does not find it by itself."""
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


def default_prefix() -> Path:
    """Return where the unpacked copy is or goes: ``$HPC_DL_SLURM_PREFIX`` or ``.cache/slurm`` in the current folder."""
    return Path(os.environ.get(PREFIX_VARIABLE) or Path.cwd() / ".cache" / "slurm").absolute()


def find_programs() -> Programs:
    """Return where Slurm is: in ``$HPC_DL_SLURM_PREFIX`` if that is set, else in the system, else the unpacked copy.

    Raises:
        UserError: It is nowhere; the message says how to get it.
    """
    places = [Programs(default_prefix())]
    if not os.environ.get(PREFIX_VARIABLE):
        places.insert(0, Programs())
    for programs in places:
        missing = programs.missing()
        if not missing:
            return programs
    where = f"{PREFIX_VARIABLE}={default_prefix()}" if len(places) == 1 else "PATH"
    raise UserError(
        f"Slurm's programs are not here: {', '.join(missing)} not found in {where}; "
        f"get them with `{INSTALL}` (as root, the packages {' '.join(PACKAGES)}; else a copy in {default_prefix()})"
    )


def accounting_prefix() -> Path:
    """Return where the unpacked copy of the accounting's programs is or goes: beside `default_prefix()`."""
    return default_prefix().with_name(f"{default_prefix().name}-accounting")


def find_accounting(slurm: Programs) -> Programs:
    """Return where slurmdbd and the database are: with Slurm, else the unpacked copy.

    Raises:
        UserError: They are nowhere; the message says how to get them.
    """
    for programs in (slurm, Programs(accounting_prefix())):
        missing = programs.missing(ACCOUNTING_COMMANDS)
        if not missing:
            return programs
    raise UserError(
        f"the programs for accounting are not here: {', '.join(missing)}; "
        f"get them with `{INSTALL}` (as root, the packages {' '.join(ACCOUNTING_PACKAGES)}; "
        f"else a copy in {accounting_prefix()})"
    )


def install(say: Callable[[str], None] = print) -> Programs:
    """Get Slurm's programs: as root with apt, else as a copy unpacked from Debian's packages into `default_prefix()`.

    A root user who sets ``$HPC_DL_SLURM_PREFIX`` gets the copy as well.

    Raises:
        UserError: This is no Debian or Ubuntu, or apt failed (its last words are shown), or the copy can't be written.
    """
    return _install(PACKAGES, COMMANDS, default_prefix(), say)


def install_accounting(say: Callable[[str], None] = print) -> Programs:
    """Get slurmdbd and its database as `install` gets Slurm; no system service is started.

    Raises:
        UserError: As for `install`.
    """
    return _install(ACCOUNTING_PACKAGES, ACCOUNTING_COMMANDS, accounting_prefix(), say)


def _install(packages: Sequence[str], commands: Sequence[str], prefix: Path, say: Callable[[str], None]) -> Programs:
    if not shutil.which("apt-get"):
        raise UserError(
            f"no apt-get here, so `{INSTALL}` can't help: ask your administrator for {' '.join(packages)}, "
            f"or set {PREFIX_VARIABLE} to the folder of a Slurm of your own"
        )
    if os.getuid() == 0 and not os.environ.get(PREFIX_VARIABLE):
        _install_in_system(packages, say)
        programs = Programs()
    else:
        _unpack(packages, prefix, say)
        programs = Programs(prefix)
    if missing := programs.missing(commands):
        raise UserError(f"installed, but still not found: {', '.join(missing)}")
    return programs


def _install_in_system(packages: Sequence[str], say: Callable[[str], None]) -> None:
    """Install the packages for everybody, without starting Slurm's or munge's system services."""
    # Debian asks this file before it starts a service; 101 means no: deb-systemd-invoke(1p), invoke-rc.d(8).
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        _apt(["apt-get", "update"], say)
        _apt(["apt-get", "install", "-y", "--no-install-recommends", *packages], say)
    finally:
        if ours:
            _POLICY.unlink()


def _unpack(packages: Sequence[str], prefix: Path, say: Callable[[str], None]) -> None:
    """Unpack Debian's packages, all of Slurm that they need, and what else is not installed, into `prefix`.

    Needs no root.
    """
    if prefix.exists():
        raise UserError(f"{prefix}: exists, but is not complete; remove it or set {PREFIX_VARIABLE} to another folder")
    try:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(prefix=f".{prefix.name}-", dir=prefix.parent)
    except OSError as error:
        raise UserError(f"can't write to {prefix.parent}: {error.strerror}") from error
    with work as name:
        folder = Path(name)
        options, names = _packages_of_copy(packages, folder, say)
        (folder / "debs").mkdir()
        # APT::Sandbox::User: root's apt would download as a user that can't write here.
        _apt(["apt-get", *options, "-o", "APT::Sandbox::User=", "download", *names], say, cwd=folder / "debs")
        for deb in sorted((folder / "debs").iterdir()):
            _apt(["dpkg", "-x", str(deb), str(folder / "copy")], say=None)
        # Installed, Debian has these links by update-alternatives.
        for program in (folder / "copy/usr/sbin").glob("*-wlm"):
            program.with_name(program.name.removesuffix("-wlm")).symlink_to(program.name)
        (folder / "copy").rename(prefix)


def _packages_of_copy(packages: Sequence[str], folder: Path, say: Callable[[str], None]) -> tuple[list[str], list[str]]:
    """Return options for apt-get and the packages to download."""
    try:
        return [], _names(packages, [], say)
    except UserError:
        # A fresh container has no package lists, and only root can fetch the system's: fetch them into our folder.
        (folder / "lists/partial").mkdir(parents=True)
        (folder / "cache/archives/partial").mkdir(parents=True)
        options = ["-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"]
        _apt(["apt-get", *options, "-o", "APT::Sandbox::User=", "update"], say)
        return options, _names(packages, options, say)


def _names(packages: Sequence[str], options: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Return these packages, all of Slurm that they need, and what else they need that is not installed."""
    install = ["-s", "install", "--no-install-recommends", *packages]
    missing = _planned(_apt(["apt-get", *options, *install], say))
    # As if nothing were installed: a copy without what is would be incomplete, or mix two versions of Slurm.
    needed = _planned(_apt(["apt-get", *options, "-o", "Dir::State::status=/dev/null", *install], say))
    own = [name for name in needed if name in packages or "slurm" in name]
    return list(dict.fromkeys([*missing, *own]))


def _planned(text: str) -> list[str]:
    """Return the packages that ``apt-get -s install`` would install anew."""
    # "Inst munge (0.5.15 …)" is new; "Inst libc6 [2.36-9] (2.36-10 …)" is an upgrade: the installed one serves.
    return re.findall(r"^Inst (\S+) \(", text, flags=re.MULTILINE)


def _apt(command: Sequence[str], say: Callable[[str], None] | None, cwd: Path | None = None) -> str:
    """Run a command of the package manager; return what it printed."""
    if say:
        say(" ".join(command))
    env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise UserError(f"`{' '.join(command[:3])} …` failed: {' '.join(done.stdout.strip().splitlines()[-3:])}")
    return done.stdout
