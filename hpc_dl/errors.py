"""Errors that end a command or a process with one clear message and never a traceback, and the exit codes for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Exit codes of sysexits.h, which defines 64 to 78.
DISK = 74
"""EX_IOERR: a file could not be read or written, however long that was tried."""
LOST = 75
"""EX_TEMPFAIL: contact with a peer was lost, or a later attempt has begun. A new start helps."""


class UserError(Exception):
    """Bad input. The message names the file and the line or the key, what was found and what is allowed."""


class JobError(Exception):
    """A job that ended badly. The message names the first cause: process, node, exit code, last log lines."""

    exit_code = 1
    """The exit code of a process that ends with this error."""


class PeerLostError(JobError):
    """A training process lost another one that it needs. All processes start again from the last checkpoint."""

    exit_code = LOST


class DiskError(JobError):
    """A file could not be read or written, however long that was tried."""

    exit_code = DISK


def near_match(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word nearest to `word`, or an empty string."""
    near = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def allowed(known: Iterable[str]) -> str:
    """Return `known` as a list in words, for the end of a message."""
    return ", ".join(repr(k) for k in known)
