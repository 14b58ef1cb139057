"""Signs of life of a training process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

_BEGIN = """
import os, sys, time
from hpc_dl.train import heartbeat as module
module._PERIOD, module._NO_STEP = 0.05, 2
heartbeat = module.heartbeat
heartbeat.start()
"""


class Process:
    """A process whose signs of life are heard here."""

    def __init__(self, script: str, timeout: float = 0.5, wrong: int = 0, inherited: bool = True) -> None:
        read, write = os.pipe()
        env = {
            **os.environ,
            "HPC_DL_HEARTBEAT": f"{write}:{os.fstat(write).st_ino + wrong}:{timeout}:{os.getpid()}:{read}",
        }
        command: Sequence[str] = [sys.executable, "-c", _BEGIN + script]
        fds = (write,) if inherited else ()
        self.popen = subprocess.Popen(command, env=env, pass_fds=fds, stderr=subprocess.PIPE, text=True)
        os.close(write)
        self._read = read

    def end(self) -> tuple[int, str, int]:
        """Return its exit code, what it said, and how often it has beaten."""
        said = self.popen.communicate(timeout=60)[1]
        beats = len(os.read(self._read, 1 << 16))
        os.close(self._read)
        return self.popen.returncode, said, beats


def test_it_beats_from_its_start_whatever_the_training_does() -> None:
    code, said, beats = Process("time.sleep(1)").end()
    assert (code, said) == (0, "")
    assert beats > 3


def test_in_a_step_or_container_of_its_own_it_finds_the_pipe_of_its_launcher() -> None:
    code, said, beats = Process("time.sleep(1)", inherited=False).end()
    assert (code, said) == (0, "")
    assert beats > 3


def test_without_a_step_for_long_it_ends_with_the_code_of_a_lost_peer_and_says_where_each_thread_was() -> None:
    code, said, _ = Process("heartbeat.step(); time.sleep(60)").end()
    assert code == 75
    assert said.splitlines()[-1].startswith("error: no step for 1.")
    assert 'File "<string>", line 7 in <module>' in said


def test_a_checkpoint_takes_as_long_as_it_takes() -> None:
    code, said, _ = Process("heartbeat.step(); heartbeat.rest(); time.sleep(2); heartbeat.step()").end()
    assert (code, said) == (0, "")


def test_a_step_may_take_many_times_as_long_as_those_before() -> None:
    code, said, _ = Process("heartbeat.step(); time.sleep(0.4); heartbeat.step(); time.sleep(2)").end()
    assert (code, said) == (0, "")


def test_a_file_that_has_the_pipes_number_by_chance_gets_nothing() -> None:
    code, said, beats = Process("time.sleep(0.5)", wrong=1).end()
    assert (code, said, beats) == (0, "", 0)


def test_a_process_that_nobody_listens_to_is_quiet() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HPC_DL_")}
    script = _BEGIN + "import threading; assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)
