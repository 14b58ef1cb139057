"""Small things about Unix processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from hpc_dl.processes import Guard, kill_group, kill_marked, kill_sessions, start_time
from tests.unit.fakes.processes import Marker, eventually


@pytest.fixture
def marker() -> Iterator[Marker]:
    one = Marker()
    yield one
    one.kill()


def test_start_time_names_a_living_process() -> None:
    assert start_time(os.getpid()).isdigit()
    assert start_time(os.getpid()) == start_time(os.getpid())


def test_start_time_of_what_has_ended_is_empty() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(process.pid) == ""  # a zombie
    process.wait()
    assert start_time(process.pid) == ""


def test_start_time_reads_a_name_with_blanks_and_brackets() -> None:
    code = "open('/proc/self/comm', 'w').write('a) S (b'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert start_time(process.pid).isdigit()


def test_kill_group_says_whether_there_is_one() -> None:
    process = subprocess.Popen(["sleep", "100"], start_new_session=True)
    assert kill_group(process.pid)
    assert process.wait() == -signal.SIGKILL
    assert not kill_group(process.pid)


def test_kill_sessions_reaches_every_group_and_counts_no_zombie(marker: Marker) -> None:
    script = f"set -m; sh -c 'echo; sleep 300; :' {marker.word} & wait"
    with subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        groups = {os.getpgid(pid) for pid in marker.pids()}
        left = kill_sessions({process.pid, 1 << 30}, 0), kill_sessions(set()), kill_sessions({process.pid})
        eventually(lambda: not kill_sessions({process.pid}))  # though nobody has waited for its leader yet
    assert len(groups) == 2
    assert left == ({process.pid}, set(), {process.pid})
    assert marker.gone()


_ADOPTS = """
import os, subprocess, sys
from hpc_dl.processes import adopt_orphans, kill_sessions, sessions_left
adopt_orphans()
scripts = ["true", "sleep 300 >&- 2>&- & true", "sleep 300 & wait"]
first, second, third = [subprocess.Popen(["bash", "-c", f"set -m; {one}"], start_new_session=True) for one in scripts]
first.wait(), second.wait()
print(sessions_left({first.pid, second.pid}, {third.pid}) == {second.pid})
while kill_sessions({second.pid, third.pid}):
    pass
"""


def test_sessions_left_are_those_of_adopted_orphans() -> None:
    done = subprocess.run([sys.executable, "-c", _ADOPTS], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)", "raise SystemExit"])
def test_the_guard_kills_what_is_left_however_its_maker_ends(marker: Marker, end: str) -> None:
    code = f"""
import os, subprocess, sys
from hpc_dl.processes import Guard
guard = Guard()
for _ in range(2):
    child = subprocess.Popen(["bash", "-c", "set -m; sh -c 'sleep 300; :' $0 & echo; wait", sys.argv[1]],
                             stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
    guard.add(child.pid)
{end}
"""
    subprocess.run([sys.executable, "-c", code, marker.word], check=False, timeout=60)
    eventually(marker.gone)


def test_the_guard_leaves_alone_what_was_dropped(marker: Marker) -> None:
    process = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        guard = Guard()
        guard.add(process.pid)
        guard.drop(process.pid)
        guard.close()
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_the_guard_kills_only_the_sessions_that_it_was_told_last() -> None:
    stays, goes = (subprocess.Popen(["sleep", "300"], start_new_session=True) for _ in range(2))
    try:
        guard = Guard()
        guard.add(stays.pid)
        guard.only([goes.pid])
        guard.close()
        assert goes.wait(10) == -signal.SIGKILL
        assert stays.poll() is None
    finally:
        for process in (stays, goes):
            process.kill()
            process.wait()


def test_the_guard_holds_no_output_open() -> None:
    code = "from hpc_dl.processes import Guard; import os; print(Guard().pid, flush=True); os.close(1); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read().strip().isdigit()  # ends: nobody else has the pipe


_WAITS = """
import signal, sys
from hpc_dl.processes import next_signal

numbers = (signal.SIGTERM, signal.SIGCHLD)
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("ready", flush=True)
print(next_signal(numbers, 0.5), flush=True)
print(next_signal(numbers, 60.0), flush=True)
"""


def test_a_wait_that_was_suspended_past_its_end_has_seen_no_signal() -> None:
    with subprocess.Popen([sys.executable, "-c", _WAITS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "0\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"{int(signal.SIGTERM)}\n"


def test_a_marked_process_is_found_wherever_it_was_started(marker: Marker) -> None:
    mark = f"HPC_DL_MARK={marker.word}"
    # In a session of its own, without a parent of ours.
    subprocess.run(["sh", "-c", 'setsid env "$0" sleep 300 & setsid env "$0"0 sleep 300 &', f"{mark} one"], check=True)
    eventually(lambda: kill_marked(f"{mark} one", 0))
    (found,) = kill_marked(f"{mark} one\0", 0)  # not the one of "one0"
    assert kill_marked(f"K={marker.word}", 0) == set()  # the mark begins a variable
    assert kill_marked(f"{mark} one\0") == {found}
    eventually(lambda: not kill_marked(f"{mark} one\0", 0))
    eventually(lambda: not kill_marked(mark))


def test_the_guard_kills_what_is_marked_however_its_process_dies(marker: Marker) -> None:
    mark = f"HPC_DL_MARK={marker.word}"
    code = f"""
import os, signal, subprocess
from hpc_dl.processes import Guard, kill_marked
guard = Guard(mark={mark!r})
subprocess.Popen(["setsid", "--fork", "env", {mark!r}, "sleep", "300"]).wait()
while not kill_marked({mark!r}, 0):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False, timeout=20)
    eventually(lambda: not kill_marked(mark, 0))
