"""What `status` and `list` cost with 200 jobs: the time in Slurm's commands, and our own time."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hpc_dl.errors import UserError
from hpc_dl.minicluster import ClusterConfig, MiniCluster
from hpc_dl.minicluster.programs import find_programs
from hpc_dl.runfolder.folder import RunFolder, to_toml
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site_files import load_site, site_file
from hpc_dl.submission.states import states

_RUNS = 5
_JOBS = {"running": 8, "waiting": 92, "completed": 100}
_METRICS = '{"time": 1.0, "step": %d, "steps_per_s": 1.0, "global_steps_per_s": 2.0, "images_per_s": 64.0}\n'
# Runs in place of a command on PATH: calls it, and notes its name, begin and end.
_WRAPPER = """#!/bin/bash
begin=$EPOCHREALTIME
{command} "$@"
code=$?
echo "{name} $begin $EPOCHREALTIME" >> {calls}
exit $code
"""


def make_jobs(cluster: MiniCluster, runs: Path) -> list[str]:
    """Submit the jobs and make their run folders, with a megabyte of metrics for each job that has run."""
    ids = []
    for kind, count in _JOBS.items():
        body = "true" if kind == "completed" else "sleep 1000"
        options = ["--hold"] if kind == "waiting" else []
        for _ in range(count):
            command = ["sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={body}"]
            done = subprocess.run(command, env=cluster.env(), capture_output=True, text=True, check=True)
            ids.append(done.stdout.strip())
            run = RunFolder.create(runs / f"train-{ids[-1]}")
            run.job_file.write_text(to_toml(JobSpec()))
            run.site_file.write_text(to_toml(load_site(site_file("minicluster"))))
            if kind != "waiting":
                run.metrics.mkdir()
                for worker in range(2):
                    lines = "".join(_METRICS % step for step in range(5000))
                    (run.metrics / f"worker-{worker}.jsonl").write_text(lines)
    return ids


def wrapped(environ: dict[str, str], folder: Path, calls: Path) -> dict[str, str]:
    """Return an environment in which Slurm's commands note their calls."""
    folder.mkdir()
    for name in ("squeue", "sacct", "scontrol", "sinfo", "sstat", "sacctmgr"):
        if command := shutil.which(name, path=environ["PATH"]):
            (folder / name).write_text(_WRAPPER.format(command=command, calls=calls, name=name))
            (folder / name).chmod(0o755)
    return {**environ, "PATH": f"{folder}{os.pathsep}{environ['PATH']}"}


def listed(state: str) -> list[str]:
    command = ["squeue", "--noheader", "--format=%i", f"--states={state}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def wait_until(happened: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(1)


def measure(folder: Path, accounting: bool) -> None:
    calls = folder / "calls"
    # slurmctld soon forgets ended jobs. Their states come from accounting, or from our own records.
    with MiniCluster(folder / "c", ClusterConfig(accounting=accounting, extra=("MinJobAge=10",))) as cluster:
        runs = folder / "runs"
        ids = make_jobs(cluster, runs)
        os.environ.update(cluster.env())
        wait_until(lambda: len(listed("RUNNING")) == _JOBS["running"])
        found = [RunFolder(runs / f"train-{job}") for job in ids]
        wait_until(lambda: not {"PENDING", "UNKNOWN"} & {state.state for state in states(found[-_JOBS["completed"] :])})
        wait_until(lambda: len(listed("all")) == len(ids) - _JOBS["completed"])
        environ = wrapped(cluster.env(), folder / "bin", calls)
        print(f"\n{len(ids)} jobs, {'with' if accounting else 'without'} accounting; {_RUNS} runs, seconds")
        print(f"{'command':<18}{'Slurm':>14}{'whole':>8}{'Slurm':>8}{'our own':>9}{'max':>7}{'CPU':>7}{'max':>7}")
        commands = {"list": ["list"], "list --json": ["list", "--json"], "status, all jobs": ["status", *ids]}
        for title, words in commands.items():
            rows, called = [], set()
            for _ in range(_RUNS):
                calls.write_text("")
                row = run([sys.executable, "-m", "hpc_dl", *words, "--runs", str(runs)], environ)
                noted = [line.split() for line in calls.read_text().splitlines()]
                called.add(" ".join(name for name, *_ in noted))
                slurm = sum(float(end) - float(begin) for _, begin, end in noted)
                rows.append((row[0], slurm, row[0] - slurm, row[1]))
            columns = list(zip(*rows, strict=True))
            whole, slurm, own, cpu = map(statistics.median, columns)
            numbers = f"{whole:>8.2f}{slurm:>8.2f}{own:>9.2f}{max(columns[2]):>7.2f}{cpu:>7.2f}{max(columns[3]):>7.2f}"
            print(f"{title:<18}{', '.join(sorted(called)):>14}{numbers}", flush=True)


def run(command: list[str], environ: dict[str, str]) -> tuple[float, float]:
    """Run a command; return its wall time, and the CPU time of it and its children, in seconds."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - begin, cpu


def main() -> None:
    for accounting in (False, True):
        with tempfile.TemporaryDirectory(prefix="hd", dir="/tmp") as folder:
            try:
                if accounting:
                    find_programs(accounting=True)
                measure(Path(folder), accounting)
            except UserError as error:
                print(f"not measured: {error}")


if __name__ == "__main__":
    main()
