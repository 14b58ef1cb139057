"""A clean end on SIGTERM, which Slurm sends before it kills a job."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time

EXIT_CODE = 128 + signal.SIGTERM


_AT_LEAST = 10.0  # seconds for the final checkpoint
_MARGIN = 10.0  # seconds of the launcher's grace that are kept for the exit


def time_to_save() -> float:
    """Return how many seconds a process may take for the final checkpoint; they follow from the site's `grace`."""
    return max(_AT_LEAST, float(os.environ.get("HPC_DL_GRACE") or 0) - _MARGIN)


class Stop:
    """Says whether SIGTERM has come.

    Python runs signal handlers in the main thread only. TensorFlow may hold that thread for as long as a step takes, or
    for ever when a peer is gone. So another thread waits for the signal. It ends the process if the main thread has not
    done so within `grace` seconds.
    """

    def __init__(self) -> None:
        self.requested = False
        self.grace = 0.0  # seconds that the main thread needs to save what it has; 0: nothing to save
        self._since = math.inf

    @property
    def ends_at(self) -> float:
        """Return when this process ends, as `time.monotonic` counts; infinite before SIGTERM."""
        return self._since + self.grace

    def listen(self) -> None:
        """Start to wait for SIGTERM; call this before any other thread is started."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # inherited by all threads started from now on
        threading.Thread(target=self._wait, name="wait-for-SIGTERM", daemon=True).start()

    def _wait(self) -> None:
        signal.sigwait({signal.SIGTERM})
        self._since = time.monotonic()
        self.requested = True
        time.sleep(self.grace)
        print("ended by SIGTERM", file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)
