"""Reading the logs of a job while they grow, without holding a large one in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_BLOCK = 65_536  # bytes read at once from a log's end
_SCREEN = 8192  # bytes of a log's end that `screen_lines` reads
# Escape sequences of terminals (ECMA-48, 5.4), and control characters; not those that go back in a line.
_UNSEEN = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x07\x0b\x0c\x0e-\x1f\x7f]")
_LONGEST = 1_000_000  # bytes after which a line without an end is cut


class Logs:
    """Follows log files; each look gives what was appended since the last one.

    Args:
        last: how many of the last lines of each file the first look gives; None: all.
    """

    def __init__(self, last: int | None = None) -> None:
        self._last = last
        self._offsets: dict[Path, int] = {}

    def appended(self, sources: Mapping[str, Path], final: bool) -> Iterator[str]:
        """Yield what was appended, file by file, each line after the name of its source.

        Args:
            sources: log files by the names that stand before their lines; a missing file is skipped.
            final: whether the logs are complete; then a last line without an end is yielded too.
        """
        for name, path in sources.items():
            for line in self._lines(path, final):
                yield f"{name:<9} {line}"
        # All lines of a file that appears later are new.
        self._last = None

    def _lines(self, path: Path, final: bool) -> Iterator[str]:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            size = file.seek(0, 2)
            offset = self._offsets.get(path)
            if offset is None:
                offset = 0 if self._last is None else last_lines_start(path, self._last)
            # A file that has become shorter was begun anew.
            file.seek(offset if offset <= size else 0)
            # Stop at the size from above: a file that grows all the time must not keep the others waiting.
            while file.tell() < size and (line := file.readline(_LONGEST)):
                if not (line.endswith(b"\n") or final or len(line) == _LONGEST):
                    file.seek(-len(line), 1)
                    break
                yield line.decode(errors="replace").rstrip("\n")
            self._offsets[path] = file.tell()


def last_lines_start(path: Path, count: int) -> int:
    """Return where the last `count` lines of a file begin; a last line without an end is one of them."""
    with path.open("rb") as file:
        start = size = file.seek(0, 2)
        ends_wanted = count
        if count == 0:
            return size
        while start > 0:
            block = min(_BLOCK, start)
            start -= block
            file.seek(start)
            text = file.read(block)
            # No line starts after the end of the last line.
            cut = len(text) - 1 if start + block == size and text.endswith(b"\n") else len(text)
            while (cut := text.rfind(b"\n", 0, cut)) >= 0:
                ends_wanted -= 1
                if ends_wanted == 0:
                    return start + cut + 1
    return 0


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a file; none if it is not there."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(last_lines_start(path, count))
        return file.read().decode(errors="replace").splitlines()


def screen_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log as a terminal would show them; none if it can't be read.

    Blank lines are left out. If a line was overwritten, as by a progress bar, its last text counts.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _SCREEN))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = []
    for line in _UNSEEN.sub("", text).split("\n"):
        written = [part.strip() for part in re.split("[\r\b]+", line)]
        lines += [part for part in written if part][-1:]
    return lines[-count:]
