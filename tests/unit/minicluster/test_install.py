"""Slurm in a copy: which packages apt gets, and what becomes of them. apt, dpkg and patchelf are scripts here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpc_dl.errors import UserError
from hpc_dl.minicluster import install, programs

# It knows two mirrors, and says what it was asked, and the sources that it was given.
_APT = """#!/bin/sh
echo "$*" >>$LOG
for word; do case $word in *::sourcelist=*) cat "${word#*=}" >>$LOG;; esac; done
case "$*" in
  *" -s "*)
    for name in libc6 munge slurm-wlm-basic-plugins slurm-client slurmctld slurmd slurmdbd mariadb-server-core \
      patchelf; do
      echo "Inst $name ($VERSION Debian:12)"; done;;
  *indextargets*) echo "Docker|Docker CE|http://docker/linux/debian"; echo "$MIRROR";;
  *download*) while [ "$1" != download ]; do shift; done; shift
      for name; do touch "${name%=*}_1.0_amd64.deb"; done;;
esac
"""
# libc6's loader runs patchelf, which says what it was asked; one plugin has a path of its own.
_DPKG = """#!/bin/sh
name=$(basename "$2" _1.0_amd64.deb)
bin=$3/usr/bin sbin=$3/usr/sbin lib=$3/usr/lib/x86_64-linux-gnu
mkdir -p $bin $sbin $lib/slurm-wlm $3/lib64
program() { for file; do printf '\\177ELF' >$file; chmod +x $file; done; }
case $name in
  libc6) program $lib/libc.so.6; ln -s ../usr/lib/x86_64-linux-gnu/ld-2.36.so $3/lib64/ld-linux-x86-64.so.2
    program $bin/ldd
    printf '#!/bin/sh\\necho "$*" >>$LOG\\ncase $* in *--print-rpath*auth*) echo /usr;; esac\\n' >$lib/ld-2.36.so
    chmod +x $lib/ld-2.36.so;;
  slurm-client) program $bin/srun $bin/sbatch $bin/squeue $bin/sinfo $bin/scontrol $bin/scancel;;
  slurmctld) program $sbin/slurmctld-wlm;;
  slurmd | slurmdbd) program $sbin/$name;;
  munge) program $sbin/munged;;
  mariadb-server-core) program $sbin/mariadbd;;
  slurm-wlm-basic-plugins) program $lib/slurm-wlm/auth_none.so $lib/slurm-wlm/libslurmfull.so;;
esac
"""


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Write down what the package manager is asked."""
    for name, text in (("apt-get", _APT), ("dpkg", _DPKG)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("MIRROR", "Debian|Debian|http://mirror/debian/")
    monkeypatch.setenv("VERSION", "20.11.7+really20.11.4-2+deb11u1")
    monkeypatch.setenv(programs.PREFIX_VARIABLE, str(tmp_path / "copy"))
    return tmp_path / "log"


def test_a_copy_is_whole_and_brings_its_libraries(log: Path, tmp_path: Path) -> None:
    copy = install.install(say=lambda _: None)
    # As if nothing were installed here.
    assert "Dir::State::status=/dev/null" in log.read_text()
    assert copy.find("srun") == str(tmp_path / "copy/usr/bin/srun")
    # The link is Debian's way to choose a Slurm.
    assert copy.find("slurmctld") == str(tmp_path / "copy/usr/sbin/slurmctld")
    # On PATH are Slurm's programs alone: other programs of that Debian would hide the machine's.
    assert copy.find("ldd") is None
    libraries = tmp_path / "copy/libraries"
    assert sorted(path.name for path in libraries.iterdir()) == ["ld-2.36.so", "ld-linux-x86-64.so.2", "libc.so.6"]
    assert (libraries / "ld-linux-x86-64.so.2").resolve() == libraries / "ld-2.36.so"


def test_the_programs_of_a_copy_know_their_libraries(log: Path, tmp_path: Path) -> None:
    copy = install.install(say=lambda _: None)
    rpath = f"--set-rpath {copy.plugin_dir}:{tmp_path}/copy/libraries"
    set_path = {line.rpartition("/")[2]: line for line in log.read_text().splitlines() if rpath in line}
    commands = {*programs.COMMANDS, *programs.ACCOUNTING_COMMANDS}
    assert set_path.keys() == commands - {"slurmctld"} | {"slurmctld-wlm", "auth_none.so"}
    loader = f"--set-interpreter {tmp_path}/copy/libraries/ld-linux-x86-64.so.2 "
    assert {name for name, line in set_path.items() if loader not in line} == {"auth_none.so"}


def test_a_version_comes_from_the_mirror_of_this_machine(log: Path, tmp_path: Path) -> None:
    assert install.install("20.11", lambda _: None).prefix == tmp_path / "copy"
    assert f"deb [signed-by={install._KEYRING}] http://mirror/debian/ bullseye main\n" in log.read_text()
    plan = next(line for line in log.read_text().splitlines() if " -s install" in line)
    assert plan.endswith("slurmctld slurmd slurm-client slurmdbd munge mariadb-server-core-10.5 patchelf")


def test_a_version_that_debian_has_replaced_is_refused(log: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Debian sid has Slurm 20.11.7.* now, and no other has 26.05"):
        install.install("26.05", lambda _: None)
    assert not (tmp_path / "copy").exists()


def test_a_version_without_a_mirror_is_refused(log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIRROR", "Ubuntu|Ubuntu|http://mirror/ubuntu")
    with pytest.raises(UserError, match="apt's sources name no mirror of Debian"):
        install.install("24.11", lambda _: None)
    with pytest.raises(UserError, match=r"Slurm 2411: unknown version.*did you mean '24.11'"):
        install.install("2411", lambda _: None)
    assert not (tmp_path / "copy").exists()


def test_without_apt_the_message_says_whom_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="ask your administrator"):
        install.install()


def test_an_incomplete_copy_is_not_overwritten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\nexit 1\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv(programs.PREFIX_VARIABLE, str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="remove it"):
        install.install()
    (tmp_path / "mine").rmdir()
    with pytest.raises(UserError, match="`apt-get update …` failed"):
        install.install(say=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["apt-get"]
