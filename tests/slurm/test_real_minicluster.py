"""The private cluster with real daemons."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpc_dl.errors import UserError
from hpc_dl.minicluster import ClusterConfig, MiniCluster, NodeGroup, running

Find = Callable[[], list[int]]


def slurm(cluster: MiniCluster, *command: str) -> str:
    done = subprocess.run(
        command, env=cluster.env(), cwd=cluster.root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def submit(cluster: MiniCluster, body: str, *options: str) -> str:
    script = cluster.root / "job.sh"
    script.write_text(f"#!/bin/sh\n{body}\n")
    return slurm(cluster, "sbatch", "--parsable", *options, str(script)).strip()


def job(cluster: MiniCluster, number: str) -> dict[str, str]:
    text = slurm(cluster, "scontrol", "--oneliner", "show", "job", number)
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def eventually(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def processes_of(root: Path) -> list[int]:
    """Return the processes that work for the cluster in `root`: each has the path in its environment or command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
            zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if not zombie and f"{root}/".encode() in text:
            found.append(int(folder.name))
    return found


@pytest.fixture
def own(slurm: None, short_root: Path) -> Iterator[MiniCluster]:
    """A small cluster for one test, not started."""
    cluster = MiniCluster(short_root, ClusterConfig(groups=(NodeGroup(count=1, gpus=1),)))
    yield cluster
    cluster.stop()
    for pid in processes_of(short_root):
        os.kill(pid, signal.SIGKILL)


def start_stubborn_task(cluster: MiniCluster) -> None:
    """Start a job with a task that ignores SIGTERM and one that has left its process group."""
    submit(cluster, "srun sh -c \"trap '' TERM; setsid sleep 300 & sleep 300; sleep 300\"", "--output=/dev/null")
    eventually(lambda: b"sleep" in b"".join(command_line(pid) for pid in processes_of(cluster.root)))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_all_nodes_are_idle_after_the_start(cluster: MiniCluster) -> None:
    found = cluster.status()
    assert found is not None
    assert set(found.nodes) == {"mini1", "mini2"}
    assert running(cluster.root) == cluster.slurm_conf
    info = slurm(cluster, "sinfo", "-h", "-o", "%P %c %G").split()
    assert info == ["main*", "16", "gpu:k80:4"]


def test_srun_runs_on_both_nodes(cluster: MiniCluster) -> None:
    out = slurm(cluster, "srun", "-N2", "sh", "-c", "echo $SLURMD_NODENAME")
    assert sorted(out.split()) == ["mini1", "mini2"]


def test_typed_gpus_are_made_visible(cluster: MiniCluster) -> None:
    out = slurm(cluster, "srun", "-N2", "--gres=gpu:k80:2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert out.split() == ["0,1", "0,1"]


def test_more_gpus_than_there_are_is_refused(cluster: MiniCluster) -> None:
    with pytest.raises(AssertionError, match="Requested node configuration is not available"):
        slurm(cluster, "srun", "-N1", "--gres=gpu:k80:5", "true")


def test_a_batch_job_completes(cluster: MiniCluster) -> None:
    number = submit(cluster, "srun -N2 true", "-N2", "--output=/dev/null")
    eventually(lambda: job(cluster, number)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"))
    assert (job(cluster, number)["JobState"], job(cluster, number)["ExitCode"]) == ("COMPLETED", "0:0")


def test_arrays_run_and_the_exit_code_is_kept(cluster: MiniCluster) -> None:
    number = submit(cluster, "exit $SLURM_ARRAY_TASK_ID", "--array=0,3", "--output=/dev/null")
    eventually(lambda: job(cluster, f"{number}_3")["JobState"] == "FAILED")
    assert job(cluster, f"{number}_3")["ExitCode"] == "3:0"
    eventually(lambda: job(cluster, f"{number}_0")["JobState"] == "COMPLETED")


def test_a_requeued_job_runs_again_soon(cluster: MiniCluster) -> None:
    number = submit(cluster, '[ -n "$SLURM_RESTART_COUNT" ] || sleep 300', "--requeue", "--output=/dev/null")
    eventually(lambda: job(cluster, number)["JobState"] == "RUNNING")
    slurm(cluster, "scontrol", "requeue", number)
    eventually(lambda: job(cluster, number)["JobState"] == "COMPLETED")
    assert job(cluster, number)["Restarts"] == "1"


def test_nothing_listens_to_the_network(cluster: MiniCluster) -> None:
    ports = [word.split("=")[1] for word in cluster.slurm_conf.read_text().split() if "Port=" in word]
    assert len(ports) == 3
    hexadecimal = {f"{int(port):04X}" for port in ports}
    tables = [Path("/proc/net", file) for file in ("tcp", "tcp6")]
    sockets = [line.split()[1:4] for table in tables if table.exists() for line in table.read_text().splitlines()]
    listening = [local.split(":") for local, _, state in sockets if state == "0A"]
    assert {address for address, port in listening if port in hexadecimal} == {"0100007F"}


def test_the_environment_is_clean(cluster: MiniCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SQUEUE_FORMAT", "SINFO_FORMAT", "PMI_RANK"):
        monkeypatch.setenv(name, "1")
    env = cluster.env()
    assert {name for name in env if name.startswith(("SLURM", "SBATCH", "SQUEUE", "SINFO", "PMI"))} == {"SLURM_CONF"}
    assert env["OMPI_MCA_btl"] == "tcp,self"


def test_the_folder_is_private(cluster: MiniCluster) -> None:
    assert cluster.root.stat().st_mode & 0o777 == 0o700


def test_two_clusters_run_side_by_side(cluster: MiniCluster, own: MiniCluster) -> None:
    with own:
        assert slurm(own, "sinfo", "-h", "-o", "%D").split() == ["1"]
        assert slurm(cluster, "sinfo", "-h", "-o", "%D").split() == ["2"]
    assert running(own.root) is None
    assert running(cluster.root)


def test_stop_leaves_nothing(own: MiniCluster) -> None:
    own.start()
    start_stubborn_task(own)
    assert processes_of(own.root)
    assert own.stop()
    assert processes_of(own.root) == []
    assert [path for path in own.root.rglob("*") if path.is_socket()] == []
    assert (own.root / "log/slurmctld.log").stat().st_size
    assert not own.stop()


@pytest.mark.parametrize("victim", ["guard", "worker"])
def test_a_killed_supervisor_leaves_no_process(own: MiniCluster, victim: str) -> None:
    own.start(detach=True)
    start_stubborn_task(own)
    found = own.status()
    assert found is not None
    pid = found.pid
    if victim == "worker":
        pid = int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(pid)], text=True).split()[0])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: running(own.root) is None)
    assert processes_of(own.root) == []


def step_daemons(root: Path) -> set[Path]:
    """Return each slurmstepd that works in a folder; its environment tells nothing, since its title lies there."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_step = (folder / "cmdline").read_bytes().startswith(b"slurmstepd: ")
            if is_step and (folder / "cwd").resolve().is_relative_to(root):
                found.add(folder)
    return found


@pytest.mark.parametrize("then", ["stop", "start"])
def test_what_a_supervisor_leaves_that_is_killed_in_both_its_processes_ends_at_the_next_command(
    own: MiniCluster, then: str
) -> None:
    own.start(detach=True)
    start_stubborn_task(own)
    found = own.status()
    assert found is not None
    worker = int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(found.pid)], text=True).split()[0])
    for pid in (found.pid, worker):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: running(own.root) is None)
    left = {pid for pid in processes_of(own.root) if b"sleep" in command_line(pid)}
    assert left
    assert step_daemons(own.root)
    if then == "start":
        own.start()
    else:
        own.stop()
    eventually(lambda: not left & set(processes_of(own.root)))
    eventually(lambda: not step_daemons(own.root))


@pytest.mark.parametrize("daemon", ["slurmctld", "munged"])
def test_the_cluster_ends_with_an_essential_daemon(own: MiniCluster, daemon: str) -> None:
    own.start()
    pid = next(pid for pid in processes_of(own.root) if daemon.encode() in command_line(pid).split(b"\0")[0])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: running(own.root) is None)
    assert processes_of(own.root) == []


def test_the_cluster_survives_the_loss_of_a_node(own: MiniCluster) -> None:
    own.start()
    pid = next(pid for pid in processes_of(own.root) if b"slurmd\0" in command_line(pid))
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)
    assert running(own.root)


def test_the_cluster_ends_with_the_process_that_started_it(own: MiniCluster) -> None:
    code = (
        "import os, pathlib, sys; from hpc_dl.minicluster import MiniCluster; "
        "MiniCluster(pathlib.Path(sys.argv[1])).start(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(own.root)], timeout=120, check=False)
    eventually(lambda: running(own.root) is None and not processes_of(own.root))


def test_a_second_start_is_refused(own: MiniCluster) -> None:
    with own:
        assert own.is_up()
        other = MiniCluster(own.root)
        assert not other.is_up()
        with pytest.raises(UserError, match=r"one runs in .* already; `hpc-dl cluster stop`"):
            other.start()
        assert own.is_up()


def test_job_numbers_go_on_after_a_restart(own: MiniCluster) -> None:
    with own:
        first = submit(own, "sleep 300", "--output=/dev/null")
    with own:
        assert int(submit(own, "true", "--output=/dev/null")) == int(first) + 1
        assert first not in slurm(own, "squeue", "-h", "-o", "%i").split()


def test_a_failed_start_says_why_and_leaves_nothing(short_root: Path, slurm: None) -> None:
    broken = MiniCluster(short_root, ClusterConfig(extra=("SelectType=select/nonsense",)))
    with pytest.raises(UserError, match=r"private cluster: .*select.*; see .*/log"):
        broken.start()
    assert running(short_root) is None
    assert processes_of(short_root) == []


def test_without_slurm_the_message_says_how_to_get_it(short_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPC_DL_SLURM_PREFIX", str(short_root / "none"))
    with pytest.raises(UserError, match="hpc-dl cluster install"):
        MiniCluster(short_root).start()
    assert list(short_root.iterdir()) == []
