"""Finding: one thing that is wrong, in a line: what was found, what is allowed, what to do."""

from __future__ import annotations

from typing import Literal

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong."""

    level: Literal["error", "warning"]
    """An error: the job would not start, or would fail. A warning: it would run, but not as it should."""
    text: str
    node: str = ""
    """Where it was found; empty: here."""

    def __str__(self) -> str:
        return f"{self.node + ': ' if self.node else ''}{self.level}: {self.text}"


def error(text: str) -> Finding:
    """Return a finding that would keep the job from running."""
    return Finding("error", text)


def warning(text: str) -> Finding:
    """Return a finding that would make the job run in another way than it should."""
    return Finding("warning", text)


def last_line(text: str) -> str:
    """Return the last line that is not blank, for the end of a message."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
