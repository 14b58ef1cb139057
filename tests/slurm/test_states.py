"""Every state of Slurm's jobs, made by a real Slurm: what we say agrees with scontrol and sacct."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.controller import pause, resume
from hpc_dl.errors import UserError
from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup
from hpc_dl.minicluster.programs import find_programs
from hpc_dl.runfolder.folder import RunFolder, to_toml
from hpc_dl.schedulers.protocol import ENDED, JobState
from hpc_dl.schedulers.slurm.states import query
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site_files import load_site, site_file
from hpc_dl.submission.states import states
from tests.slurm.helpers import slurm_version
from tests.unit.fakes.processes import eventually

# Slurm makes a job OUT_OF_MEMORY when its allocation is completed with SIG_OOM (slurm.h), as slurmstepd does where
# cgroups tell it. They need root, so we complete one of salloc's allocations so, as salloc does with its own code.
_OUT_OF_MEMORY = """
import ctypes, pathlib, sys
library = next(pathlib.Path(folder, "libslurmfull.so") for folder in sys.argv[2:]
               if pathlib.Path(folder, "libslurmfull.so").exists())
slurm = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
if hasattr(slurm, "slurm_init"):  # not in old versions, and a must in new ones
    slurm.slurm_init(None)
sys.exit(slurm.slurm_complete_job(int(sys.argv[1]), 253))
"""
_ARRAY = "[ $SLURM_ARRAY_TASK_ID = 2 ] || exec sleep 300; exit 5"
_SLEEP, _STUBBORN = "sleep 300", "trap '' TERM; sleep 300 & wait; sleep 300"


def config(root: Path, accounting: bool) -> ClusterConfig:
    return ClusterConfig(
        groups=(NodeGroup(count=8, gpus=0),),
        accounting=accounting,
        extra=(
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            # mini7 and mini8: a job of the partition high drives out the others.
            "PartitionName=high Nodes=mini[7-8] PriorityTier=10 PreemptMode=OFF",
            "PartitionName=low Nodes=mini7 PreemptMode=REQUEUE",
            "PartitionName=lost Nodes=mini8 PreemptMode=CANCEL",
            "PartitionName=down Nodes=mini1 State=DOWN",
            # A job named configuring waits until a file is there.
            f"PrologSlurmctld={root}/prolog",
        ),
    )


class Walk:
    """Jobs in a cluster of their own; each look compares what we say with what Slurm says."""

    def __init__(self, cluster: MiniCluster) -> None:
        self.cluster = cluster
        self.env = cluster.env()
        self.seen: dict[str, JobState] = {}

    def slurm(self, *command: str) -> str:
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *options: str, body: str = _SLEEP) -> str:
        script = self.cluster.root / "walk.sh"
        script.write_text(f"#!/bin/sh\n{body}\n")
        return self.slurm("sbatch", "--parsable", "--output=/dev/null", *options, str(script))

    def field(self, job: str, name: str) -> str:
        found = re.search(rf"(?:^| ){name}=(\S*)", self.slurm("scontrol", "--oneliner", "show", "job", job))
        assert found is not None
        return found[1]

    def ours(self, job: str) -> JobState:
        """Return our state of a job; it must be scontrol's, if that has not changed meanwhile."""
        before = self.field(job, "JobState")
        ours = query(self.env, [job])[job]
        if self.field(job, "JobState") == before:
            assert ours.state == before
            self.seen[job] = ours
        return ours

    def see(self, job: str, state: str, reason: str = "", seconds: float = 45) -> JobState:
        """Wait until a job is in a state and waits for a reason, and return what we say then."""
        deadline = time.monotonic() + seconds
        while (ours := self.ours(job)).state != state or (reason and ours.reason != reason):
            assert time.monotonic() < deadline, f"{job} is not {state} {reason}: {ours}"
            time.sleep(0.05)
        return ours


@pytest.fixture(params=["no accounting", "accounting"])
def walk(request: pytest.FixtureRequest, slurm: None, short_root: Path) -> Iterator[Walk]:
    accounting = request.param == "accounting"
    if accounting:
        need_accounting()
    root = short_root / "c"
    root.mkdir()
    with MiniCluster(root, config(short_root, accounting)) as cluster:
        yield Walk(cluster)


def need_accounting() -> None:
    try:
        find_programs(accounting=True)
    except UserError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def prolog(short_root: Path) -> None:
    """PrologSlurmctld of the cluster."""
    wait = f"until [ -e {short_root}/go ]; do sleep 0.05; done"
    (short_root / "prolog").write_text(f'#!/bin/sh\n[ "$SLURM_JOB_NAME" = configuring ] || exit 0\n{wait}\n')
    (short_root / "prolog").chmod(0o755)


def waiting(walk: Walk, busy: str) -> None:
    """Jobs that wait, each for a reason of its own; `busy` has a node for itself."""
    begin = time.time()
    later = walk.submit("--begin=now+1hour")
    assert begin + 3500 < (walk.see(later, "PENDING", "BeginTime").estimated_start or 0) < time.time() + 3700
    held = walk.submit("--hold")
    walk.see(held, "PENDING", "JobHeldUser")
    walk.see(walk.submit(f"--dependency=afterok:{busy}"), "PENDING", "Dependency")
    walk.see(walk.submit("--partition=down"), "PENDING", "PartitionDown")
    walk.see(walk.submit("--nodelist=mini1", "--exclusive"), "PENDING", "Resources")
    walk.slurm("scancel", held)
    cancelled = walk.see(held, "CANCELLED")
    assert (cancelled.nodelist, cancelled.started, cancelled.exit_code) == ("", None, None)
    assert cancelled.ended is not None


def requeued(walk: Walk, low: str, lost: str, again: str, special: str) -> None:
    """Jobs that Slurm or their owner has sent back to wait."""
    for job in (low, lost, again, special):
        walk.see(job, "RUNNING")
    high = walk.submit("--partition=high", "--nodes=2", "--exclusive", body="sleep 1")
    walk.see(lost, "PREEMPTED")
    preempted = walk.see(low, "PENDING", "BeginTime")
    assert preempted.started is None
    assert (preempted.estimated_start or 0) > time.time() - 5
    walk.slurm("scontrol", "requeuehold", again)
    walk.see(again, "PENDING", "job requeued in held state")
    walk.slurm("scontrol", "requeuehold", "State=SpecialExit", special)
    walk.see(special, "SPECIAL_EXIT", "job requeued in held state")
    walk.slurm("scontrol", "release", again)
    walk.see(again, "RUNNING")
    walk.see(high, "COMPLETED")
    walk.see(low, "RUNNING")
    # One that is cancelled while it waits again has no nodes: what its first run left is not its end.
    walk.slurm("scancel", special)
    assert walk.see(special, "CANCELLED").nodelist == ""


def out_of_memory(walk: Walk) -> list[str]:
    """Return a job that is out of memory; none where this Python can't ask libslurm for one.

    That is where the libc of Slurm's copy is too old for it, and where the call takes a structure of Slurm's own.
    """
    if slurm_version(walk.cluster) > (24, 11):
        return []
    copy = walk.cluster.programs.prefix
    loader = [str(file) for file in copy.glob("libraries/ld-linux*.so.*")] if copy else []
    python = [*loader, *(["--library-path", f"{copy}/libraries"] if loader else []), sys.executable]
    if subprocess.run([*python, "-c", "import ctypes"], capture_output=True, check=False).returncode:
        return []
    walk.slurm("salloc", "--no-shell", "--job-name=oom", "--nodelist=mini2")
    job = walk.slurm("squeue", "--noheader", "--name=oom", "--format=%i")
    folders = {str(path.parent) for path in Path("/usr/lib").glob("*/slurm*/libslurmfull.so")}
    walk.slurm(*python, "-c", _OUT_OF_MEMORY, job, str(walk.cluster.programs.plugin_dir or ""), *folders)
    return [job]


def test_a_job_in_every_state_is_where_slurm_says(walk: Walk, short_root: Path, tmp_path: Path) -> None:
    timed_out = walk.submit("--nodelist=mini2", "--time=10")
    busy = walk.submit("--nodelist=mini1", "--exclusive")
    # When it is released, its hour reaches beyond its deadline.
    deadline = walk.submit("--hold", "--time=60", "--deadline=now+3605")
    suspended, stubborn = walk.submit("--nodelist=mini2"), walk.submit("--nodelist=mini2", body=_STUBBORN)
    array = walk.submit("--nodelist=mini3", "--array=1-3", body=_ARRAY)
    again, special = walk.submit("--nodelist=mini4"), walk.submit("--nodelist=mini4")
    low, lost = walk.submit("--partition=low", "--exclusive"), walk.submit("--partition=lost", "--exclusive")
    unlucky = walk.submit("--nodelist=mini6", "--no-requeue")

    # Its limit is in a second; Slurm looks at limits every 30 s.
    walk.see(timed_out, "RUNNING")
    walk.slurm("scontrol", "update", f"JobId={timed_out}", "EndTime=now+1")
    configuring = walk.submit("--nodelist=mini5", "--job-name=configuring")
    completed, failed = walk.submit(body="exit 0"), walk.submit(body="exit 3")
    walk.see(unlucky, "RUNNING")
    walk.slurm("scontrol", "update", "NodeName=mini6", "State=DOWN", "Reason=test")
    walk.see(unlucky, "NODE_FAIL")
    waiting(walk, busy)
    walk.see(configuring, "CONFIGURING")
    (short_root / "go").touch()
    running = walk.see(configuring, "RUNNING")
    assert (running.nodelist, running.ended, running.estimated_start, running.silent) == ("mini5", None, None, False)
    assert abs((running.started or 0) - time.time()) < 30

    walk.see(suspended, "RUNNING")
    walk.slurm("scontrol", "suspend", suspended)
    walk.see(suspended, "SUSPENDED")
    walk.slurm("scontrol", "resume", suspended)
    walk.see(suspended, "RUNNING")
    walk.see(stubborn, "RUNNING")
    walk.slurm("scancel", stubborn)
    walk.see(stubborn, "COMPLETING")
    requeued(walk, low, lost, again, special)
    walk.see(stubborn, "CANCELLED")
    walk.slurm("scancel", suspended)
    walk.see(suspended, "CANCELLED")
    for element, state in {1: "RUNNING", 2: "FAILED", 3: "RUNNING"}.items():
        walk.see(f"{array}_{element}", state)
    for job, state in {
        **dict.fromkeys(out_of_memory(walk), "OUT_OF_MEMORY"),
        completed: "COMPLETED",
        failed: "FAILED",
        timed_out: "TIMEOUT",
    }.items():
        assert walk.see(job, state).ended is not None
    walk.see(deadline, "PENDING", "JobHeldUser")
    walk.slurm("scontrol", "release", deadline)
    assert walk.see(deadline, "DEADLINE").ended is not None
    remembered(walk, completed, failed, tmp_path)


def remembered(walk: Walk, completed: str, failed: str, folder: Path) -> None:
    """Slurm forgets how jobs ended: what accounting or we have written down is the same."""
    everything = query(walk.env, walk.seen)
    ended = {job: state for job, state in everything.items() if state.state in ENDED}
    assert {state.state for state in ended.values()} | {"OUT_OF_MEMORY"} == ENDED - {"BOOT_FAIL", "REVOKED"}
    folders = [run_folder(folder, job) for job in ended]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in walk.env.items():
            patch.setenv(name, value)
        assert [state.state for state in states(folders)] == [state.state for state in ended.values()]
        unseen = run_folder(folder, "99999")
        accounting = walk.cluster.config.accounting
        if accounting:
            eventually(lambda: sacct(walk, ended) == {job: state.state for job, state in ended.items()}, 30)
        pause(walk.cluster)
        # Slurm 26.05 does not start without the jobs of a cluster whose name it has written down.
        more = ["clustername"] if slurm_version(walk.cluster) >= (26, 5) else []
        for pattern in ("job_state*", *more):
            for path in (walk.cluster.root / "state").glob(pattern):
                path.unlink()
        resume(walk.cluster)
        found = dict(zip(ended, states(folders), strict=True))
        assert {job: state.state for job, state in found.items()} == {job: one.state for job, one in ended.items()}
        assert not any(state.silent for state in found.values())
        assert states([unseen])[0] == JobState("UNKNOWN", job_id="99999")
        # Without our records accounting alone knows.
        for run in folders:
            run.ended.unlink()
        found = dict(zip(ended, states(folders), strict=True))
        if accounting:
            assert {job: state.state for job, state in found.items()} == {job: one.state for job, one in ended.items()}
            assert (found[completed].exit_code, found[failed].exit_code) == (0, 3)
            assert found[failed].started == ended[failed].started
        else:
            assert {state.state for state in found.values()} == {"UNKNOWN"}


def sacct(walk: Walk, jobs: dict[str, JobState]) -> dict[str, str]:
    text = walk.slurm("sacct", "-nPX", f"--jobs={','.join(jobs)}", "--format=JobID,State")
    return {job: state.split()[0] for job, state in (line.split("|") for line in text.splitlines())}


def run_folder(folder: Path, job_id: str) -> RunFolder:
    run = RunFolder.create(folder / f"walk-{job_id}")
    run.job_file.write_text(to_toml(JobSpec()))
    run.site_file.write_text(to_toml(load_site(site_file("minotauro"))))
    return run
