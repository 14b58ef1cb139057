"""Jobs whose processes run in containers, on a real Slurm.

The container runtime is a stand-in of a few lines: its containers have a root of their own, with the system's folders
and a Python that the host does not have. For Pyxis a stand-in of srun takes --container-image. The host's Python has no
TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hpc_dl
from hpc_dl.minicluster import MiniCluster
from hpc_dl.runfolder.checkpoints import published
from hpc_dl.submission.handle import Job
from tests.unit.fakes.processes import eventually

PACKAGES = Path(hpc_dl.__file__).parents[1]
# contain IMAGE COMMAND…: the image's root has the host's top folders, and the image's own folder /image.
RUNTIME = """#!/bin/bash
image=$1 here=$PWD
shift
[ "$(id -u)" = 0 ] || user=--map-root-user
exec unshare --mount $user /bin/bash -c '
  for folder in /*; do
    if [ -L "$folder" ]; then
      [ -L "$0$folder" ] || ln -s "$(readlink "$folder")" "$0$folder"
    elif [ -d "$folder" ] && [ "$folder" != /image ]; then
      mkdir -p "$0$folder" && mount --rbind "$folder" "$0$folder" || exit 125
    fi
  done
  exec chroot "$0" /bin/bash -c '\\''cd "$0" && exec "$@"'\\'' "$@"
' "$image" "$here" "$@"
"""
# srun with the option of Pyxis: a step's command runs in a container, which takes over no variable of the host.
SRUN = """#!/bin/bash
options=() image=
while [[ $1 == -* ]]; do
  case $1 in
    --container-image=*) image=${{1#*=}} ;;
    *) options+=("$1") ;;
  esac
  shift
done
[ -z "$image" ] || set -- {runtime} "$image" /usr/bin/env --ignore-environment PATH=/usr/bin:/bin "$@"
exec {srun} "${{options[@]}}" "$@"
"""
SCRIPT = """
import json, os, signal, sys, time
names = ("CUDA_VISIBLE_DEVICES", "TF_CONFIG", "RANK", "SLURM_PROCID", "SEED", "HPC_DL_ATTEMPT")
def end(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm may tell the step, and the launcher its process
    open("saved-" + os.environ["RANK"], "x").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print(json.dumps({"image": os.path.exists("/image"), "cores": len(os.sched_getaffinity(0)), "python": sys.executable,
    **{name: os.environ.get(name) for name in names}}), flush=True)
if "wait" in sys.argv:
    while True:
        time.sleep(0.05)
sys.exit(7 if "fail" in sys.argv and os.environ["RANK"] == "1" else 0)
"""


class Bench:
    """A folder with an image, a host Python without TensorFlow, and two sites: with a runtime, with srun options."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = folder / "image root"
        self.jobs: list[Job] = []
        bin_ = folder / "bin"
        _program(bin_ / "contain", RUNTIME)
        _program(bin_ / "srun", SRUN.format(srun=shutil.which("srun"), runtime=bin_ / "contain"))
        base = Path(sys.executable).resolve()
        _program(self.image / "image" / "python", f'#!/bin/sh\nPYTHONPATH={_site_packages()} exec {base} "$@"\n')
        (folder / "own.py").write_text(SCRIPT)
        host = _login_python(folder / "host")
        words = ["contain", str(self.image)]
        common = f'base = "minicluster"\npython = "{host}"\ncontainer_python = "/image/python"\n'
        sites = folder / "env" / "sites"
        sites.mkdir(parents=True)
        (sites / "runtime.toml").write_text(f"{common}container = {json.dumps(words)}\n")
        (sites / "pyxis.toml").write_text(f'{common}container_srun = ["--container-image=$IMAGE"]\n')

    def submit(self, site: str, **settings: Any) -> Job:
        self.jobs.append(hpc_dl.submit("train", site=site, nodes=2, gpus=1, time="5", **settings))
        return self.jobs[-1]

    def script(self, site: str, *words: str, **settings: Any) -> Job:
        settings = {"mode": "multiworker", "env": {"SEED": "a b"}, **settings}
        return self.submit(site, name="own", script="own.py", args=list(words), **settings)

    def told(self, job: Job) -> dict[str, dict[str, Any]]:
        lines = [(name, line) for name, path in job.logs().items() for line in path.read_text().splitlines()]
        return {name: json.loads(line) for name, line in lines if line.startswith('{"image"')}

    def inside(self, job: Job) -> dict[str, int]:
        """Return the processes of a job that run in a container, by name."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environ = dict(pair.partition("=")[::2] for pair in (entry / "environ").read_text().split("\0"))
                mark = environ.get("HPC_DL_MARK", "").rpartition(" ")[2]
                if mark and environ.get("HPC_DL_RUN") == str(job.run.path) and (entry / "root" / "image").exists():
                    found[mark] = int(entry.name)
        return found


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _site_packages() -> Path:
    return Path(sys.prefix, "lib", f"python3.{sys.version_info.minor}", "site-packages")


def _login_python(folder: Path) -> Path:
    """Make an environment with what a login node needs, and no TensorFlow; return its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    target = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    names = (
        r"(click|jinja2|markdown_it|markupsafe|mdurl|msgspec|pygments|rich|tomli|tomli_w)(\.py)?|.*(hpc_dl\.pth|-info)"
    )
    for path in _site_packages().iterdir():
        if re.fullmatch(names, path.name):
            (target / path.name).symlink_to(path)
    done = subprocess.run([folder / "bin" / "python", "-c", "import hpc_dl.cli.main, tensorflow"], capture_output=True)
    assert b"No module named 'tensorflow'" in done.stderr
    return folder / "bin" / "python"


@pytest.fixture
def bench(cluster: MiniCluster, namespaces: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    one = Bench(tmp_path)
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("IMAGE", str(one.image))
    monkeypatch.chdir(tmp_path)
    yield one
    for job in one.jobs:
        subprocess.run(["scancel", job.job_id], capture_output=True, check=False, timeout=30)
    for job in one.jobs:
        eventually(lambda job=job: not one.inside(job), 30, "processes are left")  # type: ignore[misc]


def _end(job: Job, seconds: float = 60) -> str:
    job.wait(timeout=seconds)
    return job.state


def _steps(job: Job) -> int:
    """Return how many steps worker 0 has made, as its metrics say."""
    path = job.run.metrics / "worker-0.jsonl"
    return path.read_text().count('"step"') if path.exists() else 0


BOTH = pytest.mark.parametrize("site", ["runtime", "pyxis"])


@BOTH
def test_a_process_in_a_container_has_its_own_variables(bench: Bench, site: str) -> None:
    job = bench.script(site)
    assert _end(job) == "COMPLETED", job.stdout()
    told = bench.told(job)
    assert list(told) == ["worker:0", "worker:1"]
    for number, one in enumerate(told.values()):
        assert one["image"]
        assert json.loads(one["TF_CONFIG"])["task"] == {"type": "worker", "index": number}
        assert (one["RANK"], one["SLURM_PROCID"], one["SEED"]) == (str(number), str(number), "a b")
        assert one["CUDA_VISIBLE_DEVICES"] == "0"


@BOTH
def test_the_exit_code_of_a_process_in_a_container_is_that_of_the_job(bench: Bench, site: str) -> None:
    job = bench.script(site, "fail")
    assert _end(job) == "FAILED"
    failure = job.run.read_failure()
    assert failure is not None
    assert (failure.process, failure.exit_code) == ("worker:1", 7)


@BOTH
def test_a_process_in_a_container_may_save_when_its_job_is_cancelled(bench: Bench, site: str) -> None:
    job = bench.script(site, "wait")
    eventually(lambda: len(bench.told(job)) == 2, 30, job.stdout())
    assert set(bench.inside(job)) == {"worker:0", "worker:1"}
    job.cancel()
    assert _end(job) == "CANCELLED"
    # In files: srun may not pass on the last lines of a step that is cancelled.
    for rank in (0, 1):
        assert (bench.folder / f"saved-{rank}").exists(), [path.read_text() for path in job.logs().values()]
    eventually(lambda: not bench.inside(job))


@pytest.mark.timeout(280)
@BOTH
def test_training_in_containers_goes_on_after_a_kill_and_saves_when_it_is_cancelled(bench: Bench, site: str) -> None:
    job = bench.submit(site, mode="async", steps=100_000, checkpoint_every=100_000)
    eventually(lambda: _steps(job) > 1, 120, job.stdout())
    first = bench.inside(job)["worker:1"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: bench.inside(job).get("worker:1", first) != first, 60, job.stdout())
    # A runtime that gives its place to the process dies of the signal; another one ends with an exit code.
    assert re.search(r"worker:1 on node mini2 (was killed by signal 9|ended with exit code 137)", job.stdout())
    assert "worker:1 started again, 1 of 3 times" in job.stdout()
    job.cancel()
    assert _end(job) == "CANCELLED"
    assert published(job.run.checkpoints)


@pytest.mark.timeout(280)
def test_training_in_a_container_ends_well(bench: Bench) -> None:
    job = bench.submit("runtime", mode="multiworker", steps=60, hang_timeout=60)
    assert _end(job, 200) == "COMPLETED", job.stdout()
    assert job.result()["workers"] == 2


@pytest.mark.timeout(280)
@BOTH
def test_check_looks_into_the_container_on_each_node(bench: Bench, site: str) -> None:
    command = [sys.executable, "-m", "hpc_dl", "check", "--site", site, "--on-node", "--nodes", "2", "--gpus", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert "Nothing is wrong" in done.stdout, done.stdout + done.stderr
    command += ["--container-python", str(Path(sys.executable).resolve())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "mini1: error: python = " in done.stdout
    assert "import tensorflow fails: ModuleNotFoundError" in done.stdout
