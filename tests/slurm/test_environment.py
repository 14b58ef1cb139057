"""The environment of jobs as site files ask for it: modules, shell lines, nothing inherited, launchers of MPI."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from benchmarks.faults.network import in_namespaces
from hpc_dl.errors import UserError
from hpc_dl.minicluster import MiniCluster
from hpc_dl.submission.handle import Job
from tests.slurm import packages
from tests.slurm.helpers import Bench
from tests.unit.fakes.processes import eventually

# The first process of a job tells its environment, and whether a step of its own has it too.
ENVIRONMENT = """
import json, os, pathlib, subprocess
if os.environ.get("SLURM_PROCID", "0") == "0":
    step = ["srun", "--overlap", "--mem=0", "--nodes=1", "--ntasks=1", "printenv", "GIVEN"]
    told = subprocess.run(step, capture_output=True, text=True)
    told = told.stdout.strip() or told.stderr
    (pathlib.Path(os.environ["HPC_DL_RUN"]) / "result.json").write_text(json.dumps({"step": told, **os.environ}))
"""


T = TypeVar("T")


def needed(get: Callable[[], T]) -> T:
    """Return what a test needs; else it is skipped, or fails in continuous integration."""
    try:
        return get()
    except UserError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def bench(cluster: MiniCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name, value in cluster.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "environment.py").write_text(ENVIRONMENT)
    one = Bench(cluster, tmp_path)
    yield one
    one.clean()


def run(bench: Bench, keys: str, **settings: Any) -> Job:
    """Run a job of a site with these keys, and return it when it has ended."""
    (bench.folder / "my.toml").write_text(f'base = "minicluster"\n{keys}')
    settings = {"script": "environment.py", "mode": "single", "gpus": 0, "args": [bench.marker.word], **settings}
    job = bench.submit(site="./my.toml", **settings)
    job.wait(timeout=90)
    return job


def told(job: Job) -> dict[str, str]:
    assert job.state == "COMPLETED", job.stdout()
    found = job.result()
    assert isinstance(found, dict)
    return found


# A modulefile of environment-modules. What a stage brings can be loaded only after it.
_STAGE = """#%Module1.0
setenv STAGE {name}
prepend-path MODULEPATH {tools}
"""
_TOOL = """#%Module1.0
prereq stage
setenv TOOL $env(STAGE)/tool
"""


@pytest.fixture(scope="session")
def module_init() -> Path:
    """The file that defines the command ``module`` of a real module system."""
    return needed(packages.modules)


@pytest.fixture
def modulefiles(bench: Bench, module_init: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules for a real module system; one of them is loaded in the shell that submits."""
    folder, tools = bench.folder / "modules", bench.folder / "tools"
    for path, text in {
        folder / "old": "#%Module1.0\nsetenv OLD 1\n",
        folder / "stage" / "2025": _STAGE.format(name=2025, tools=tools),
        tools / "tool" / "1.0": _TOOL,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = f"source {module_init} && module use {folder} && module load old && env -0"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    for item in done.stdout.split("\0")[:-1]:
        name, value = item.split("=", 1)
        if not name.startswith("BASH_FUNC"):
            monkeypatch.setenv(name, value)
    assert os.environ["OLD"] == "1"
    return folder


def test_real_modules_are_purged_used_and_loaded_in_their_order(
    bench: Bench, module_init: Path, modulefiles: Path
) -> None:
    keys = (
        f'module_init = "{module_init}"\nbefore_modules = ["module purge", "module use {modulefiles}"]\n'
        'modules = ["stage/2025", "tool"]\nafter_modules = [\'export AFTER="$TOOL"\']\n'
    )
    found = told(run(bench, keys))
    assert (found["AFTER"], found["LOADEDMODULES"]) == ("2025/tool", "stage/2025:tool/1.0")
    assert "OLD" not in found
    wrong = run(bench, keys.replace('"stage/2025", "tool"', '"tool", "stage/2025"'))
    assert wrong.state == "FAILED"
    assert "hpc-dl: module load failed; see modules in the site file: tool\n" in wrong.stdout()
    assert wrong.run.read_summary() is not None


def test_a_shell_line_that_fails_ends_the_job_with_the_cause(bench: Bench) -> None:
    job = run(bench, 'before_modules = ["export GIVEN=1", "source /opt/none/activate"]\n')
    assert (job.state, bench.field(job, "ExitCode")) == ("FAILED", "1:0")
    assert "hpc-dl: before_modules failed; see the site file: source /opt/none/activate\n" in job.stdout()


def test_a_line_that_no_shell_can_read_is_refused_before_submission(bench: Bench) -> None:
    (bench.folder / "my.toml").write_text('base = "minicluster"\n\nafter_modules = ["ls", "if true"]\n')
    said = bench.run("submit", "--site=./my.toml", "--script=environment.py", code=2)
    assert "my.toml, line 3: after_modules: 'if true' is no complete shell command: " in said
    assert not (bench.folder / "runs").exists()


def test_a_job_with_a_clean_environment_has_what_its_site_gives(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_SHELL", "1")
    assert told(run(bench, ""))["OF_THE_SHELL"] == "1"
    commands = Path(shutil.which("srun") or "").parent
    keys = (
        "clean_environment = true\nlogin_shell = true\n"
        f'before_modules = ["shopt -q login_shell", \'export PATH="{commands}:$PATH"\']\n[env]\nGIVEN = "by env"\n'
    )
    found = told(run(bench, keys))
    assert "OF_THE_SHELL" not in found
    assert "SLURM_EXPORT_ENV" not in found
    assert (found["GIVEN"], found["step"]) == ("by env", "by env")


def test_the_tasks_of_a_task_file_have_the_same_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_SHELL", "1")
    commands = Path(shutil.which("srun") or "").parent
    (bench.folder / "my.toml").write_text(
        f'base = "minicluster"\nclean_environment = true\nbefore_modules = [\'export PATH="{commands}:$PATH"\']\n'
        "after_modules = ['export GIVEN=\"by $SLURM_JOB_NAME\"']\n"
    )
    step = "srun --ntasks=1 printenv GIVEN >> told"
    (bench.folder / "t.txt").write_text(f'echo "$GIVEN, ${{OF_THE_SHELL-nothing}}" > told && {step}\n')
    said = bench.run("tasks", "submit", "t.txt", "--site=./my.toml", "--time=5", "--gpus=0")
    job = said.split("\n")[0].removeprefix("Submitted batch job ")
    show = ["scontrol", "--oneliner", "show", "job", job]
    eventually(lambda: b"JobState=COMPLETED" in subprocess.run(show, capture_output=True, check=True).stdout, 60)
    assert (bench.folder / "told").read_text() == "by t.txt, nothing\nby t.txt\n"


def test_processes_reach_one_another_without_the_web_proxy(bench: Bench) -> None:
    found = told(run(bench, 'proxy = "http://127.0.0.1:9"\n'))
    assert found["https_proxy"] == found["HTTP_PROXY"] == "http://127.0.0.1:9"
    assert "127.0.0.1" in found["no_proxy"].split(",")


# Ranks that tell what they are, and wait to be told to end.
RANK = """
import json, os, pathlib, signal, sys, time

run = pathlib.Path(os.environ["HPC_DL_RUN"])
task = json.loads(os.environ["TF_CONFIG"])["task"]["index"]

def end(number, frame):
    time.sleep(2)
    (run / f"saved-{task}").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, end)
(run / f"rank-{task}").write_text(json.dumps(dict(os.environ)))
while "wait" in sys.argv:
    time.sleep(0.05)
"""
# In place of the ibrun of TACC, which exists there alone: it starts ranks by its own variable, and numbers them itself.
IBRUN = """#!/bin/bash
[ "$1 $3 $4" = "-n -o 0" ] || exit 9
ranks=$2; shift 4
exec srun --overlap --mpi=none --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$ranks" \
  --ntasks-per-node="$IBRUN_TASKS_PER_NODE" --cpus-per-task=1 --distribution=block \
  bash -c 'PMI_RANK=$SLURM_PROCID exec "$@"' rank "$@"
"""


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(params=["mpich", "ibrun", "none", "pmi2"])
def launcher(request: pytest.FixtureRequest, bench: Bench) -> str:
    """The keys of a site whose ranks are started so."""
    kind = str(request.param)
    (bench.folder / "bin").mkdir()
    if kind in ("none", "pmi2"):
        return f'launcher = "srun"\nmpi = "{kind}"\nsrun = []\n'
    if kind == "ibrun":
        write_program(bench.folder / "bin" / "ibrun", IBRUN)
    else:
        # Not a link: it looks for its daemon beside itself.
        write_program(bench.folder / "bin" / "mpirun", f'#!/bin/sh\nexec {needed(packages.hydra)} "$@"\n')
    library = 'mpi_library = "mpich"\n' if kind == "mpich" else ""
    path = f"'export PATH=\"{bench.folder}/bin:$PATH\"'"
    name = "ibrun" if kind == "ibrun" else "mpirun"
    return f'launcher = "{name}"\n{library}mpirun = []\nafter_modules = [{path}]\n'


def ranks(bench: Bench, keys: str, *words: str) -> Job:
    (bench.folder / "my.toml").write_text(f'base = "minicluster"\n{keys}')
    (bench.folder / "rank.py").write_text(RANK)
    settings = {"script": "rank.py", "mode": "horovod", "nodes": 2, "gpus": 2, "args": [bench.marker.word, *words]}
    job = bench.submit(site="./my.toml", **settings)
    eventually(lambda: len(list(job.run.path.glob("rank-*"))) == 4 or job.done(), 60, "four ranks")
    return job


def test_ranks_are_those_of_the_placement_whoever_starts_them(bench: Bench, launcher: str) -> None:
    job = ranks(bench, launcher)
    job.wait(timeout=120)
    assert job.state == "COMPLETED", job.stdout()
    for index in range(4):
        environ = json.loads((job.run.path / f"rank-{index}").read_text())
        assert environ["SLURMD_NODENAME"] == f"mini{index // 2 + 1}"
        assert environ["CUDA_VISIBLE_DEVICES"] == str(index % 2)


def test_ranks_save_before_they_end_whoever_started_them(bench: Bench, launcher: str) -> None:
    job = ranks(bench, launcher, "wait")
    job.cancel()
    job.wait(timeout=120)
    assert job.state == "CANCELLED", job.stdout()
    assert len(list(job.run.path.glob("saved-*"))) == 4, job.stdout()


def test_processes_are_reached_by_full_names_and_by_interfaces(slurm: None, namespaces: None) -> None:
    """The tests are in `in_addresses.py`, which runs in namespaces of its own."""
    inside = Path(__file__).with_name("in_addresses.py")
    command = in_namespaces([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(inside)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout
