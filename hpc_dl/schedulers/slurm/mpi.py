"""Can srun start MPI ranks?"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hpc_dl.errors import allowed, near_match
from hpc_dl.schedulers.slurm.commands import NO_COMMAND, ask


def why_not(environ: Mapping[str, str], kind: str) -> str:
    """Return why srun can't start ranks of a kind of MPI (srun --mpi); empty if it can, or if that can't be told.

    `srun --mpi=list` names the plugin of pmix even where the library that it loads, libpmix, is missing. So srun is
    asked to check a step (--test-only starts nothing): it loads the plugin before it asks the controller, whose own
    objections don't matter here.
    """
    answer = ask(environ, "srun", f"--mpi={kind}", "--test-only", "--ntasks=1", "true", patience=60.0)
    if answer.code == NO_COMMAND:
        return answer.error
    # Slurm 20.11 writes it in small letters.
    if "invalid mpi type" not in answer.error.lower():
        return ""
    known = kinds(environ)
    if known and kind not in known:
        return f"Slurm has none of this name{near_match(kind, known)}; it has {allowed(known)}"
    # The first line is the plugin's own: "srun: error:  mpi/pmix_v4: …: pmi/pmix: can not load PMIx library".
    return answer.error.splitlines()[0].rpartition(": ")[2]


def kinds(environ: Mapping[str, str]) -> list[str]:
    """Return the kinds of MPI that srun knows; none if it does not answer."""
    listed = ask(environ, "srun", "--mpi=list")
    return parse_kinds(listed.out + listed.error)


def parse_kinds(text: str) -> list[str]:
    """Return the kinds of MPI in the output of ``srun --mpi=list``, whose form differs between versions of Slurm."""
    found = re.findall(r"^(?:srun: )?\s*([a-z]\w*)\s*$", text, re.MULTILINE)
    versions = re.search(r"versions available: (.*)", text)
    return list(dict.fromkeys([*found, *(re.findall(r"\w+", versions[1]) if versions else [])]))
