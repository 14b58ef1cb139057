"""Fake Slurm commands: small executables on PATH, so that the real code runs. They note how they were called."""

from __future__ import annotations

from pathlib import Path

import pytest

COMMANDS = ("sbatch", "scontrol", "squeue", "scancel", "sacct", "srun", "sinfo")

_SCRIPT = """#!/bin/sh
here={here} name=${{0##*/}}
{{ printf '%s\\037' "$name" "$@"; echo; }} >> "$here/calls"
/usr/bin/env -0 > "$here/$name.env"
for last; do :; done
[ "$name" != sbatch ] || /bin/cat "$last" > "$here/script"
[ ! -e "$here/$name.hangs" ] || exec /bin/sleep 600
[ ! -e "$here/$name.out" ] || /bin/cat "$here/$name.out"
[ ! -e "$here/$name.err" ] || /bin/cat "$here/$name.err" >&2
read -r code < "$here/$name.code"
exit "$code"
"""


class FakeSlurm:
    """The commands in a folder that is the whole PATH; each succeeds and says nothing until told otherwise."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        for name in COMMANDS:
            (self.bin / name).write_text(_SCRIPT.format(here=folder))
            (self.bin / name).chmod(0o755)
            self.answer(name)
        self.answer("sbatch", "Submitted batch job 4711\n")
        monkeypatch.setenv("PATH", str(self.bin))

    def answer(self, name: str, out: str = "", err: str = "", code: int = 0) -> None:
        """Let a command print and exit so."""
        (self.folder / f"{name}.out").write_text(out)
        (self.folder / f"{name}.err").write_text(err)
        (self.folder / f"{name}.code").write_text(f"{code}\n")

    def hang(self, name: str) -> None:
        """Let a command never end."""
        (self.folder / f"{name}.hangs").touch()

    def remove(self, name: str) -> None:
        """Take a command away."""
        (self.bin / name).unlink()

    def calls(self, name: str = "") -> list[list[str]]:
        """Return the command lines so far, of one command or of all."""
        path = self.folder / "calls"
        lines = path.read_text().split("\x1f\n")[:-1] if path.exists() else []
        return [words for line in lines if (words := line.split("\x1f")) and name in ("", words[0])]

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a command's last call."""
        entries = (self.folder / f"{name}.env").read_text().split("\0")
        return dict(entry.split("=", 1) for entry in entries if entry)

    def script(self) -> str:
        """Return the script that sbatch got."""
        return (self.folder / "script").read_text()
