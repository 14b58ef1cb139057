"""Session: a whole run of a task file, from reading the file to the report."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, Any

from hpc_dl.disk import write_whole
from hpc_dl.schedulers.slurm.steps import srun_command
from hpc_dl.tasks import allocation
from hpc_dl.tasks.demand import RunOptions, demand, without_impossible
from hpc_dl.tasks.executor import Agents, agent_command
from hpc_dl.tasks.file.parser import read
from hpc_dl.tasks.file.task import TaskFile
from hpc_dl.tasks.greasy_conf import Settings
from hpc_dl.tasks.journal import Journal, Run
from hpc_dl.tasks.log import TaskLog
from hpc_dl.tasks.messages import Ended
from hpc_dl.tasks.pool import Pool
from hpc_dl.tasks.records import Records, records_folder
from hpc_dl.tasks.report import Report, counts, rows
from hpc_dl.tasks.restart import restart_path, restart_text
from hpc_dl.tasks.runner import Runner, exit_code
from hpc_dl.tasks.scheduler import Scheduler, TaskState

_GREETING = 60.0  # seconds for an agent to come up: Python may be on a shared disk that has just been mounted


def run_file(path: Path, settings: Settings, options: RunOptions) -> Report:
    """Run a task file and return the report. Write the restart file if tasks are left.

    Raises:
        UserError: the file can't be read, settings don't fit, another run uses the records; with strict settings also
            if a line is invalid. Nothing has run then.
        JobError: no node answers.
    """
    file = read(path)
    if settings.strict:
        file.check()
    wanted = allocation.slots(settings, os.environ)
    folder = (options.records or records_folder(path)).absolute()
    # A second run of a restart file continues the first one.
    resume = options.resume or bool(file.restart)
    with closing(Records(folder, file.restart, resume, options.grace)) as records, _log(settings) as log:
        if records.warning:
            log.line(2, records.warning)
        remote = settings.remote != "none"
        with closing(Agents(_agent_commands(wanted, remote, options, folder))) as agents:
            hellos = agents.greet(_GREETING)
            pool = Pool(allocation.nodes(hellos, wanted, os.environ))
            file = without_impossible(file, pool.problem, options)
            if settings.strict:
                file.check()
            for problem in file.problems:
                log.line(2, problem.show(file.name))
            cores = sum(len(node.cores) for node in pool.nodes)
            gpus = sum(len(node.gpus) for node in pool.nodes)
            # A run that is refused before this line leaves an earlier run's records as they are.
            records.begin(Run(time.time(), allocation.job_id(os.environ), file.restart, cores, gpus))
            if remote:
                records.allow_steps(options.gpu_rule.vendor)
            for node in set(wanted) - agents.begin(_GREETING):
                pool.lose(node)
                log.lost(node, [])
            earlier = Journal(folder).last(file.tasks)
            done = frozenset(number for number, end in earlier.items() if end.ok)
            scheduler = Scheduler(file.tasks, pool, lambda task: demand(task, options), settings.retries, done)
            log.line(3, f"Start of {path}: {len(file.tasks) - len(done)} tasks to run with {cores} workers")
            bound = allocation.bound(hellos, pool.nodes, os.environ)
            runner = Runner(scheduler, agents, records, log, lose=pool.lose, bound=bound, grace=options.grace)
            started = time.monotonic()
            runner.run()
            total = time.monotonic() - started
        last = {**earlier, **{end.task: end for end in runner.ends}}
        table = rows(file, scheduler.states, last, scheduler.attempts, folder)
        report = Report(
            str(path),
            runner.code or exit_code(scheduler.states.values(), bool(file.invalid)),
            counts(table),
            total,
            cores,
            sum(end.core_seconds for end in runner.ends),
            gpus,
            sum(end.gpu_seconds for end in runner.ends),
            table,
            _write_restart(path, file, scheduler.states, last, log),
            runner.ended_by,
        )
        if settings.log_file:  # standard output gets the report in any case
            for line in report.text().splitlines():
                log.line(3, line)
        return report


def _agent_commands(wanted: Iterable[str], remote: bool, options: RunOptions, folder: Path) -> dict[str, list[str]]:
    """Return the command of the agent of each node."""
    cores = allocation.job_cores(os.environ) if remote else {}
    commands: dict[str, list[str]] = {}
    for node in wanted:
        command = agent_command(folder, options.grace, node, node in cores, options.gpu_rule)
        commands[node] = srun_command(node, cores[node], command, options.srun) if node in cores else command
    return commands


@contextmanager
def _log(settings: Settings) -> Iterator[TaskLog]:
    with ExitStack() as stack:
        file: IO[Any] = sys.stderr
        if settings.log_file:
            file = stack.enter_context(Path(settings.log_file).open("ab", buffering=0))
        log = TaskLog(file.fileno(), settings.log_level)
        stack.callback(log.flush)
        yield log


def _write_restart(
    path: Path, file: TaskFile, states: Mapping[int, TaskState], last: Mapping[int, Ended], log: TaskLog
) -> str:
    """Write the restart file and return its name.

    If nothing is left to run, remove the restart file of an earlier run of this job. A run of a restart file writes
    none: the same file can be run again.
    """
    target = restart_path(path, allocation.job_id(os.environ))
    done = all(state is TaskState.OK for state in states.values()) and not file.invalid
    try:
        if done:
            target.unlink(missing_ok=True)
        elif not file.restart:
            when = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
            write_whole(target, restart_text(file, states, last, os.urandom(6).hex(), when))
    except OSError as error:
        log.line(1, f"{target}: {error.strerror}; --resume goes on from the records without it")
        return ""
    return "" if done else str(path if file.restart else target)
