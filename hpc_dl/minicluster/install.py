"""Get Slurm's programs, as any user: unpack Debian's packages into a folder, called a copy.

A copy has its own libraries, even libc, so it may come from any Debian release. Its programs find the libraries by
the interpreter and RPATH of their ELF files. So no LD_LIBRARY_PATH leaks into jobs, which run the machine's programs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.minicluster.programs import (
    ACCOUNTING_COMMANDS,
    COMMANDS,
    INSTALL,
    PREFIX_VARIABLE,
    SUITES,
    Programs,
    default_prefix,
)

Say = Callable[[str], None]

_SLURM = ("slurmctld", "slurmd", "slurm-client", "slurmdbd", "munge")
# The database's bare programs: the package mariadb-server is a system service.
_PACKAGES = (*_SLURM, "slurm-wlm-mysql-plugin", "mariadb-server-core")
# slurmdbd itself asks for its plugin there.
_PACKAGES_OF_BULLSEYE = (*_SLURM, "mariadb-server-core-10.5")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def install(version: str = "", say: Say = print) -> Programs:
    """Get Slurm, with the programs of accounting, as a copy in `default_prefix(version)`.

    Args:
        version: such as ``24.11``; default is the version of the machine's own Debian.
        say: shows a line to the user.

    Raises:
        UserError: This is no Debian or Ubuntu, or apt failed (its last words are shown), or the copy can't be written;
            or Debian does not have this version, or not any more.
    """
    prefix = default_prefix(version)
    if not shutil.which("apt-get"):
        raise UserError(
            f"no apt-get here, so `{INSTALL}` can't help: ask your administrator for {' '.join(_PACKAGES)}, "
            f"or set {PREFIX_VARIABLE} to the folder of a Slurm of your own"
        )
    unpack(_PACKAGES_OF_BULLSEYE if SUITES.get(version) == "bullseye" else _PACKAGES, prefix, version, say)
    programs = Programs(prefix)
    if missing := programs.missing((*COMMANDS, *ACCOUNTING_COMMANDS)):
        raise UserError(f"installed, but still not found: {', '.join(missing)}")
    return programs


def unpack(packages: Sequence[str], prefix: Path, version: str, say: Say) -> None:
    """Make a copy in `prefix`: these packages and all libraries that they need.

    With `version` they come from the Debian suite that has it, else from apt's sources. Needs no root.
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
        debs = _download([*packages, "patchelf"], folder, version, say)
        copy, others = folder / "copy", folder / "others"
        for deb in debs:
            package = deb.name.partition("_")[0]
            own = package in packages or "slurm" in package
            _run(["dpkg", "-x", str(deb), str(copy if own else others)])
        _gather(others, copy / "libraries")
        # On an installed system, update-alternatives makes these links.
        for program in (copy / "usr/sbin").glob("*-wlm"):
            program.with_name(program.name.removesuffix("-wlm")).symlink_to(program.name)
        _patch(copy, others / "usr/bin/patchelf", prefix)
        copy.rename(prefix)


def _download(packages: Sequence[str], folder: Path, version: str, say: Say) -> list[Path]:
    """Download packages and all that they need into `folder`, with a separate state of apt."""
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (folder / name).mkdir(parents=True)
    options = {
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        # As if nothing were installed: a copy must be complete.
        "Dir::State::status": os.devnull,
        # Root's apt would download as a user that can't write here.
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", *(f"-o{key}={value}" for key, value in options.items())]
    updated = _run([*apt, "update"], say)
    if version:
        source = f"deb [signed-by={_KEYRING}] {_mirror(apt, updated)} {SUITES[version]} main\n"
        (folder / "sources.list").write_text(source)
        apt += [f"-oDir::Etc::sourcelist={folder}/sources.list", "-oDir::Etc::sourceparts=/dev/null"]
        apt += ["-oDir::Etc::preferencesparts=/dev/null"]
        _run([*apt, "-oAPT::Update::Error-Mode=any", "update"], say)
    plan = _run([*apt, "-s", "install", "--no-install-recommends", *packages], say)
    names = re.findall(r"^Inst (\S+) \((\S+)", plan, flags=re.MULTILINE)
    found = dict(names).get("slurmctld", "")
    if version and not found.startswith(f"{version}."):
        raise UserError(f"Debian {SUITES[version]} has Slurm {found or 'none'} now, and no other has {version}")
    _run([*apt, "download", *map("=".join, names)], say, cwd=folder / "debs")
    return sorted((folder / "debs").iterdir())


def _mirror(apt: Sequence[str], updated: str) -> str:
    """Return the mirror from which this machine gets Debian."""
    known = _run([*apt, "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"])
    if found := re.search(r"^Debian\|Debian\|(\S+)$", known, flags=re.MULTILINE):
        return found[1]
    raise UserError(f"apt's sources name no mirror of Debian that answers; apt-get update said: {_last_words(updated)}")


def _gather(tree: Path, libraries: Path) -> None:
    """Move the shared libraries in `tree` into one folder, with their links."""
    libraries.mkdir(parents=True)
    for file in [*tree.rglob("lib*.so*"), *tree.rglob("ld*.so*")]:
        place = libraries / file.name
        if file.is_symlink():
            if not os.path.lexists(place) and file.readlink().name != file.name:
                place.symlink_to(file.readlink().name)
        elif file.is_file():
            file.replace(place)


def _patch(copy: Path, patchelf: Path, prefix: Path) -> None:
    """Make the ELF files in `copy` use its libraries. The copy will be moved to `prefix`."""
    libraries = copy / "libraries"
    loader = next(libraries.glob("ld-linux*.so.*"))
    # patchelf needs the libraries that it came with.
    tool = [str(loader), "--library-path", str(libraries), str(patchelf), "--force-rpath"]
    plugins = {file.parent.relative_to(copy) for file in copy.rglob("auth_none.so")}
    path = ["--set-rpath", os.pathsep.join(str(prefix / folder) for folder in (*sorted(plugins), Path("libraries")))]
    interpreter = ["--set-interpreter", str(prefix / "libraries" / loader.name)]
    for program in filter(_is_elf, copy.glob("usr/*bin/*")):
        _run([*tool, *interpreter, *path, str(program)])
    for library in filter(_is_elf, copy.rglob("*.so*")):
        # A library with an RPATH of its own would not use the program's.
        if library != loader.resolve() and _run([*tool, "--print-rpath", str(library)]).strip():
            _run([*tool, *path, str(library)])


def _is_elf(file: Path) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _run(command: Sequence[str], say: Say | None = None, cwd: Path | None = None) -> str:
    """Run a command; return what it printed."""
    words = [word for word in command if not word.startswith("-o")]
    if say:
        say(" ".join(words[:12]) + (f" … ({len(words)} words)" if words[12:] else ""))
    env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise UserError(f"`{' '.join(words[:3])} …` failed: {_last_words(done.stdout)}")
    return done.stdout


def _last_words(text: str) -> str:
    return " ".join(text.strip().splitlines()[-3:])
