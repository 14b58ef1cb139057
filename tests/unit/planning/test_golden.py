"""The files of whole jobs, word for word, and what a shell makes of them.

After a change of a template, look at the difference and renew: pytest tests/unit --renew-golden
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc_dl.planning import preview
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.processes import python_module
from hpc_dl.schedulers.slurm.sbatch_options import directives, ps_directives
from hpc_dl.shipped_files import share
from hpc_dl.spec.job import job_file
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.placement import Placement
from hpc_dl.spec.site import Scalar
from hpc_dl.spec.site_files import load_site, site_file
from hpc_dl.tasks.file.parser import parse
from hpc_dl.templates import shell

GOLDEN = Path(__file__).parents[2] / "golden"
HOSTILE = [
    "$(touch x)",
    "a b",
    "it's",
    'say "hi"',
    "back\\slash",
    "a#b",
    "100%",
    "%j",
    ":::",
    "`id`",
    "",
    "*",
    "tab\there",
    "é",
]


@dataclass(frozen=True)
class Case:
    """One job: site, overrides of its file, changes of the site, and what its working directory is called."""

    site: str
    settings: dict[str, Any]
    changes: dict[str, Any] = field(default_factory=dict)
    job: str | None = "train"
    nodelist: str = ""
    workdir: str = "work"
    script: str = ""


CASES = {
    "minotauro": Case("minotauro", {"gpus": 2}, nodelist="nvb[19-20]"),
    "minicluster_2x4": Case("minicluster", {"nodes": 2}),
    "local": Case("local", {"nodes": 2}, {"cores": 2}),
    "horovod": Case("minotauro", {"mode": "horovod", "gpus": 2}, nodelist="nvb[19-20]"),
    "horovod_mpirun": Case("minicluster", {"mode": "horovod", "nodes": 2, "gpus": 2}),
    "horovod_pmi2": Case("minotauro", {"mode": "horovod", "gpus": 2}, {"mpi": "pmi2"}, nodelist="nvb[19-20]"),
    "horovod_mpich": Case(
        "minotauro",
        {"mode": "horovod", "gpus": 2},
        {"launcher": "mpirun", "mpi_library": "mpich"},
        nodelist="nvb[19-20]",
    ),
    "horovod_intelmpi": Case(
        "minotauro",
        {"mode": "horovod", "gpus": 2},
        {"launcher": "mpirun", "mpi_library": "intelmpi", "mpirun": ["-genv", "I_MPI_DEBUG=5"]},
        nodelist="nvb[19-20]",
    ),
    "horovod_ibrun": Case("minotauro", {"mode": "horovod", "gpus": 2}, {"launcher": "ibrun"}, nodelist="nvb[19-20]"),
    "mixed": Case("minotauro", {"mode": "mixed"}, nodelist="nvb[19-20]"),
    "sync": Case("minicluster", {"mode": "sync", "nodes": 2, "gpus": 2, "backup_workers": 1}),
    "multiworker": Case("minicluster", {"mode": "multiworker", "nodes": 2, "gpus": 1}),
    "amd": Case(
        "minotauro",
        {"nodes": 2, "gres": ["nvme:100", "tmp:1"]},
        {
            "cores": 56,
            "reserved_cores": "0,8,16,24,32,40,48,56",
            "gpus": 8,
            "gpu_type": "",
            "gpu_vendor": "amd",
            "gpu_request": "gpus-per-node",
            "gpu_cores": ["49-55", "57-63", "17-23", "25-31", "1-7", "9-15", "33-39", "41-47"],
            "slurm": {"hint": "nomultithread"},
        },
    ),
    "gpus_per_task": Case(
        "minotauro",
        {"mode": "horovod", "nodes": 2},
        {
            "cores": 128,
            "threads_per_core": 2,
            "gpu_request": "gpus-per-task",
            "gpu_cores": ["48-63", "32-47", "16-31", "0-15"],
            "gres": ["nvme:100"],
        },
    ),
    "ps_nodes": Case(
        "minotauro",
        {"nodes": 2, "gpus": 2, "ps": 3, "ps_partition": "cpu", "ps_nodes": 2, "ps_cores": 4},
    ),
    "own_script": Case(
        "minotauro",
        {
            "name": "own",
            "nodes": 2,
            "gpus": 1,
            "args": ["--epochs=3", "plain"],
            "classic_flags": True,
            "chief": True,
            "env": {"OMP_PROC_BIND": "close"},
            "slurm": {"qos": "bsc_cs", "exclusive": False, "mail-type": "END", "nice": 0, "requeue": True},
        },
        job=None,
        script="train.py",
    ),
    "environment": Case(
        "minotauro",
        {"gpus": 1},
        {
            "login_shell": True,
            "before_modules": ["module purge", "module use /apps/modules", 'export OMP_PLACES="cores"'],
            "modules": ["Stages/2025", "cuda"],
            "after_modules": ["source $HOME/env/bin/activate", "ulimit -s unlimited"],
            "clean_environment": True,
            "clusters": "htc",
            "proxy": "http://proxy:3128",
            "interface": "ib0",
            "interconnect_suffix": "",
            "env": {"NCCL_SOCKET_IFNAME": "ib"},
            "slurm": {"gres_flags": "enforce-binding"},
        },
    ),
    "container": Case(
        "minotauro",
        {"mode": "multiworker", "gpus": 1, "container": ["apptainer", "exec", "--nv", "--bind", "a b:/c", "$$(x).sif"]},
        nodelist="nvb[19-20]",
    ),
    "container_srun": Case(
        "minotauro",
        {"mode": "multiworker", "gpus": 1},
        {"container_srun": ["--container-image=registry#$(touch x)/i m:1"], "container_python": "/opt/py thon"},
        nodelist="nvb[19-20]",
    ),
    "hostile": Case(
        "minotauro",
        {
            "name": "hostile",
            "gpus": 1,
            "args": HOSTILE,
            "env": {f"VALUE_{number}": value for number, value in enumerate(HOSTILE)},
            "slurm": {"comment": " # ".join(HOSTILE)},
        },
        {
            "runs": "runs $(x) 100% 'r'",
            "modules": ["a b", "$(touch x)", "it's"],
            "env": {"SITE_VALUE": "'; touch x #"},
            "module_init": "/etc/module init.sh",
            "gpu_type": "k 80",
            "partition": 'it\'s "p"\\',
            "srun": ["--opt=a b"],
        },
        job=None,
        workdir="w $(touch x) 'q' \"d\" # 100%",
        script="my $(script).sh",
    ),
}


@dataclass(frozen=True)
class Rendered:
    plan: Plan
    placement: Placement
    files: dict[str, str]
    workdir: Path

    @property
    def task_lines(self) -> list[str]:
        return [task.command for task in parse(self.files["tasks.txt"])]


def rendered(name: str, folder: Path) -> Rendered:
    case = CASES[name]
    workdir = folder / case.workdir
    workdir.mkdir()
    settings = {**case.settings, "workdir": str(workdir)}
    if case.script:
        (workdir / case.script).touch()
        settings["script"] = case.script
    path = site_file(case.site)
    overrides = [Layer(settings, "keyword {key}")]
    plan = make_plan(case.job, load_site(path, **case.changes), path, overrides, case.nodelist)
    placement = plan.placement(case.nodelist)
    return Rendered(plan, placement, preview.files(plan, placement), workdir)


def neutral(text: str, folder: Path) -> str:
    """Replace what differs between machines."""
    python = Path(sys.executable)
    names = {
        str(Path(msgspec.__file__).parents[1]): "PACKAGES",
        shlex.quote(str(python)): "PYTHON",
        str(python.parent): "BIN",
        str(share()): "SHARE",
        str(folder): "/FOLDER",
    }
    for found, word in names.items():
        text = text.replace(found, word)
    return re.sub(r"^# hpc_dl \S+:", "# hpc_dl VERSION:", text, flags=re.MULTILINE)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_files_are_as_agreed(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    job = rendered(case, tmp_path)
    texts = {name: neutral(text, tmp_path) for name, text in job.files.items()}
    folder = GOLDEN / case
    if request.config.getoption("--renew-golden"):
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    assert sorted(path.name for path in folder.glob("*")) == sorted(texts)
    for name, text in texts.items():
        golden = (folder / name).read_text()
        diff = "".join(
            difflib.unified_diff(
                golden.splitlines(True), text.splitlines(True), f"golden/{case}/{name}", "rendered now"
            )
        )
        if diff:
            pytest.fail(f"{diff}\nif this is wanted: pytest tests/unit --renew-golden", pytrace=False)


def test_golden_files_hold_nothing_of_one_machine(case: str) -> None:
    for path in (GOLDEN / case).iterdir():
        assert not re.search(r"(^|[\s='\"])/(home|tmp|root|usr(?!/bin/env)|work)\b", path.read_text()), path


def test_layout_of_the_2016_thesis(tmp_path: Path) -> None:
    job = rendered("minotauro", tmp_path)
    layout = [(p.name, p.node, p.visible_gpus, p.address) for p in job.placement.processes]
    assert layout == [
        ("ps:0", "nvb19", "", "nvb19-ib0:2220"),
        ("worker:0", "nvb19", "0", "nvb19-ib0:2221"),
        ("worker:1", "nvb19", "1", "nvb19-ib0:2222"),
        ("worker:2", "nvb20", "0", "nvb20-ib0:2223"),
        ("worker:3", "nvb20", "1", "nvb20-ib0:2224"),
    ]
    first, second = job.task_lines
    assert re.findall(r"::: (\S+) CUDA_VISIBLE_DEVICES=(\S*)", first) == [
        ("ps:0", "''"),
        ("worker:0", "0"),
        ("worker:1", "1"),
    ]
    assert re.findall(r"::: (\S+) CUDA_VISIBLE_DEVICES=(\S*)", second) == [("worker:2", "0"), ("worker:3", "1")]


def test_shellcheck_finds_nothing(case: str, tmp_path: Path) -> None:
    job = rendered(case, tmp_path)
    script = tmp_path / "job.sh"
    script.write_text(job.files["job.sh"])
    lines = []
    for number, line in enumerate(job.task_lines):
        lines.append(tmp_path / f"line{number}.sh")
        lines[-1].write_text(f"#!/bin/sh\n{line}\n")
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # SC2016 wonders whether what stands between single quotes should have been expanded: never here.
    done = subprocess.run([shellcheck, "--exclude=SC2016", script, *lines], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


RECORDER = """#!/bin/bash
printf '%s\\0' "$@" > "$RECORD/argv"
env -0 > "$RECORD/env"
"""


def run_recorded(text: str, folder: Path, **variables: str) -> tuple[list[str], dict[str, str]]:
    """Run bash code in which Python was replaced by a recorder; return the argv and environment that it got."""
    recorder = folder / "recorder"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    code = text.replace(shlex.quote(sys.executable), shlex.quote(str(recorder)))
    environ = {"PATH": os.environ["PATH"], "RECORD": str(folder), **variables}
    subprocess.run(["bash", "-eu", "-c", code], env=environ, cwd=folder, check=True, timeout=60)
    argv = (folder / "argv").read_bytes().decode().split("\0")[:-1]
    env = dict(item.split("=", 1) for item in (folder / "env").read_bytes().decode().split("\0")[:-1])
    return argv, env


def split(words: list[str], separator: str) -> list[list[str]]:
    """Return the words before the first separator, and those after each."""
    groups: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            groups.append([])
        else:
            groups[-1].append(word)
    return groups


def test_hostile_arguments_arrive_unchanged(tmp_path: Path) -> None:
    job = rendered("hostile", tmp_path)
    argv, _ = run_recorded(job.task_lines[0], tmp_path)
    run = str(job.plan.runs / "hostile-JOBID")
    launch = [
        *python_module("")[1:],
        "hpc_dl",
        "launch",
        "--run",
        run,
        "--node",
        "nvb1",
        "--grace",
        "20",
        "--attempt",
        "0",
        "--separator",
        "::::",
    ]
    assert argv[: len(launch)] == launch
    processes = split(argv[len(launch) :], "::::")[1:]
    assert [words[0] for words in processes] == ["ps:0", "worker:0"]
    for words in processes:
        assert words[-len(HOSTILE) - 1 :] == [str(job.workdir / "my $(script).sh"), *HOSTILE]
    assert not (tmp_path / "x").exists()


def test_hostile_environment_arrives_unchanged(tmp_path: Path) -> None:
    job = rendered("hostile", tmp_path)
    exports = "\n".join(line for line in job.files["job.sh"].splitlines() if line.startswith("export "))
    _, env = run_recorded(f"{exports}\n{shlex.quote(sys.executable)} done", tmp_path)
    assert [env[f"VALUE_{number}"] for number in range(len(HOSTILE))] == HOSTILE
    assert env["SITE_VALUE"] == "'; touch x #"
    assert not (tmp_path / "x").exists()


def test_hostile_folders_and_modules_reach_their_commands(tmp_path: Path) -> None:
    job = rendered("hostile", tmp_path)
    lines = job.files["job.sh"].splitlines()
    wanted = [line for line in lines if re.match(r"run=|cd |module load ", line)]
    code = "\n".join(
        [
            "SLURM_JOB_ID=7; modules=()",
            'module() { modules+=("$2"); }',
            *wanted,
            f'{shlex.quote(sys.executable)} "$run" "$PWD" "${{modules[@]}}"',
        ]
    )
    argv, _ = run_recorded(code, tmp_path)
    assert argv == [str(job.plan.runs / "hostile-7"), str(job.workdir), "a b", "$(touch x)", "it's"]
    assert not (job.workdir / "x").exists()


def slurm_words(line: str) -> list[str]:
    """Return what Slurm reads in an ``#SBATCH`` line, after the rules of its own parser.

    A backslash takes the next character as it is, between quotes of either kind too; quotes are dropped; a ``#``
    outside them ends the line.
    """
    words, word, quote, inside = [], "", "", False
    chars = iter(line.removeprefix("#SBATCH") + " ")
    for char in chars:
        if char == "\\":
            word, inside = word + next(chars), True
        elif quote and char != quote:
            word += char
        elif char in "'\"":
            quote, inside = "" if quote else char, True
        elif char == "#":
            break
        elif char.isspace():
            words += [word] if inside else []
            word, inside = "", False
        else:
            word, inside = word + char, True
    assert not quote, "Slurm would complain of an unmatched quote"
    return words


def test_slurm_reads_the_directives_that_were_meant(case: str, tmp_path: Path) -> None:
    job = rendered(case, tmp_path)
    read = [slurm_words(line) for line in job.files["job.sh"].splitlines() if line.startswith("#SBATCH")]
    meant = directives(job.plan.job, job.plan.site, job.plan.runs) if case != "local" else {}
    expected = [_option(*one) for one in meant.items()]
    if job.plan.ps_site:
        expected += [["hetjob"], *(_option(*one) for one in ps_directives(job.plan.job, job.plan.ps_site).items())]
    assert read == expected


def _option(key: str, value: Scalar) -> list[str]:
    return [f"--{key}" if value is True else f"--{key}={value}"]


def test_slurm_writes_the_log_into_the_run_folder(tmp_path: Path) -> None:
    job = rendered("hostile", tmp_path)
    output = str(directives(job.plan.job, job.plan.site, job.plan.runs)["output"])
    expanded = re.sub("%(.)", lambda found: {"%": "%", "j": "7"}[found[1]], output)
    assert expanded == str(job.plan.runs / "hostile-7" / "job.log")


def test_lines_per_node_are_constant(tmp_path: Path) -> None:
    path = site_file("minotauro")
    site = load_site(path, nodes="nvb[1000-1999]")

    def text(nodes: int) -> str:
        plan = make_plan(
            job_file("train").stem, site, path, [Layer({"nodes": nodes, "workdir": str(tmp_path)}, "test")]
        )
        return plan.task_file(plan.placement(), "/run")

    small, large = text(100), text(1000)
    assert len(large.splitlines()) - 2 == 10 * (len(small.splitlines()) - 2)
    # A little more: numbers of workers have more digits.
    assert len(large) < 10 * len(small) * 1.02


def test_a_command_is_quoted_once() -> None:
    assert shell(HOSTILE) == " ".join(shlex.quote(word) for word in HOSTILE)
