"""Get Slurm's programs: as root with apt, as any user by unpacking Debian's packages into a folder, called a copy.

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
    ACCOUNTING_PACKAGES,
    COMMANDS,
    INSTALL,
    PACKAGES,
    PREFIX_VARIABLE,
    SUITES,
    Programs,
    accounting_prefix,
    default_prefix,
)

Say = Callable[[str], None]

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_POLICY = Path("/usr/sbin/policy-rc.d")


def install(say: Say = print) -> Programs:
    """Get Slurm's programs: as root with apt, else as a copy in `default_prefix()`.

    A root user who sets ``$HPC_DL_SLURM_PREFIX`` gets the copy as well.

    Raises:
        UserError: This is no Debian or Ubuntu, or apt failed (its last words are shown), or the copy can't be written.
    """
    return _install(PACKAGES, COMMANDS, default_prefix(), say)


def install_accounting(say: Say = print) -> Programs:
    """Get slurmdbd and its database as `install` gets Slurm; no system service is started.

    Raises:
        UserError: As for `install`.
    """
    return _install(ACCOUNTING_PACKAGES, ACCOUNTING_COMMANDS, accounting_prefix(), say)


def install_version(version: str, say: Say = print) -> Programs:
    """Get a version of Slurm, such as ``24.11``, with slurmdbd, as a copy in `default_prefix(version)`.

    The database may be of any version, so it is not part of the copy.

    Raises:
        UserError: As for `install`; or Debian does not have this version, or not any more.
    """
    prefix = default_prefix(version)
    programs = Programs(prefix)
    _need_apt(PACKAGES)
    # In Bullseye, another of these packages has slurmdbd's plugin.
    plugin = [] if SUITES[version] == "bullseye" else ["slurm-wlm-mysql-plugin"]
    _unpack([*PACKAGES, "slurmdbd", *plugin], prefix, say, version)
    _check(programs, (*COMMANDS, "slurmdbd"))
    return programs


def _install(packages: Sequence[str], commands: Sequence[str], prefix: Path, say: Say) -> Programs:
    _need_apt(packages)
    if os.getuid() == 0 and not os.environ.get(PREFIX_VARIABLE):
        _install_in_system(packages, say)
        programs = Programs()
    else:
        _unpack(packages, prefix, say)
        programs = Programs(prefix)
    _check(programs, commands)
    return programs


def _need_apt(packages: Sequence[str]) -> None:
    if not shutil.which("apt-get"):
        raise UserError(
            f"no apt-get here, so `{INSTALL}` can't help: ask your administrator for {' '.join(packages)}, "
            f"or set {PREFIX_VARIABLE} to the folder of a Slurm of your own"
        )


def _check(programs: Programs, commands: Sequence[str]) -> None:
    if missing := programs.missing(commands):
        raise UserError(f"installed, but still not found: {', '.join(missing)}")


def _install_in_system(packages: Sequence[str], say: Say) -> None:
    """Install the packages for everybody, without starting Slurm's or munge's system services."""
    # Debian asks this file before it starts a service; 101 means no: deb-systemd-invoke(1p), invoke-rc.d(8).
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        _run(["apt-get", "update"], say)
        _run(["apt-get", "install", "-y", "--no-install-recommends", *packages], say)
    finally:
        if ours:
            _POLICY.unlink()


def _unpack(packages: Sequence[str], prefix: Path, say: Say, version: str = "") -> None:
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
