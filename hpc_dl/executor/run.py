"""What a job with a function runs in place of a user's script: one process of it.

It loads the function, calls it, and writes what came out into the run folder. A parameter server serves instead.
"""

from __future__ import annotations

import sys

# The folder of this file comes first there, whose names are no modules.
sys.path[:] = [folder for folder in sys.path if folder != __file__.rpartition("/")[0]]

# ruff: noqa: E402
import contextlib
import functools
import json
import os
import signal
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from hpc_dl.disk import insist, write_whole
from hpc_dl.errors import DiskError, UserError
from hpc_dl.executor.pickled import Call, dumps, load, read_description
from hpc_dl.runfolder.function import FunctionFiles

_TOLD = 128 + signal.SIGTERM


class FunctionProcess:
    """One process of a job with a function.

    Args:
        files: the function's files.
        attempt: the job's attempt.
        process: the name of this process, such as ``worker:3``.
        decides: whether this process calls the function's checkpoint.
    """

    def __init__(self, files: FunctionFiles, attempt: int, process: str, decides: bool) -> None:
        self._files = files
        self._attempt = attempt
        self._process = process
        self._decides = decides

    def run(self) -> int:
        """Call the function, write what came out, and return the exit code."""
        result = self._files.result(self._attempt, self._process)
        if result.exists():
            return 0  # this process was started again after it had written its result
        try:
            description = read_description(self._files.description)
            sys.path[:0] = [folder for folder in description["path"] if folder not in sys.path]
            call = load(self._files.submitted(self._attempt), description)
            self._listen(call)
            value = call.function(*call.args, **call.kwargs)
            data = dumps(("success", value), f"the result of {description['name']!r}")
        except UserError as error:
            print(f"hpc-dl: {error}", file=sys.stderr)
            self._write(result, ("error", str(error)))
            return 2
        except Exception as error:
            trace = error.__traceback__ and error.__traceback__.tb_next  # without the line of this file
            text = "".join(traceback.format_exception(type(error), error, trace))
            print(text, end="", file=sys.stderr)
            self._write(result, ("error", text))
            return 1
        self._write_data(result, data)
        return 0

    def _listen(self, call: Call) -> None:
        """Call the function's checkpoint when this process is told to end."""
        function = call.function
        checkpoint = getattr(function, "__submitit_checkpoint__", None) or getattr(function, "checkpoint", None)
        if checkpoint is None or not self._decides:
            return

        def told(_number: int, _frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            code = _TOLD
            try:
                self._keep(checkpoint(*call.args, **call.kwargs))
            except Exception:
                traceback.print_exc()
                code = 1
            _flush()
            os._exit(code)

        signal.signal(signal.SIGTERM, told)

    def _keep(self, following: Any) -> None:
        """Write what the next attempt runs: the DelayedSubmission that a checkpoint returned; nothing for None."""
        path = self._files.following(self._attempt)
        if following is None:
            write_whole(path, b"")
            return
        call = Call(following.function, following.args, following.kwargs)
        write_whole(path, dumps(tuple(call), f"what the checkpoint of {call.name!r} returned"))

    def _write(self, path: Path, outcome: tuple[str, str]) -> None:
        self._write_data(path, dumps(outcome, "the outcome"))

    def _write_data(self, path: Path, data: bytes) -> None:
        what = f"the result of {self._process}, {len(data):,} bytes, can't be written to {path}"
        insist(what, functools.partial(path.parent.mkdir, mode=0o700, parents=True, exist_ok=True))
        insist(what, functools.partial(write_whole, path, data))


def _serve(cluster: dict[str, list[str]], index: int) -> int:
    """Be a parameter server, until the launcher ends this process after the last worker."""
    from hpc_dl import tensorflow_env

    tensorflow_env.before_import()
    try:
        import tensorflow as tf
    except ModuleNotFoundError as error:
        print(f"hpc-dl: a mode with parameter servers needs TensorFlow: no module {error.name!r}", file=sys.stderr)
        return 2
    tf.distribute.Server(tf.train.ClusterSpec(cluster), job_name="ps", task_index=index).join()
    return 0


def main() -> int:
    """Be the process that TF_CONFIG names, and return the exit code."""
    config = json.loads(os.environ["TF_CONFIG"])
    cluster, role, index = config["cluster"], config["task"]["type"], config["task"]["index"]
    if role == "ps":
        return _serve(cluster, index)
    os.environ["SUBMITIT_EXECUTOR"] = "hpc_dl"
    decides = (role, index) == ("chief" if "chief" in cluster else "worker", 0)
    files = FunctionFiles(Path(os.environ["HPC_DL_RUN"]))
    try:
        return FunctionProcess(files, int(os.environ["HPC_DL_ATTEMPT"]), f"{role}:{index}", decides).run()
    except DiskError as error:
        print(f"hpc-dl: {error}", file=sys.stderr)
        return error.exit_code


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    code = main()
    _flush()
    sys.exit(code)
