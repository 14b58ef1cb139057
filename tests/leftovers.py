"""What a test may leave behind on this machine: processes, listening sockets, temporary files.

Only what this run of the tests has started counts: several runs may share a machine.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from pathlib import Path

# In the environment of whatever the tests start, directly or through daemons.
_MARK = "TESTED_BY"
_SETTLED = 5.0  # seconds after which a process has the environment that it keeps
_PATIENCE = 10.0  # seconds in which what has been told to end is gone
# What Python tells an audit hook when a process is started (sys.addaudithook).
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn"}


def begin(folder: Path) -> None:
    """Let this process and all that it starts be known, and make their temporary files in a folder of their own."""
    os.environ[_MARK] = str(os.getpid())
    sys.addaudithook(_note_start)
    os.environ["TMPDIR"] = str(folder)
    # Open MPI's shared memory lies in /dev/shm by default, where it can't be told from that of others.
    os.environ["OMPI_MCA_btl_sm_backing_directory"] = str(folder)  # noqa: SIM112 - Open MPI's name
    tempfile.tempdir = str(folder)


def present() -> set[str]:
    """Return what is there now, in words that are the same at the next look."""
    return _processes() | _listening() | {str(path) for path in Path(os.environ["TMPDIR"]).iterdir()}


def new_since(before: set[str], may_stay: str = "") -> list[str]:
    """Return what is there now and was not before; what is about to go has some time for it.

    Args:
        before: what was there.
        may_stay: part of a command that does not count.
    """
    deadline = time.monotonic() + _PATIENCE
    while (found := _without(present() - before, may_stay)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return sorted(found)


def _without(found: set[str], part: str) -> set[str]:
    return {one for one in found if part not in one} if part else found


_others: set[str] = set()  # processes that this run has not started
_may_run = True  # whether a process of ours may run: most tests start none, and a look at all processes takes long


def _note_start(event: str, _arguments: object) -> None:
    global _may_run
    if event in _STARTS:
        _may_run = True


def _processes() -> set[str]:
    global _may_run
    if not _may_run:
        return set()
    _may_run = False
    found = _our_processes()
    _may_run = _may_run or bool(found)
    return found


def _our_processes() -> set[str]:
    mark = f"{_MARK}={os.getpid()}".encode()
    found = set()
    numbers = {entry.name for entry in os.scandir("/proc") if entry.name.isdigit()} - {str(os.getpid())}
    # A number that is given out again has been missing for a while.
    _others.intersection_update(numbers)
    for number in numbers - _others:
        folder = Path("/proc", number)
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if "multiprocessing.resource_tracker" not in command:  # it ends with this process
                    found.add(f"process {number}: {command[:200]}")
            elif _age(folder) > _SETTLED:
                _others.add(number)
        except OSError:
            continue  # it has just ended, or is another user's
    return found


def _age(folder: Path) -> float:
    """Return for how many seconds a process has been there; a young one may yet get its environment."""
    return time.time() - folder.stat().st_mtime


def _listening() -> set[str]:
    """Return the ports on which this process itself listens; those of others go with them."""
    names = {os.path.realpath(entry.path).rpartition("/")[2] for entry in os.scandir("/proc/self/fd")}
    own = {name for name in names if name.startswith("socket:")}
    if not own:
        return set()  # the kernel takes long to list all sockets
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in own:  # TCP_LISTEN
                found.add(f"port {int(re.findall('[0-9A-F]+$', words[1])[0], 16)}")
    return found
