"""Session: a whole run of a task file, from its reading to the report."""

from __future__ import annotations

import datetime
import os
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from hpc_dl.runfolder.folder import write_text
from hpc_dl.schedulers.slurm.steps import srun_command
from hpc_dl.tasks import allocation
from hpc_dl.tasks.demand import Options, demand, without_impossible
from hpc_dl.tasks.executor import Agents, agent_command
from hpc_dl.tasks.file.parser import read
from hpc_dl.tasks.file.task import TaskFile
from hpc_dl.tasks.greasy_conf import Settings
from hpc_dl.tasks.log import TaskLog
from hpc_dl.tasks.messages import Ended
from hpc_dl.tasks.pool import Pool
from hpc_dl.tasks.records import Journal, Records, Run, records_folder
from hpc_dl.tasks.report import Report, counts, rows
from hpc_dl.tasks.restart import restart_path, restart_text
from hpc_dl.tasks.runner import Runner, exit_code
from hpc_dl.tasks.scheduler import Scheduler, State

_GREETING = 60.0  # seconds for an agent to come up: Python from a shared disk that has just been mounted


def run_file(path: Path, settings: Settings, options: Options) -> Report:
    """Run a task file and return the report; the restart file is written if there is something left.

    Raises:
        UserError: the file can't be read, settings don't fit, another run uses the records; with strict settings also
            if a line is invalid. Nothing has run then.
        JobError: no node answers.
    """
    file = read(path)
    if settings.strict:
        file.check()
    wanted = allocation.slots(settings, os.environ)
    job = allocation.job_id(os.environ)
    folder = (options.records or records_folder(path)).absolute()
    # A restart file that is run again goes on where it ended.
    resume = options.resume or bool(file.restart)
    with closing(Records(folder, file.restart, resume)) as records, _log(settings) as log:
        commands = {node: agent_command(folder, options.grace, node) for node in wanted}
        if settings.remote != "none":
            for node, cores in allocation.job_cores(os.environ).items():
                if node in wanted:
                    commands[node] = srun_command(node, cores, agent_command(folder, options.grace, node, step=True))
        agents = Agents(commands)
        try:
            hellos = agents.greet(_GREETING)
            pool = Pool(allocation.nodes(hellos, wanted, os.environ))
            file = without_impossible(file, pool.problem, options)
            if settings.strict:
                file.check()
            for problem in file.problems:
                log.line(2, problem.show(file.name))
            cores = sum(len(node.cores) for node in pool.nodes)
            gpus = sum(len(node.gpus) for node in pool.nodes)
            # What has stood in the way of a run until here has left the records of an earlier one as they were.
            records.begin(Run(time.time(), job, file.restart, cores, gpus))
            if settings.remote != "none":
                records.allow_steps()
            ready = agents.begin(_GREETING)
            for node in set(wanted) - ready:
                pool.lose(node)
                log.lost(node, [])
            earlier = Journal(folder).last(file.tasks)
            done = frozenset(number for number, end in earlier.items() if end.ok)
            scheduler = Scheduler(file.tasks, pool, lambda task: demand(task, options), settings.retries, done)
            log.line(3, f"Start of {path}: {len(file.tasks) - len(done)} tasks to run with {cores} workers")
            bound = [node.name for hello in hellos for node in pool.nodes if allocation.binds(hello, node)]
            runner = Runner(
                scheduler, agents, records, log, lose=pool.lose, bound=frozenset(bound), grace=options.grace
            )
            started = time.monotonic()
            runner.run()
            total = time.monotonic() - started
        finally:
            agents.close()
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
            _write_restart(path, file, scheduler.states, last, job, log),
            runner.ended_by,
        )
        if settings.log_file:  # it goes to standard output in any case
            for line in report.text().splitlines():
                log.line(3, line)
        return report


@contextmanager
def _log(settings: Settings) -> Iterator[TaskLog]:
    if settings.log_file:
        with Path(settings.log_file).open("ab", buffering=0) as file:
            yield TaskLog(file.fileno(), settings.log_level)
    else:
        yield TaskLog(sys.stderr.fileno(), settings.log_level)


def _write_restart(
    path: Path, file: TaskFile, states: Mapping[int, State], last: Mapping[int, Ended], job: str, log: TaskLog
) -> str:
    """Write the restart file and return its name.

    If nothing is left to run, remove the one of an earlier run of this job. A restart file that is run again goes on by
    itself, and needs none.
    """
    target = restart_path(path, job)
    done = all(state is State.OK for state in states.values()) and not file.invalid
    try:
        if done:
            target.unlink(missing_ok=True)
        elif not file.restart:
            when = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
            write_text(target, restart_text(file, states, last, uuid.uuid4().hex[:12], when))
    except OSError as error:
        log.line(1, f"{target}: {error.strerror}; --resume goes on from the records without it")
        return ""
    return "" if done else str(path if file.restart else target)
