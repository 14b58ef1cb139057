"""The outcome of a job: which workers are done, what failed first, the summary at the end."""

from __future__ import annotations

import contextlib
import errno
import json
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hpc_dl.disk import insist, look_anew, write_whole
from hpc_dl.runfolder.folder import Failure, RunFolder, Summary
from hpc_dl.runfolder.metrics import figures, per_step

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # errors of link() on CIFS, exFAT, some of FUSE

_LEVELS = 50  # deepest nesting of a script's result in a summary


def mark_done(run: RunFolder, process: str) -> None:
    """Tell the launchers of all nodes that a worker or the chief ended well."""
    run.done.mkdir(parents=True, exist_ok=True)
    (run.done / process.replace(":", "-")).touch()


def mark_lost(run: RunFolder, process: str) -> None:
    """Tell all processes that a worker was given up, so that none waits for it."""
    run.lost.mkdir(parents=True, exist_ok=True)
    (run.lost / process.replace(":", "-")).touch()


def tell_all_to_end(run: RunFolder) -> None:
    """Tell the launchers of all nodes to end, as the job script does."""
    run.state.mkdir(parents=True, exist_ok=True)
    run.stop.write_bytes(b"")


def training_done(run: RunFolder, cluster: Mapping[str, Sequence[str]]) -> bool:
    """Return whether the training of a cluster spec is over.

    A separate chief directs the workers, as TensorFlow's ClusterCoordinator does: it must have ended well. Without one,
    all workers must have ended well or been given up.
    """
    look_anew(run.state)
    if "chief" in cluster:
        return (run.done / "chief-0").exists()
    expected = len(cluster.get("worker", ()))
    ended = {path.name for folder in (run.done, run.lost) if folder.is_dir() for path in folder.iterdir()}
    return len(ended) >= expected


def report_failure(run: RunFolder, failure: Failure) -> Failure:
    """Record a failure if it is the job's first, and return the first."""
    run.state.mkdir(parents=True, exist_ok=True)
    own = run.state / f"failure-{failure.process.replace(':', '-')}.json"
    write_whole(own, msgspec.json.encode(failure))
    with contextlib.suppress(FileExistsError):
        try:
            run.failure.hardlink_to(own)  # atomic: readers see the whole file
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _write_first(run.failure, own.read_bytes())
    return run.read_failure() or failure


def complete_result(run: RunFolder) -> None:
    """Add devices, step times and bytes of each process to the result of the built-in program.

    The chief can't know them: when it writes its result, parameter servers have yet to write their last line.
    """
    result, processes = run.read_result(), figures(run.metrics)
    if result is None or not processes:
        return
    result["devices"] = {task: of["devices"] for task, of in processes.items()}
    moved = per_step(processes).items()
    result["bytes_per_step"] = {task: {key: round(count) for key, count in of.items()} for task, of in moved}
    result["step_seconds"] = {task: of["step_seconds"] for task, of in processes.items() if "step_seconds" in of}
    write_whole(run.result, json.dumps(result, indent=1) + "\n")


def _write_first(path: Path, data: bytes) -> None:
    """Write a file on a file system without hard links; readers treat an incomplete file as missing.

    Raises:
        FileExistsError: another process was first.
    """
    with path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
        except OSError:
            path.unlink()
            raise


def outcome(run: RunFolder, code: int, started: float) -> Summary:
    """Return the summary of a job whose script is about to end.

    The exit code in it comes from the first process that failed, else from `code`. It is 0 if the job was told to end
    when all its workers were done.

    Args:
        run: its run folder, with the attempt that ends.
        code: exit code of the script's last command.
        started: Unix seconds.
    """
    failure = run.read_failure()
    if code == 0 and run.told_to_end() and not _is_done(run):
        code = 128 + signal.SIGTERM  # mpirun's ranks end with 0 when they are told to end
    elif code in (130, 143) and _is_done(run):
        code = 0  # it was told to end when all was done
    code = failure.exit_code if failure else code
    # 130 and 143: SIGINT and SIGTERM ended the step and no process had failed before.
    state = "COMPLETED" if code == 0 else "CANCELLED" if failure is None and code in (130, 143) else "FAILED"
    return Summary(state, code, started, time.time(), failure, _plain(run.read_result()), run.attempt + 1)


def _plain(value: Any, levels: int = _LEVELS) -> Any:
    """Return a JSON value that every reader of a summary accepts: not too deep, and with valid Unicode only."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, (dict, list)) and not levels:
        return "…"
    if isinstance(value, dict):
        return {_plain(key): _plain(one, levels - 1) for key, one in value.items()}
    return [_plain(one, levels - 1) for one in value] if isinstance(value, list) else value


def cancelled(summary: Summary) -> Summary:
    """Return the outcome of a job that was told to end while it recovered from a failure."""
    return msgspec.structs.replace(summary, state="CANCELLED", exit_code=128 + signal.SIGTERM, failure=None)


def _is_done(run: RunFolder) -> bool:
    return run.cluster.exists() and training_done(run, run.read_cluster())


def finish(run: RunFolder, summary: Summary) -> None:
    """Write the summary; retry while the disk is in trouble."""
    data = msgspec.json.format(msgspec.json.encode(summary))
    insist(f"{run.summary} can't be written", lambda: write_whole(run.summary, data))
