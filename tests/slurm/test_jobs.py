"""Jobs on a real Slurm, from submission to their end, with an own script that trains nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hpc_dl
from hpc_dl.errors import UserError
from hpc_dl.minicluster import MiniCluster
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site
from hpc_dl.submission.mpi_check import check_mpi
from tests.slurm.helpers import Bench
from tests.unit.fakes.processes import eventually, names


@pytest.fixture
def bench(cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A folder with a hostile name, in the environment of the cluster."""
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / 'it\'s 50% %j of $(touch x) "é"'
    folder.mkdir()
    monkeypatch.chdir(folder)
    one = Bench(cluster, folder)
    yield one
    one.clean()
    assert not list(tmp_path.rglob("x"))


def test_one_ps_and_eight_workers_on_two_nodes_use_each_gpu_once(bench: Bench) -> None:
    job = bench.submit(nodes=2)
    assert job.result(timeout=120) == {"test_accuracy": 0.75}
    assert job.state == "COMPLETED"
    assert bench.field(job, "ExitCode") == "0:0"
    told = bench.told(job)
    assert list(told) == ["ps:0", *(f"worker:{i}" for i in range(8))]
    assert told["ps:0"]["gpus"] == ""
    for node, workers in {"mini1": range(4), "mini2": range(4, 8)}.items():
        here = [told[f"worker:{i}"] for i in workers]
        assert {one["node"] for one in here} == {node}
        assert [one["gpus"] for one in here] == ["0", "1", "2", "3"]
    configs = [one["config"] for one in told.values()]
    assert all(config["cluster"] == configs[0]["cluster"] == job.run.read_cluster() for config in configs)
    addresses = [address for hosts in configs[0]["cluster"].values() for address in hosts]
    assert len(set(addresses)) == 9
    assert [f"{config['task']['type']}:{config['task']['index']}" for config in configs] == list(told)
    assert bench.marker.gone()

    # Everything is in the run folder, and that is private.
    assert names(bench.folder) == ["own.py", "runs"]
    assert names(bench.folder / "runs") == [f"own-{job.job_id}"]
    assert stat.S_IMODE(job.run.path.stat().st_mode) == 0o700


def test_each_process_has_slurms_numbers_of_its_own(bench: Bench) -> None:
    job = bench.submit(nodes=2, gpus=2)
    job.result(timeout=120)
    told = [one["numbers"] for one in bench.told(job).values()]
    own = [[one[f"SLURM_{key}"] for key in ("PROCID", "LOCALID", "NODEID")] for one in told]
    # A ps and two workers on the first node, two workers on the second.
    assert own == [["0", "0", "0"], ["1", "1", "0"], ["2", "2", "0"], ["3", "0", "1"], ["4", "1", "1"]]
    assert {one["SLURM_NTASKS"] for one in told} == {one["SLURM_STEP_NUM_TASKS"] for one in told} == {"5"}
    assert {one["SLURM_STEP_TASKS_PER_NODE"] for one in told} == {"3,2"}
    assert {one["SLURM_STEP_NODELIST"] for one in told} == {"mini[1-2]"}


def test_slurm_does_not_requeue_a_script_that_did_not_ask_for_it(bench: Bench) -> None:
    jobs = [bench.submit("wait"), bench.submit("wait", requeues=1)]
    assert [bench.field(job, "Requeue") for job in jobs] == ["0", "1"]


def test_two_jobs_at_once_have_their_own_gpus_and_ports(bench: Bench) -> None:
    jobs = [bench.submit("wait", nodes=2, gpus=2) for _ in range(2)]
    for job in jobs:
        bench.ready(job, 5)
    told = [one for job in jobs for one in bench.told(job).values()]
    gpus = sorted((one["node"], one["gpus"]) for one in told if one["gpus"])
    assert gpus == [(node, str(gpu)) for node in ("mini1", "mini2") for gpu in range(4)]
    addresses = [address for job in jobs for hosts in job.run.read_cluster().values() for address in hosts]
    assert len(set(addresses)) == len(addresses) == 10
    bench.go()
    for job in jobs:
        assert job.result(timeout=120) == {"test_accuracy": 0.75}


HOSTILE = "a 'b' \"c\" $(touch x) `touch x` \\ %j é ; # &"


def test_hostile_names_comments_arguments_and_variables_arrive(bench: Bench) -> None:
    words = ["", HOSTILE, ":::", "--", "*", "~"]
    job = bench.submit(
        *words, name="own_1.2-x", gpus=1, slurm={"comment": HOSTILE}, env={"HOSTILE": HOSTILE, "EMPTY": ""}
    )
    comment = bench.field(job, "Comment")
    assert bench.field(job, "JobName") == "own_1.2-x"
    assert job.result(timeout=120) == {"test_accuracy": 0.75}
    assert comment == HOSTILE
    assert names(bench.folder) == ["own.py", "runs"]
    assert bench.told(job)["worker:0"]["args"][1:] == words
    assert "hpc-dl: job COMPLETED" in job.stdout()


def test_a_worker_that_fails_ends_the_job_with_its_exit_code(bench: Bench) -> None:
    job = bench.submit("fail", "23", "worker:5", nodes=2)
    with pytest.raises(hpc_dl.JobError) as caught:
        job.result(timeout=120)  # its time limit is 5 minutes
    text = str(caught.value)
    assert f"job {job.job_id} ended FAILED: worker:5 on node mini2 ended with exit code 23" in text
    assert "\n    worker:5 has no luck" in text
    assert (job.state, bench.field(job, "ExitCode")) == ("FAILED", "23:0")
    assert bench.marker.gone()
    shown = bench.run("status", job.job_id)
    assert "worker:5 on node mini2 ended with exit code 23" in shown


def test_a_killed_worker_ends_the_job(bench: Bench) -> None:
    job = bench.submit("wait", nodes=2)
    bench.ready(job, 9)
    os.kill(bench.pids()["worker:6"], signal.SIGKILL)
    job.wait(timeout=120)  # its time limit is 5 minutes
    assert "worker:6 on node mini2 was killed by signal 9" in str(job.exception())
    summary = job.summary()
    assert summary is not None
    assert (job.state, summary.exit_code) == ("FAILED", 137)
    assert bench.marker.gone()


def test_a_killed_launcher_leaves_no_process(bench: Bench) -> None:
    job = bench.submit("wait", nodes=2)
    bench.ready(job, 9)
    launchers = [pid for pid in bench.marker.pids() if b"\0--node\0mini2\0" in command_line(pid)]
    os.kill(min(launchers), signal.SIGKILL)
    job.wait(timeout=120)
    assert job.state == "FAILED"
    eventually(bench.marker.gone)


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("how", ["handle", "scancel"])
def test_a_cancelled_job_is_cancelled_and_leaves_no_process(bench: Bench, how: str) -> None:
    job = bench.submit("wait", nodes=2)
    bench.ready(job, 9)
    if how == "handle":
        job.cancel()
    else:
        subprocess.run(["scancel", job.job_id], check=True, timeout=120)
    job.wait(timeout=120)
    assert job.state == "CANCELLED"
    eventually(bench.marker.gone)
    assert str(job.exception()).startswith(f"job {job.job_id} ended CANCELLED")
    # The job's own record agrees, where it had the time to write one.
    summary = job.summary()
    assert summary is None or (summary.state, summary.failure) == ("CANCELLED", None)
    job.cancel()  # once more does no harm


def test_a_job_that_is_cancelled_while_it_waits_never_starts(bench: Bench) -> None:
    job = bench.submit(slurm={"begin": "now+1hour"})
    eventually(lambda: (job.state, job.query().reason) == ("PENDING", "BeginTime"))
    job.cancel()
    job.wait(timeout=120)
    assert job.state == "CANCELLED"
    assert bench.told(job) == {}


def test_a_dry_run_tells_good_from_impossible_and_leaves_nothing(bench: Bench) -> None:
    words = ["submit", "--site", "minicluster", "--script", "own.py", "--dry-run", "--nodes"]
    assert "to start at" in bench.run(*words, "2")
    refused = bench.run(*words, "3", code=2)
    assert "hpc-dl: error: nodes = 3: of 2 nodes in partition 'main' 2 have 16 cores" in refused
    assert "Traceback" not in refused
    assert names(bench.folder) == ["own.py"]


def test_a_refused_job_is_one_message_and_leaves_nothing(bench: Bench) -> None:
    refused = bench.run("submit", "--site", "minicluster", "--script", "own.py", "--partition", "nowhere", code=2)
    (line,) = [line for line in refused.splitlines() if "error" in line]
    assert line.startswith("hpc-dl: error: sbatch refused the job: invalid partition specified: nowhere; ")
    assert names(bench.folder / "runs") == []


def test_a_job_submits_another(bench: Bench) -> None:
    inner = [sys.executable, "-m", "hpc_dl", "submit", "--site", "minicluster", "--script", "own.py", "--gpus", "1"]
    inner += ["--name", "inner", "--args", bench.marker.word]
    (bench.folder / "outer.py").write_text(
        "import os, subprocess, sys\n"
        "if '\"index\":0' in os.environ['TF_CONFIG'] and 'worker' in os.environ['TF_CONFIG'].split('task')[1]:\n"
        f"    sys.exit(subprocess.run({inner!r}).returncode)\n"
    )
    job = bench.submit(script="outer.py", gpus=1, cores=4, nodes=2)
    job.wait(timeout=90)
    assert job.state == "COMPLETED", job.exception()
    (found,) = (bench.folder / "runs").glob("inner-*")
    other = hpc_dl.load(found.name)
    assert other.result() == {"test_accuracy": 0.75}
    assert bench.field(other, "NumNodes") == "1"  # nothing of the outer job's size


def test_a_requeued_job_starts_afresh_and_keeps_its_log(bench: Bench) -> None:
    job = bench.submit("wait", "fail", "9", "worker:3", requeues=1)
    bench.ready(job, 5)
    # What the first run has said of its end does not count, unless it has completed.
    (job.run.state / "done").mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (job.run.state / "done" / f"worker-{number}").touch()
    job.run.summary.write_text('{"state": "FAILED", "exit_code": 1, "started": 1, "ended": 2}')
    job.run.result.write_text('{"test_accuracy": 0.99}')
    words = [sys.executable, "-m", "hpc_dl", "logs", "--follow", "--process", "worker:0", job.job_id]
    following = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    subprocess.run(["scontrol", "requeue", job.job_id], check=True, timeout=120)
    eventually(lambda: {one["restart"] for one in bench.told(job).values()} == {"1"}, 60, "the second run")
    assert job.state == "RUNNING"
    assert (job.summary(), job.run.read_result()) == (None, None)
    bench.go()
    with pytest.raises(hpc_dl.JobError, match="worker:3 on node mini1 ended with exit code 9"):
        job.result(timeout=120)
    assert len([line for line in job.logs()["worker:0"].read_text().splitlines() if line.startswith("{")]) == 2
    assert job.stdout().count("5 processes on ") == 2
    # Whoever followed its log has seen both runs.
    assert following.communicate(timeout=120)[0].count("worker:0  {") == 2
    assert following.returncode == 0


def test_submit_shows_the_job_until_its_end(bench: Bench) -> None:
    output = bench.run("submit", "--site", "minicluster", "--script", "own.py", "--gpus", "2", "--name", "own")
    lines = output.splitlines()
    (number,) = [line.split()[-1] for line in lines if line.startswith("Submitted batch job ")]
    assert any(line.startswith(f"Job {number} COMPLETED after ") for line in lines)
    assert lines[-2] == "Result: test_accuracy = 0.75"
    assert lines[-1] == f"Run folder: {bench.folder}/runs/own-{number}"
    assert f"{number}  COMPLETED" in bench.run("list")


def test_ten_lines_of_python(bench: Bench) -> None:
    (bench.folder / "ten.py").write_text(
        "import sys\n"
        "import hpc_dl\n"
        "job = hpc_dl.submit(site='minicluster', script='own.py', nodes=2, gpus=2, args=[sys.argv[1]])\n"
        "print(job.job_id, job.state)\n"
        "job.wait(timeout=120)\n"
        "print(job.state, job.result()['test_accuracy'], sorted(job.logs()))\n"
    )
    command = [sys.executable, "ten.py", bench.marker.word]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ("COMPLETED 0.75 ['ps:0', 'worker:0', 'worker:1', 'worker:2', 'worker:3']")


def test_the_facts_of_each_node_are_its_own(bench: Bench) -> None:
    job = bench.submit(nodes=2, gpus=3)
    job.result(timeout=120)
    facts = job.run.read_facts()
    assert sorted(facts) == ["mini1", "mini2"]
    assert all(len(one.gpus) == 3 for one in facts.values())


@pytest.mark.usefixtures("bench")
def test_the_check_before_submission_knows_whether_srun_can_start_ranks() -> None:
    step = ["srun", "--mpi=pmix", "--nodes=1", "--ntasks=1", "true"]
    starts = subprocess.run(step, capture_output=True, check=False, timeout=60).returncode == 0
    job, site = JobSpec(mode="horovod", script="own.py"), Site(name="x", cores=1)
    with contextlib.nullcontext() if starts else pytest.raises(UserError, match="srun --mpi=pmix: "):
        check_mpi(job, site, sys.executable)
