"""Errors that end a command or a process with one clear message and never a traceback, and the exit codes for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# As in sysexits.h, where 64 to 78 are.
DISK = 74
"""EX_IOERR: what must be written could not be, for long."""
LOST = 75
"""EX_TEMPFAIL: contact with a peer was lost, or a later attempt has taken over; a new start helps."""


class UserError(Exception):
    """Bad input. The message names the file and the line or the key, what was found and what is allowed."""


class JobError(Exception):
    """A job that ended badly. The message names the first cause: process, node, exit code, last log lines."""

    exit_code = 1
    """Of a process that ends with this error."""


class PeerLostError(JobError):
    """A training process can't go on without another one: all start again from the last checkpoint."""

    exit_code = LOST


class DiskError(JobError):
    """What must be written or read could not be, however often it was tried."""

    exit_code = DISK


def near_match(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word nearest to `word`, or an empty string."""
    near = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def allowed(known: Iterable[str]) -> str:
    """Return `known` as a list in words, for the end of a message."""
    return ", ".join(repr(k) for k in known)
