"""Launcher: starts the processes of one node, watches them and ends them. It runs once on each node.

Launchers of one job communicate only through files in the run folder: a marker for each worker that is done or given
up, the first failure, the request to end. So the same command works under srun, under Greasy and by hand.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from hpc_dl.disk import FORBIDDEN, PATIENCE, TROUBLE
from hpc_dl.errors import LOST, DiskError, JobError
from hpc_dl.node.attempts import superseded
from hpc_dl.node.environment import Environment
from hpc_dl.node.heartbeats import HEARTBEAT, LogSigns, PipeSigns
from hpc_dl.node.monitoring import start_monitor
from hpc_dl.node.outcome import mark_done, mark_lost, report_failure, tell_all_to_end, training_done
from hpc_dl.node.process import Child, ProcessLine
from hpc_dl.node.restart_policy import After, Policy, pause
from hpc_dl.processes import (
    AwakeClock,
    Guard,
    adopt_orphans,
    kill_marked,
    kill_orphans,
    kill_sessions,
    next_signal,
    start_time,
    waits_for_disk,
)
from hpc_dl.runfolder.folder import Failure, RunFolder
from hpc_dl.spec.placement import classic_flags

# When a process dies of SIGTERM, wait so many seconds for a SIGTERM of our own: then the whole step was signalled.
_TOLD = 0.5
_MARK = "HPC_DL_MARK"  # in the environment of the processes in a container: which launcher's they are
_POLL = 1.0  # seconds between looks at the run folder, on a disk that many nodes share


class Launcher:
    """The processes of one node from start to end.

    Args:
        run: the job's run folder; its attempt is the one that this launcher belongs to.
        node: this node's name.
        grace: seconds that processes have between SIGTERM and SIGKILL.
        policy: which processes are started again.
        environ: the environment of all processes; each gets variables of its own in addition.
        monitor: the command that measures this node meanwhile; empty: none.
        kept: the variables that the job or the site sets.
    """

    # SIGUSR1 is how mpirun tells its ranks to end (mpirun.py).
    _SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(
        self,
        run: RunFolder,
        node: str,
        grace: float,
        policy: Policy | None = None,
        environ: Mapping[str, str] = os.environ,
        monitor: Sequence[str] = (),
        kept: Collection[str] = (),
    ) -> None:
        self._monitor = monitor
        self._run = RunFolder(run.path, run.attempt)
        self._node = node
        self._grace = grace
        self._policy = policy or Policy()
        self._environment = Environment(self._run, environ, grace, kept)
        self._cluster = run.read_cluster()
        self._children: dict[int, Child] = {}
        self._restarts: dict[str, int] = {}
        self._unstarted: dict[str, float] = {}  # since when the disk prevents the start of a process
        self._waiting: list[tuple[float, ProcessLine]] = []  # earliest start, and the process
        self._unwritten: list[tuple[float, Callable[[], None]]] = []  # since when, and what to write
        self._exit_code = 0
        self._clock = AwakeClock()
        self._kill_at: float | None = None  # set once the processes have been told to end
        self._servers_until: float | None = None  # set once the training is done

    def launch(self, lines: Sequence[ProcessLine], flags: bool = False, env_inside: bool = False) -> int:
        """Start the processes and return when all have ended.

        Args:
            lines: the processes.
            flags: add the classic flags to each command.
            env_inside: the processes are in containers: variables go into each command, after ``/usr/bin/env``.

        Returns:
            0, or the exit code of the first process of the job that failed, or 143 after SIGTERM.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, self._SIGNALS)
        adopt_orphans()
        self._mark = f"{_MARK}={os.getpid()} {start_time(os.getpid())} " if env_inside else ""
        self._guard = Guard(self._policy.hang_timeout, self._hangs, self._mark)
        self._flags = flags
        try:
            start_monitor(self._monitor)  # it is killed with what else this launcher leaves
            self._waiting = [(0.0, line) for line in lines]
            self._start_waiting()
            while self._children or self._waiting or self._unwritten:
                if (number := next_signal(self._SIGNALS, _POLL)) not in (0, signal.SIGCHLD):
                    self._told(number)
                self._reap()
                self._start_waiting()
                self._look_around()
                self._kill_hung()
                self._guard.beat()
        except BaseException as error:
            # This node's processes die with the launcher. Report why, so that all nodes end and may start again.
            code = error.exit_code if isinstance(error, JobError) else LOST
            own = Failure("launcher", self._node, code, 0, time.time(), (f"{type(error).__name__}: {error}",))
            with contextlib.suppress(OSError):
                report_failure(self._run, own)
            raise
        finally:
            kill_orphans(but=self._guard.pid)
            self._guard.close()
        return self._exit_code

    def _start_waiting(self) -> None:
        """Start the waiting processes whose time has come."""
        waiting, self._waiting = self._waiting, []
        for when, line in waiting:
            if self._kill_at is not None:
                break
            if when > time.monotonic():
                self._waiting.append((when, line))
            else:
                self._start(line)

    def _start(self, line: ProcessLine) -> None:
        env = self._environment.outside(line) if self._mark else self._environment.of(line)
        policy, log = self._policy, self._run.log_of(line.name)
        pipe = PipeSigns() if policy.hang_timeout and not policy.own_script else None
        if pipe:
            env[HEARTBEAT] = pipe.variable(policy.hang_timeout)
        mark = f"{self._mark}{line.name}" if self._mark else ""
        command = self._command(line, env, mark)
        try:
            self._run.logs.mkdir(exist_ok=True)
            child = Child(line, log, env, command, pipe, self._guard, mark)
        except OSError as error:
            if pipe:
                pipe.close()
            self._guard.only(self._children)  # the child that could not start has told its session
            self._did_not_start(line, command[0], error)
            return
        finally:
            if pipe:
                pipe.started()
        # A process that serves others may write nothing for hours.
        if policy.hang_timeout and policy.own_script and not self._serves(line.role):
            child.signs = LogSigns(log)
        self._unstarted.pop(line.name, None)
        self._children[child.popen.pid] = child

    def _command(self, line: ProcessLine, env: Mapping[str, str], mark: str) -> list[str]:
        """Return what is run for a process; in a container, with its variables and its mark."""
        flags = classic_flags(self._cluster, line.role, line.index) if self._flags else []
        if not mark:
            return [*line.command, *flags]
        signs = {key: value for key, value in env.items() if key == HEARTBEAT}
        return [*line.inside({**self._environment.inside(line), **signs, _MARK: mark.partition("=")[2]}), *flags]

    def _kill(self, pids: Collection[int], number: int = signal.SIGKILL) -> set[int]:
        """Send a signal to children; return those that had processes.

        In a container, the training itself gets it: its parents may pass a signal on once more (Apptainer), not at all,
        or end the training without it (srun). Where no container has started yet, its command gets the signal.
        """
        inside = {pid for pid in pids if (mark := self._children[pid].mark) and kill_marked(f"{mark}\0", number)}
        gentle = number not in (0, signal.SIGKILL)
        return inside | kill_sessions(set(pids) - inside if gentle else pids, number)

    def _did_not_start(self, line: ProcessLine, command: str, error: OSError) -> None:
        since = self._unstarted.setdefault(line.name, time.monotonic())
        if error.errno in TROUBLE and error.errno not in FORBIDDEN and time.monotonic() - since < PATIENCE:
            self._waiting.append((time.monotonic() + _POLL, line))  # its log can't be opened now
            return
        # Exit codes as in shells. A closed folder on PATH gives EACCES for a missing command too, so look for it.
        code = 126 if shutil.which(command, os.F_OK) else 127
        self._fail(Failure(line.name, self._node, code, 0, time.time(), (f"{command}: {error.strerror}",)))

    def _reap(self) -> None:
        """Reap every process that has ended: our own and the orphans that they left."""
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if child := self._children.get(pid):
                child.popen.returncode = os.waitstatus_to_exitcode(status)
                self._ended(child, child.popen.returncode)
        ended = {pid for pid, child in self._children.items() if child.popen.returncode is not None}
        # Kill what is left in their sessions at once, except in the grace period.
        left = self._kill(ended, signal.SIGKILL if self._kill_at is None else 0)
        for pid in ended - left:
            self._guard.drop(pid)
            if signs := self._children.pop(pid).signs:
                signs.close()

    def _kill_hung(self) -> None:
        """Kill the processes that give no sign of life. Their death is dealt with like any other."""
        now, timeout = self._clock.now(), self._policy.hang_timeout
        for pid, child in self._children.items() if timeout and self._kill_at is None else ():
            if child.silent_for(now) <= timeout or child.popen.returncode is not None:
                continue
            if waits_for_disk(pid):
                child.heard = now
            else:
                child.hung = f"no sign of life for {timeout:g} s"
                self._kill({pid})

    def _hangs(self) -> None:
        """Tell all launchers that this one hangs and is killed; called in the guard."""
        hung = f"no sign of life for {self._policy.hang_timeout:g} s"
        report_failure(self._run, Failure("launcher", self._node, LOST, 0, time.time(), hung=hung))

    def _ended(self, child: Child, status: int) -> None:
        if self._kill_at is not None:
            return
        if self._serves(child.line.role) and (self._servers_until is not None or self._training_done()):
            return
        if status == 0:
            if child.line.role != "ps":
                self._write(lambda: mark_done(self._run, child.line.name))
            return
        code, number = (status, 0) if status > 0 else (128 - status, -status)
        if code == 128 + signal.SIGTERM:
            # scancel signals every process of a step, and all-reduce processes end one another: none has failed then.
            if told := next_signal((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1), _TOLD):
                self._told(told)
            if self._is_over():
                return
        failure = Failure(child.line.name, self._node, code, number, time.time(), child.tail(), child.hung)
        self._died(child.line, failure)

    def _told(self, number: int) -> None:
        """End, and tell all launchers to end. Slurm signals only steps, not what mpirun starts on the first node."""
        if self._kill_at is None:
            self._end(128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM))
            self._write(lambda: tell_all_to_end(self._run))

    def _died(self, line: ProcessLine, failure: Failure) -> None:
        restarts = self._restarts.get(line.name, 0)
        after = self._policy.after_death(line.name, failure.exit_code, restarts)
        if after is not After.FAIL and self._is_over():
            return  # the end of the attempt caused this death
        if after is After.FAIL:
            self._fail(failure)
        elif after is After.WITHOUT:
            _say(f"{failure}\nhpc-dl: {line.name} {after.value}")
            self._write(lambda: mark_lost(self._run, line.name))
        else:
            self._restarts[line.name] = restarts + 1
            _say(f"{failure}\nhpc-dl: {line.name} {after.value}, {restarts + 1} of {self._policy.restarts} times")
            self._waiting.append((time.monotonic() + pause(restarts), line))

    def _fail(self, failure: Failure) -> None:
        _say(str(failure))
        self._end(failure.exit_code)
        self._write(lambda: self._report(failure))

    def _report(self, failure: Failure) -> None:
        self._exit_code = report_failure(self._run, failure).exit_code

    def _write(self, write: Callable[[], None], since: float | None = None) -> None:
        """Write to the run folder; try again later if its disk is in trouble.

        Raises:
            DiskError: the disk has been in trouble for a long time.
        """
        since = time.monotonic() if since is None else since
        try:
            write()
        except OSError as error:
            if error.errno not in TROUBLE:
                raise
            if time.monotonic() - since > PATIENCE:
                raise DiskError(f"{self._run.path} can't be written: {error.strerror}") from error
            self._unwritten.append((since, write))

    def _is_over(self) -> bool:
        """Return whether the attempt is over. If it has ended on another node, end here too."""
        with contextlib.suppress(OSError):  # the disk is away for a moment
            if self._run.superseded:
                # This node was given up: its processes must not run beside those of the later attempt.
                _say(superseded(self._run.attempt))
                self._end(LOST, signal.SIGKILL)
            elif failure := self._run.read_failure():
                self._end(failure.exit_code)
            elif self._run.told_to_end():
                self._end(128 + signal.SIGTERM)
        return self._kill_at is not None

    def _training_done(self) -> bool:
        with contextlib.suppress(OSError):
            return training_done(self._run, self._cluster)
        return False

    def _serves(self, role: str) -> bool:
        """Return whether processes of a role only serve others, so that the training is over without their end."""
        return role == "ps" or (role == "worker" and "chief" in self._cluster)

    def _look_around(self) -> None:
        """Repeat failed writes, look at what happened on other nodes, and end processes whose time is over."""
        unwritten, self._unwritten = self._unwritten, []
        for since, write in unwritten:
            self._write(write, since)
        now = time.monotonic()
        if self._kill_at is not None:
            if now > self._kill_at:
                self._kill(self._children)
        elif self._is_over():
            pass
        elif self._servers_until is not None:
            if now > self._servers_until:
                self._end(0)
        elif all(self._serves(child.line.role) for child in self._children.values()) and self._training_done():
            # A ps of the built-in program ends by itself; server.join() in a user's script never returns.
            self._servers_until = now + _POLL * (5 if "chief" in self._cluster else 2)

    def _end(self, code: int, number: int = signal.SIGTERM) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._grace
            self._exit_code = code
            self._kill(self._children, number)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the job's log may be on a full disk
        print(f"hpc-dl: {text}", flush=True)
