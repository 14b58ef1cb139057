"""What a test may leave behind on this machine: processes, listening sockets, shared memory, temporary files."""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path

# In the environment of whatever the tests start, directly or through daemons.
_MARK = "TESTED_BY"
_PATIENCE = 10.0  # seconds in which what has been told to end is gone


def begin(folder: Path) -> None:
    """Let this process and all that it starts be known, and make their temporary files in a folder of their own."""
    os.environ[_MARK] = str(os.getpid())
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = str(folder)


def present() -> set[str]:
    """Return what is there now, in words that are the same at the next look."""
    temporary = Path(os.environ["TMPDIR"]).iterdir()
    shared = Path("/dev/shm").iterdir()
    return _processes() | _listening() | {str(path) for path in (*temporary, *shared)}


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


def _processes() -> set[str]:
    mark = f"{_MARK}={os.getpid()}".encode()
    found = set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in Path(entry.path, "environ").read_bytes().split(b"\0"):
                command = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if "multiprocessing.resource_tracker" not in command:  # it ends with this process
                    found.add(f"process {entry.name}: {command[:200]}")
        except OSError:
            continue  # it has just ended
    return found


def _listening() -> set[str]:
    """Return the ports on which this process itself listens; those of others go with them."""
    own = {os.path.realpath(entry.path).rpartition("/")[2] for entry in os.scandir("/proc/self/fd")}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in own:  # TCP_LISTEN
                found.add(f"port {int(re.findall('[0-9A-F]+$', words[1])[0], 16)}")
    return found
