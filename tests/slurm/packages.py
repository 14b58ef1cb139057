"""What tests need of Debian beside Slurm: MPICH and environment-modules, from the machine, else in a copy."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from hpc_dl.minicluster.install import unpack

# In the top folder of the checkout, as the copies of Slurm.
_COPY = Path(__file__).parents[2] / ".cache" / "environment"
_PACKAGES = ("mpich", "environment-modules", "tcl8.6", "libtcl8.6")


def hydra() -> Path:
    """Return MPICH's mpirun.

    Raises:
        UserError: it is not here, and can't be got.
    """
    return Path(shutil.which("mpiexec.mpich") or _copy() / "usr/bin/mpiexec.hydra")


def modules() -> Path:
    """Return the file that defines the command ``module`` of environment-modules.

    Raises:
        UserError: it is not here, and can't be got.
    """
    usual = Path("/usr/share/modules/init/bash")
    return usual if usual.exists() else _copy() / "usr/share/modules/init/bash"


def _copy() -> Path:
    _COPY.parent.mkdir(exist_ok=True)
    with _COPY.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runners of tests may want it at once
        if not _COPY.exists():
            unpack(_PACKAGES, _COPY, "", print)
            _use_its_own_tcl(_COPY)
    return _COPY


def _use_its_own_tcl(copy: Path) -> None:
    """Let the scripts of modules find their files and Tcl in the copy."""
    (library,) = copy.glob("usr/lib/*/libtcl8.6.so")
    (copy / "libraries" / library.name).symlink_to(library)
    tcl = copy / "tclsh"
    tcl.write_text(f'#!/bin/sh\nTCL_LIBRARY={copy}/usr/share/tcltk/tcl8.6 exec {copy}/usr/bin/tclsh8.6 "$@"\n')
    tcl.chmod(0o755)
    (command,) = copy.glob("usr/lib/*/modulecmd.tcl")
    for script in (command, copy / "usr/share/modules/init/bash"):
        text = script.read_text().replace("/usr/bin/tclsh8.6", str(tcl))
        for folder in (str(command.parent.relative_to(copy)), "usr/share/modules", "etc/environment-modules"):
            text = text.replace(f"/{folder}", f"{copy}/{folder}")
        script.write_text(text)
