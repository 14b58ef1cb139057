"""The cores of a node: lists of them, hardware threads, and those that a site keeps for itself. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hpc_dl.spec.site import Scalar, Site

_MOST = 1 << 16  # CPU numbers: no kernel has more
_PART = re.compile(r"\s*([0-9]{1,9})(?:-([0-9]{1,9}))?\s*", re.ASCII)


def cores_in(text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as ``48-63,112``, as the kernel and taskset write it, in ascending order.

    Raises:
        ValueError: it is no such list; the message says why.
    """
    found: set[int] = set()
    for part in text.split(",") if text.strip() else []:
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"expected core numbers such as 0-7,16, found {part!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= _MOST:
            raise ValueError(f"{part!r} runs backwards" if last < first else f"{last} is no core number")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def one_thread_per_core(site: Site, options: Mapping[str, Scalar] | None = None) -> bool:
    """Return whether Slurm counts physical cores in this job, and leaves their further hardware threads idle.

    Args:
        site: the site.
        options: further sbatch options of the job, which win over the site's.
    """
    wanted = {**site.slurm, **(options or {})}
    in_srun = {"--hint=nomultithread", "--threads-per-core=1"} & set(site.srun)
    return wanted.get("hint") == "nomultithread" or str(wanted.get("threads-per-core")) == "1" or bool(in_srun)


def physical_cores(site: Site) -> int:
    """Return how many physical cores a node has, with those that jobs never get."""
    jobs, reserved = site.cores // site.threads_per_core, cores_in(site.reserved_cores)
    # The list names either all threads of the reserved cores, or the first thread of each.
    total = jobs + len(reserved) // site.threads_per_core
    named = {core % total for core in reserved}
    return total if len(named) * site.threads_per_core == len(reserved) else jobs + len(reserved)


def threads_of(core: int, site: Site) -> tuple[int, ...]:
    """Return the CPU numbers of the physical core to which a CPU belongs, as most nodes number them.

    The first threads of all cores come first. Only the node itself knows for sure: `NodeFacts`.
    """
    total = physical_cores(site)
    return tuple(range(core % total, total * site.threads_per_core, total))


def jobs_cores(site: Site) -> tuple[tuple[int, ...], ...]:
    """Return the CPU numbers of each physical core that jobs may get."""
    reserved = {core % physical_cores(site) for core in cores_in(site.reserved_cores)}
    return tuple(threads_of(core, site) for core in range(physical_cores(site)) if core not in reserved)
