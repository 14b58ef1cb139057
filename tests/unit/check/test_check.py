"""What `check` finds: from recorded output of Slurm's commands, and from facts that a test makes up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpc_dl.check import nodes as check_nodes
from hpc_dl.check.facts import Facts, Folder, Here, _problem_of_script, ask_here, here_script, look_at, read_here
from hpc_dl.check.finding import Finding
from hpc_dl.check.node_rules import findings as node_findings
from hpc_dl.check.probe import Address, Call, NodeAnswer
from hpc_dl.check.python import Python
from hpc_dl.check.rules import RULES, findings
from hpc_dl.disk import write_whole
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers.cluster import Cluster, Node, Partition
from hpc_dl.schedulers.protocol import JobState
from hpc_dl.schedulers.slurm.partitions import parse_gres, parse_kill_wait, parse_nodes, parse_partitions
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site import Site

SITE = Site(name="here", cores=16, gpus=4, gpu_type="k80", partition="main", ports=(20000, 20099))
PARTITIONS = """\
PartitionName=main AllowGroups=ALL AllocNodes=ALL Default=YES QoS=N/A GraceTime=0 MaxNodes=UNLIMITED MaxTime=UNLIMITED \
MinNodes=0 Nodes=n[1-3] PriorityTier=1 State=UP TotalCPUs=32 TotalNodes=2 TRES=cpu=32,mem=125G,node=2,billing=32
PartitionName=short AllowGroups=ALL Default=NO MaxNodes=2 MaxTime=1-00:30:00 Nodes=n1 State=DRAIN TotalNodes=1
"""
NODES = """\
n1|main*|idle|16|2|64000|gpu:k80:4(S:0-1)
n1|short|idle|16|2|64000|gpu:k80:4(S:0-1)
n2|main*|mixed+drain*|16+|2+|64000+|gpu:k80:2,gpu:v100:2
n3|main*|allocated|32|2|128000|(null)
slurm_load_partitions: something that is no node
"""
PYTHON = Python("/py", {})


def test_what_slurm_says_is_read() -> None:
    assert parse_partitions(PARTITIONS) == {
        "main": Partition("main", "UP", True),
        "short": Partition("short", "DRAIN", False, 1470, 2),
    }
    one, _, two, three = parse_nodes(NODES)
    assert one == Node("n1", "main", "idle", 16, 64000, {"k80": 4}, 2, True)
    assert (two.cores, two.memory_mb, two.gpus, two.up) == (16, 64000, {"k80": 2, "v100": 2}, False)
    assert (three.gpus, three.up) == ({}, True)
    assert [one.has_gpus(4, "k80"), one.has_gpus(5), two.has_gpus(4), two.has_gpus(3, "k80"), three.has_gpus(0)] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert parse_gres("gpu:4,craynetwork:1,gpu:a100:2(IDX:0-1)") == {"": 4, "a100": 2}
    assert parse_kill_wait("JobRequeue              = 1\nKillWait                = 30 sec\n") == 30
    assert (parse_partitions("slurm_load error"), parse_nodes(""), parse_kill_wait("")) == ({}, (), None)


def plan(site: Site = SITE, **settings: Any) -> Plan:
    return make_plan(None, site, Path("here.toml"), [Layer(settings, "keyword {key}")])


def cluster(**changes: Any) -> Cluster:
    found = Cluster(parse_partitions(PARTITIONS), parse_nodes(NODES), 30)
    return msgspec.structs.replace(found, **changes)


def facts(**changes: Any) -> Facts:
    good = Facts(Folder("/r", free=10**9), Folder("/d", free=10**9), Here(python=PYTHON), outgoing_ports=(32768, 60999))
    return msgspec.structs.replace(good, **changes)


def said(wanted: Plan, seen: Facts) -> list[str]:
    return [str(one) for one in findings(wanted, seen, RULES)]


def test_nothing_is_wrong_with_a_good_job() -> None:
    assert said(plan(), facts(cluster=cluster())) == []
    assert said(plan(), facts()) == []


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"partition": "man"},
            "error: partition = 'man': Slurm has none of this name (did you mean 'main'?); it has 'main', ",
        ),
        ({"ps_partition": "man"}, "error: ps_partition = 'man': Slurm has none of this name (did you mean 'main'?); "),
        ({"ps_partition": "short"}, "error: ps_partition = 'short': is DRAIN, and takes no jobs until it is UP"),
        (
            {"ps_partition": "main", "ps": 2, "ps_nodes": 2, "ps_cores": 30},
            "error: ps_nodes = 2: of 3 nodes in partition 'main' 1 have 30 cores: ask for fewer, or set ps_cores",
        ),
        ({"partition": "short"}, "error: partition = 'short': is DRAIN, and takes no jobs until it is UP"),
        (
            {"partition": "short", "time": "1-1"},
            "error: time = 1-1: partition 'short' allows 1470 minutes; ask for less",
        ),
        ({"partition": "short", "nodes": 3}, "error: nodes = 3: partition 'short' allows 2 in one job"),
        (
            {"nodes": 2},
            "error: nodes = 2: of 3 nodes in partition 'main' 1 have 16 cores and 4 x gpu:k80; the largest, n1,",
        ),
        (
            {"nodes": 2, "gpus": 2},
            "warning: nodes = 2: 1 of 2 that fit take jobs now (n2 mixed+drain*): the job will wait",
        ),
        ({"model": "resnet152", "batch": 10**6}, "warning: model 'resnet152' needs about "),
    ],
)
def test_what_a_job_asks_for(settings: dict[str, Any], text: str) -> None:
    site = msgspec.structs.replace(SITE, gpu_memory_gb=12)
    lines = said(plan(site, **settings), facts(cluster=cluster(), refusal="sbatch refused the job"))
    assert any(line.startswith(text) for line in lines), lines
    # Slurm's own words are left out where ours say why.
    assert ("error: sbatch refused the job" in lines) == text.startswith("warning"), lines


@pytest.mark.parametrize(
    ("site", "text"),
    [
        ({"cores": 8}, "warning: site 'here': cores = 8, sinfo says 16: set cores = 16 in the site file"),
        ({"gpus": 2}, "warning: site 'here': gpus = 2, sinfo says 4: set gpus = 4 in the site file"),
        (
            {"gpu_type": "k8"},
            "error: site 'here': gpu_type = 'k8' (did you mean 'k80'?): nodes of partition 'main' have",
        ),
        ({"grace": 31}, "warning: site 'here': grace = 31 s, but Slurm kills a job 30 s after SIGTERM (KillWait "),
        (
            {"ports": (30000, 40000)},
            "warning: site 'here': ports = 30000-40000: the kernel gives 32768-60999 to outgoing",
        ),
    ],
)
def test_what_a_site_file_says(site: dict[str, Any], text: str) -> None:
    lines = said(plan(msgspec.structs.replace(SITE, **site)), facts(cluster=cluster()))
    assert any(line.startswith(text) for line in lines), lines


TWO_THREADS = cluster(
    nodes=parse_nodes("n1|main*|idle|128|1|64000|(null)|64|2\nn2|main*|idle|128|1|64000|(null)|64|2\n")
)
NOMULTITHREAD = {"hint": "nomultithread"}


@pytest.mark.parametrize(
    ("site", "lines"),
    [
        ({"cores": 128, "threads_per_core": 2}, []),
        ({"cores": 64, "slurm": NOMULTITHREAD}, []),
        ({"cores": 64, "srun": ("--threads-per-core=1",)}, []),
        ({"cores": 56, "slurm": NOMULTITHREAD, "reserved_cores": "0,8,16,24,32,40,48,56"}, []),
        ({"cores": 112, "threads_per_core": 2, "reserved_cores": "0-7"}, []),
        ({"cores": 112, "threads_per_core": 2, "reserved_cores": "0-7,64-71"}, []),
        (
            {"cores": 128},
            [
                "warning: site 'here': threads_per_core = 1, sinfo says 128, 2 threads of each physical core: set"
                " threads_per_core = 2, or hint = 'nomultithread' in [slurm]: then cores counts physical cores"
            ],
        ),
        (
            {"cores": 60, "slurm": NOMULTITHREAD, "reserved_cores": "0"},
            [
                "warning: site 'here': cores = 60, sinfo says 128, 2 threads of each physical core, 1 in"
                " reserved_cores: set cores = 63 in the site file"
            ],
        ),
    ],
)
def test_a_site_file_counts_hardware_threads_as_its_jobs_do(site: dict[str, Any], lines: list[str]) -> None:
    changes = {"gpus": 0, "gpu_type": "", **site}
    assert said(plan(msgspec.structs.replace(SITE, **changes), nodes=2), facts(cluster=TWO_THREADS)) == lines


def test_gpus_that_slurm_does_not_know_are_no_contradiction() -> None:
    changes = {"cores": 128, "threads_per_core": 2}
    site = msgspec.structs.replace(SITE, **changes, gpu_request="none")
    assert said(plan(site, nodes=2), facts(cluster=TWO_THREADS)) == []
    site = msgspec.structs.replace(SITE, **changes)
    lines = said(plan(site, nodes=2), facts(cluster=TWO_THREADS))
    assert any("0 have 128 cores and 4 x gpu:k80" in line for line in lines)
    assert "warning: site 'here': gpus = 4, sinfo says 0: set gpus = 0 in the site file" in lines


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (
            {"cluster": cluster(partitions={})},
            "error: Slurm names no partition (scontrol show partition): is this the right",
        ),
        ({"refusal": "sbatch refused the job: no such account"}, "error: sbatch refused the job: no such account"),
        (
            {"here": Here({"cuda/9": "no such module"}, PYTHON)},
            "error: module 'cuda/9' does not load here: no such module;",
        ),
        ({"here": Here({"module_init": "no file"}, None, "")}, "error: module_init = '': can't be sourced: no file; "),
        (
            {"here": Here(failed_lines={"after_modules: conda activate tf": "no such environment"})},
            "error: after_modules: conda activate tf: fails here: no such environment; ",
        ),
        (
            {"here": Here(said="No module named hpc_dl")},
            "can't run hpc_dl here: No module named hpc_dl; install hpc_dl",
        ),
        (
            {"here": Here(python=Python("/p", {"tensorflow": "ImportError: x"}))},
            "import tensorflow fails: ImportError: x;",
        ),
        ({"mpi_problem": "no mpirun"}, "error: no mpirun"),
        ({"runs": Folder("/r", "/: Read-only file system")}, "error: runs = '/r': can't be written: /: Read-only file"),
        (
            {"runs": Folder("/r", free=10**6)},
            "error: runs = '/r': has 0.001 GB free, the checkpoints of 'small' take up to",
        ),
        (
            {"data_there": False, "no_network": "x.org: no route"},
            "error: data = 'digits': is not in /d, and can't be down",
        ),
        ({"script": "it is not executable"}, "error: script = '': it is not executable"),
        ({"busy_ports": frozenset(range(20000, 20096))}, "ports = 20000-20099: 4 are free here, the job needs 5"),
    ],
)
def test_what_the_machine_says(seen: dict[str, Any], text: str) -> None:
    (line,) = said(plan(), facts(**seen))
    assert text in line


def test_tables_of_no_partition_are_errors_in_own_files_and_warnings_in_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, own = tmp_path / "env" / "sites" / "x.toml", tmp_path / "config" / "hpc_dl" / "sites" / "x.toml"
    for path, name in ((shipped, "gone"), (own, "maim")):
        path.parent.mkdir(parents=True)
        path.write_text(f"cores = 16\n[partitions.{name}]\ncores = 1\n[partitions.short]\ncores = 16\n")
    monkeypatch.setattr("hpc_dl.spec.site_files.share", lambda: tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    found = said(msgspec.structs.replace(plan(), site_path=own), facts(cluster=cluster()))
    assert found == [
        f"error: {own}, line 2: [partitions.maim]: Slurm has no such partition (did you mean 'main'?)",
        f"warning: {shipped}, line 2: [partitions.gone]: Slurm has no such partition",
    ]


def test_all_is_said_at_once_errors_first() -> None:
    lines = said(plan(nodes=4, partition="short"), facts(cluster=cluster(kill_wait=3), mpi_problem="no mpirun"))
    assert [line.split(":")[0] for line in lines] == ["error"] * 4 + ["warning"]


def test_what_modules_and_python_print_is_read() -> None:
    output = (
        "Loading a\n"
        "Lmod has detected the following error: no b\n"
        "  see module spider\n"
        "hpc-dl: module load failed; see modules in the site file: b/1 x\n"
        "some warning\n"
        'hpc-dl-python {"executable": "/p", "failed": {"tensorflow": "E: x"}, "gpus": ["Tesla K80"]}\n'
    )
    assert read_here(output) == Here(
        {"b/1 x": "Lmod has detected the following error: no b"}, Python("/p", {"tensorflow": "E: x"}, ("Tesla K80",))
    )
    assert read_here("bash: /no/python: No such file\n") == Here({}, None, "bash: /no/python: No such file")


def test_a_real_shell_tells_modules_that_load_from_others(tmp_path: Path) -> None:
    init = tmp_path / "init it's.sh"
    init.write_text('module() { case $2 in "good 1") export GOOD=1;; *) echo "no $2" >&2; return 1;; esac; }\n')
    (tmp_path / "own.sh").write_text("#!/bin/sh\n")
    site = msgspec.structs.replace(
        SITE,
        module_init=str(init),
        before_modules=('export B=$HOME/"it\'s"', "echo \"no 'disk'\" >&2; (exit 3)", "echo never reached >&2"),
        modules=("good 1", "bad $(touch x)", "worse"),
        env={"A": "it's"},
    )
    here = ask_here(plan(site, script=str(tmp_path / "own.sh")))
    assert here.failed_lines == {"before_modules: echo \"no 'disk'\" >&2; (exit 3)": "no 'disk'"}
    assert here.failed_modules == {"bad $(touch x)": "no bad $(touch x)", "worse": "no worse"}
    assert here.python is not None
    assert here.python.failed == {}
    gone = ask_here(plan(msgspec.structs.replace(site, python="/no/python"), script=str(tmp_path / "own.sh")))
    assert gone.python is None
    assert "/no/python: No such file" in gone.said


def test_lines_are_tried_in_the_environment_that_the_job_will_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_SHELL", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.sh").write_text("#!/bin/sh\n")
    lines = ('[ -n "$OF_THE_SHELL" ]',)
    site = msgspec.structs.replace(SITE, before_modules=lines)
    assert ask_here(plan(site, script=str(tmp_path / "own.sh"))).failed_lines == {}
    clean = msgspec.structs.replace(site, clean_environment=True)
    found = ask_here(plan(clean, script=str(tmp_path / "own.sh")))
    assert list(found.failed_lines) == [f"before_modules: {lines[0]}"]
    assert found.python is not None


def test_folders_are_tried_and_left_as_they_were(tmp_path: Path) -> None:
    assert look_at(tmp_path / "a" / "b").problem == ""
    assert look_at(tmp_path).free > 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert look_at(tmp_path / "file").problem == f"{tmp_path}/file: Not a directory"
    assert look_at(Path("/proc/none/runs")).problem.startswith("/proc: ")


def test_scripts_that_can_not_be_run(tmp_path: Path) -> None:
    script = tmp_path / "own"
    script.write_text("echo")
    assert _problem_of_script(script) == f"it is not executable: chmod +x {script}"
    script.chmod(0o755)
    assert _problem_of_script(script) == "its first line names no interpreter, such as #!/bin/bash"
    script.write_text("#!/bin/sh\n")
    assert _problem_of_script(script) == ""
    assert _problem_of_script(tmp_path / "none.py") == "it can't be read"


def answer(**changes: Any) -> NodeAnswer:
    good = NodeAnswer(
        "n1",
        Python("/py", {}, ("Tesla K80",) * 4),
        "",
        ("0", "1", "2", "3"),
        Folder("/r"),
        Folder("/tmp"),
        "",
        Address("n1", "n1-ib0", 20000),
        (Call("n2", "n2-ib0:20000", ahead=0.1, took=0.2),),
    )
    return msgspec.structs.replace(good, **changes)


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (
            {"python": None, "said": "Illegal instruction"},
            "error: the Python of the nodes ends at once: Illegal instruction",
        ),
        (
            {"python": Python("/py", {"tensorflow": "ImportError: libcuda"})},
            "error: python = '/py': import tensorflow fails",
        ),
        ({"gpus": ("0",)}, "error: gpus = 4: visible to the job: 0; see gres"),
        ({"python": Python("/py", {})}, "error: gpus = 4: TensorFlow sees none: see nvidia-smi"),
        (
            {"python": Python("/py", {}, ("NVIDIA A100",) * 4)},
            "warning: gpu_type = 'k80': TensorFlow sees NVIDIA A100, ",
        ),
        ({"run": Folder("/r", "/r: No such file")}, "error: runs: can't be written from this node: /r: No such file; "),
        (
            {"data_problem": "/d/digits: can't be read"},
            "error: data = 'digits': /d/digits: can't be read from this node",
        ),
        (
            {"local_disk": Folder("/scratch", "there is no such folder")},
            "error: stage: local_disk = '/scratch': there is no",
        ),
        (
            {"address": Address("n1", "n1-ib0", 20000, "unknown name")},
            "error: n1-ib0:20000: can't listen there: unknown",
        ),
        (
            {"calls": (Call("n2", "n2-ib0:20000", "timed out"),)},
            "error: node n2 (n2-ib0:20000) can't be reached: timed out",
        ),
        ({"calls": (Call("n2", "x", ahead=-7.0, took=0.1),)}, "warning: the clock of node n2 differs by -7.0 s: "),
    ],
)
def test_what_a_node_says(seen: dict[str, Any], text: str) -> None:
    wanted = plan()
    assert node_findings(wanted.job, SITE, answer()) == []
    (found,) = node_findings(wanted.job, SITE, answer(**seen))
    assert str(found).startswith(f"n1: {text}")


def test_nodes_that_say_nothing_are_named_with_the_last_words_of_the_job(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "check-7")
    run.path.mkdir()
    write_whole(run.path / "n1.answer.json", msgspec.json.encode(answer()))
    (run.path / "check.log").write_text("srun: error: n2: task 1: Killed\n\n")
    wanted = plan(nodes=2, gpus=2)
    answers, found = check_nodes.read_answers(wanted, run, JobState("FAILED", "", "n[1-2]"))
    assert found == [Finding("error", "nodes n2 did not answer; job 7 ended FAILED: srun: error: n2: task 1: Killed")]
    (run.path / "n1.answer.json").unlink()
    assert answers == [answer()]
    _, (found_,) = check_nodes.read_answers(wanted, run, JobState("CANCELLED"))
    assert found_.text.startswith("2 nodes did not answer; job 7 ended CANCELLED: ")


def test_the_probes_get_no_signal_ahead_of_their_end(tmp_path: Path) -> None:
    script = check_nodes.node_script(plan(requeues=3, time="10:00:00"))
    assert "--signal" not in script
    assert "\n#SBATCH --no-requeue\n" in script
    assert "--requeue" not in script


def test_shellcheck_finds_nothing_in_the_scripts(tmp_path: Path) -> None:
    site = msgspec.structs.replace(
        SITE,
        module_init="/etc/it's",
        before_modules=("source $HOME/'my env'", "# a comment", "x=$(ls *) # it's"),
        modules=("a b", "$(touch x)"),
        after_modules=("ulimit -s unlimited || true",),
        login_shell=True,
        python="/my py",
        env={"S": "'; touch x #"},
        srun=("--opt=a b",),
    )
    wanted = plan(site, workdir=str(tmp_path / "it's $(x)"), env={"J": '"$(touch x)"'}, slurm={"comment": "a # 'b'"})
    texts = [
        here_script(wanted),
        check_nodes.node_script(wanted),
    ]
    shellcheck = Path(sys.executable).with_name("shellcheck")
    for text in texts:
        done = subprocess.run(
            [shellcheck, "--exclude=SC2016", "-"], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + text


def test_this_machine_is_the_node_where_there_is_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("")
    command = [sys.executable, "-m", "hpc_dl", "check", "--site=local", "--script=own.py", "--gpus=0", "--on-node"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Nothing is wrong with job train on site local")
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"]
