"""Where Slurm's programs are: in the system, or in a copy (see `hpc_dl.minicluster.install`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_dl.errors import UserError, allowed, near_match

PREFIX_VARIABLE = "HPC_DL_SLURM_PREFIX"
COMMANDS = ("slurmctld", "slurmd", "srun", "sbatch", "squeue", "sinfo", "scontrol", "scancel", "munged")
ACCOUNTING_COMMANDS = ("slurmdbd", "mariadbd")
INSTALL = "hpc-dl cluster install"
SUITES = {"20.11": "bullseye", "22.05": "bookworm", "24.11": "trixie", "26.05": "sid"}
"""Which Debian has which version of Slurm."""

# Not parts of Slurm, so that they may be of any version, and from the system even where Slurm is not.
_HELPERS = ("munged", "mariadbd")
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
        found = shutil.which(name, path=path)
        return Programs().find(name) if not found and self.prefix is not None and name in _HELPERS else found

    def path(self, name: str) -> str:
        """Return the path of a program.

        Raises:
            UserError: It is not there.
        """
        if found := self.find(name):
            return found
        raise UserError(f"private cluster: {name} is not here any more")

    def missing(self, commands: Sequence[str] = COMMANDS) -> tuple[str, ...]:
        """Return the commands that are not there."""
        return tuple(name for name in commands if not self.find(name))

    @property
    def plugin_dir(self) -> Path | None:
        """Return the folder of Slurm's plugins; None if Slurm finds it by itself."""
        if self.prefix is None:
            return None
        places = (f"{sub}/slurm*/auth_none.so" for sub in ("lib*", "usr/lib", "usr/lib/*"))
        return next((plugin.parent for place in places for plugin in self.prefix.glob(place)), None)


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


def find_programs(version: str = "", accounting: bool = False) -> Programs:
    """Return where Slurm is: in ``$HPC_DL_SLURM_PREFIX`` if that is set, else in the system, else in the copy.

    Args:
        version: such as ``24.11``: the copy of this version. Default is any.
        accounting: slurmdbd and its database must be there too.

    Raises:
        UserError: It is nowhere; the message says how to get it.
    """
    copy, named = default_prefix(version), os.environ.get(PREFIX_VARIABLE)
    places = [Programs(copy)] if version or named else [Programs(), Programs(copy)]
    for programs in places:
        missing = programs.missing((*COMMANDS, *ACCOUNTING_COMMANDS) if accounting else COMMANDS)
        if not missing:
            return programs
    where = f"{PREFIX_VARIABLE}={copy}" if named else str(copy) if version else f"PATH and {copy}"
    command = f"{INSTALL} --version {version}" if version else INSTALL
    raise UserError(
        f"Slurm's programs are not here: {', '.join(missing)} not found in {where}; `{command}` gets a copy"
    )
