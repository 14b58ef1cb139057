"""The outcome of a job: which workers are done, what failed first, the summary at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence

import msgspec

from hpc_dl.runfolder import Failure, RunFolder, Summary, write_text


def mark_done(run: RunFolder, process: str) -> None:
    """Say to the launchers of all nodes that a worker or the chief ended well."""
    run.done.mkdir(parents=True, exist_ok=True)
    (run.done / process.replace(":", "-")).touch()


def all_workers_done(run: RunFolder, cluster: Mapping[str, Sequence[str]]) -> bool:
    """Return whether every process of the cluster spec but the ps has ended well."""
    expected = sum(len(addresses) for role, addresses in cluster.items() if role != "ps")
    return run.done.is_dir() and sum(1 for _ in run.done.iterdir()) >= expected


def report_failure(run: RunFolder, failure: Failure) -> Failure:
    """Record a failure if it is the job's first, and return the first: linking a file is atomic on every disk."""
    run.state.mkdir(parents=True, exist_ok=True)
    own = run.state / f"failure-{failure.process.replace(':', '-')}.json"
    write_text(own, msgspec.json.encode(failure))
    with contextlib.suppress(FileExistsError):
        run.failure.hardlink_to(own)
    return run.read_failure() or failure


def finish(run: RunFolder, code: int, started: float) -> Summary:
    """Write the summary of a job whose script is about to end.

    Args:
        run: its run folder.
        code: exit code of what the script ran last.
        started: Unix seconds.

    Returns:
        The summary; its exit code is that of the first process that failed, else `code`.
    """
    failure = run.read_failure()
    code = failure.exit_code if failure else code
    # 130 and 143: SIGINT and SIGTERM ended the step and no process had failed before.
    state = "COMPLETED" if code == 0 else "CANCELLED" if failure is None and code in (130, 143) else "FAILED"
    summary = Summary(state, code, started, time.time(), failure, run.read_result())
    write_text(run.summary, msgspec.json.format(msgspec.json.encode(summary)))
    return summary
