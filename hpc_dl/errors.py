"""Errors that are the user's to mend: one clear message, exit code 2, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LOST = 75
"""Exit code of a training process that has lost contact or was superseded (EX_TEMPFAIL of sysexits.h): a new start from
the last checkpoint helps. Other codes of the built-in program say that it would not."""


class UserError(Exception):
    """Bad input. The message names the file and the line or the key, what was found and what is allowed."""


class JobError(Exception):
    """A job that ended badly. The message names the first cause: process, node, exit code, last log lines."""


def near_match(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word nearest to `word`, or an empty string."""
    near = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def allowed(known: Iterable[str]) -> str:
    """Return `known` as a list in words, for the end of a message."""
    return ", ".join(repr(k) for k in known)
