"""Site files of centres, shipped and not: their jobs, word for word, and what the centres' pages ask of a script.

After a change of a template or a site, look at the difference and renew: pytest tests/unit --renew-golden
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_dl.planning import preview
from hpc_dl.planning.plan import make_plan
from hpc_dl.shipped_files import share
from hpc_dl.spec.cores import cores_in
from hpc_dl.spec.layers import Layer, read_toml
from hpc_dl.spec.nodelist import expand
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import load_site, site_file
from hpc_dl.tasks.submit import Request, script
from tests.unit.planning.test_golden import neutral

GOLDEN = Path(__file__).parents[2] / "golden" / "sites"
SHIPPED = share() / "env" / "sites"
# Those that are no centres, or whose files stand in the other golden files.
OWN = {"local", "minicluster", "minotauro"}
CENTRES = sorted(path.stem for path in SHIPPED.glob("*.toml") if path.stem not in OWN)
# Of the tables of partitions, those that say something of their own.
CASES = [
    *CENTRES,
    "lumi.small-g",
    "mahti.gpusmall",
    "snellius.gpu_h100",
    "jean-zay.gpu_p2",
    "jean-zay.gpu_p5",
    "jean-zay.gpu_p6",
    "lonestar6.gpu-h100",
    "delta.gpuA100x8",
    "delta.gpuH200x8",
    "delta.gpuMI100x8",
    "hortense.gpu_rome_a100_80",
]
NOT_SHIPPED = Path(__file__).parents[2] / "sites"


def site_of(case: str) -> tuple[Path, Site]:
    name, _, partition = case.partition(".")
    path = next(path for folder in (SHIPPED, NOT_SHIPPED) if (path := folder / f"{name}.toml").is_file())
    return path, load_site(path, partition)


def rendered(case: str, folder: Path, mode: str = "async") -> dict[str, str]:
    """Return the job script, the task file of two nodes, and the script of a job for a task file."""
    path, site = site_of(case)
    partition = case.partition(".")[2]
    settings = {"nodes": 2, "mode": mode, "workdir": str(folder), **({"partition": partition} if partition else {})}
    plan = make_plan("train", site, path, [Layer(settings, "test")])
    files = preview.files(plan, plan.placement())
    tasks = script(folder / "tasks.txt", Request(nodes=2, partition=partition), site, [])
    return {"job.sh": files["job.sh"], "tasks.txt": files["tasks.txt"], "tasks.sh": tasks}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_files_are_as_agreed(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = GOLDEN / case
    texts = {name: neutral(text, tmp_path) for name, text in rendered(case, tmp_path).items()}
    if request.config.getoption("--renew-golden"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    agreed = {path.name: path.read_text() for path in folder.glob("*")}
    assert texts == agreed, "if this is wanted: pytest tests/unit --renew-golden"


def test_no_golden_files_are_left_over() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(CASES)


@pytest.mark.parametrize("name", CENTRES)
def test_a_shipped_site_names_its_sources_and_what_was_not_checked(name: str) -> None:
    path, site = site_of(name)
    head = path.read_text().partition("\ndescription")[0]
    assert re.match(r"# Sources?, read in \w+ 20\d\d: ", head)
    assert "# Not checked without an account: " in head
    assert (
        f"# Yours, in ~/.config/hpc_dl/sites/{name}.toml" in head or "with base = " in head or "# Your account" in head
    )
    assert site.gpus
    assert site.description
    assert "account" not in site.slurm, "it is the user's own"


@pytest.mark.parametrize("name", CENTRES)
def test_each_value_of_a_shipped_site_and_its_tables_differs_from_the_default(name: str) -> None:
    path, _ = site_of(name)
    values = read_toml(path).values
    usual = Site(cores=0)
    assert [key for key, value in values.items() if value == getattr(usual, key)] == []
    tables = values.get("partitions", {})
    same = [(table, key) for table, keys in tables.items() for key, value in keys.items() if values.get(key) == value]
    assert same == []


def test_sites_chosen_by_themselves_are_told_apart() -> None:
    sites = [site_of(name)[1] for name in CENTRES]
    clusters = [site.cluster for site in sites if site.cluster]
    assert len(clusters) == len(set(clusters))
    patterns = [pattern for site in sites for pattern in site.login_nodes]
    assert len(patterns) == len(set(patterns))
    assert not {"*", "login*", "login*.*"} & set(patterns)


def test_the_account_follows_the_kind_of_gpu_as_the_comment_of_the_file_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = re.findall(r"^#     (.*)$", (SHIPPED / "jean-zay.toml").read_text(), re.MULTILINE)
    own = tmp_path / "hpc_dl" / "sites" / "jean-zay.toml"
    own.parent.mkdir(parents=True)
    own.write_text("\n".join(shown))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    wanted = {"": "abc@v100", "gpu_p2": "abc@v100", "gpu_p5": "abc@a100", "gpu_p6": "abc@h100"}
    for partition, account in wanted.items():
        site = load_site(site_file("jean-zay"), partition)
        assert (site.slurm["account"], site.slurm["hint"]) == (account, "nomultithread")
    assert site.before_modules == ("module purge", "module load arch/h100")


def options(text: str) -> dict[str, str]:
    """Return the sbatch options of a script."""
    lines = [shlex.split(line)[1] for line in text.splitlines() if line.startswith("#SBATCH ")]
    return dict(line.removeprefix("--").partition("=")[::2] for line in lines)


# What the pages of the centres show, for two whole nodes. None: the option must not be there.
DOCUMENTED: dict[str, dict[str, str | None]] = {
    "marenostrum5": {"partition": "acc", "qos": "acc_ehpc", "cpus-per-task": "80", "gres": "gpu:4", "mem": None},
    "leonardo": {"partition": "boost_usr_prod", "cpus-per-task": "32", "gres": "gpu:4"},
    "juwels-booster": {"partition": "booster", "cpus-per-task": "96", "gres": "gpu:4", "exclusive": None},
    "jupiter": {"partition": "booster", "cpus-per-task": "288", "gres": "gpu:4", "exclusive": None},
    "lumi": {"partition": "standard-g", "cpus-per-task": "56", "gpus-per-node": "8", "mem": "480G", "gres": None},
    "lumi.small-g": {"partition": "small-g", "gpus-per-node": "8", "mem-per-gpu": "60G", "mem": None},
    "mahti": {"partition": "gpumedium", "cpus-per-task": "128", "gres": "gpu:a100:4", "mem": None},
    "mahti.gpusmall": {"partition": "gpusmall", "cpus-per-task": "64", "gres": "gpu:a100:2"},
    "roihu": {"partition": "gpularge", "cpus-per-task": "288", "gres": "gpu:gh200:4", "mem": None},
    "perlmutter": {
        "partition": None,
        "constraint": "gpu",
        "qos": "regular",
        "cpus-per-task": "128",
        "gpus-per-node": "4",
        "gres": None,
    },
    "snellius": {"partition": "gpu_a100", "cpus-per-task": "72", "gpus-per-node": "4"},
    "snellius.gpu_h100": {"partition": "gpu_h100", "cpus-per-task": "64", "gpus-per-node": "4"},
    "jean-zay": {"partition": None, "cpus-per-task": "40", "gres": "gpu:4", "hint": "nomultithread", "exclusive": ""},
    "jean-zay.gpu_p2": {"partition": "gpu_p2", "cpus-per-task": "24", "gres": "gpu:8"},
    "jean-zay.gpu_p5": {"constraint": "a100", "cpus-per-task": "64", "gres": "gpu:8", "hint": "nomultithread"},
    "jean-zay.gpu_p6": {"constraint": "h100", "cpus-per-task": "96", "gres": "gpu:4", "hint": "nomultithread"},
    **{
        name: {
            "partition": partition,
            "nodes": "2",
            **dict.fromkeys(
                ("gres", "mem", "gpus-per-task", "gpus-per-node", "gpus", "export", "nodelist", "exclusive")
            ),
        }
        for name, partition in {
            "frontera": "rtx",
            "lonestar6": "gpu-a100",
            "lonestar6.gpu-h100": "gpu-h100",
            "vista": "gh",
        }.items()
    },
    "narval": {"partition": None, "gpus-per-node": "a100:4", "cpus-per-task": "48", "mem": "498G", "gres": None},
    "delta": {"partition": "gpuA100x4", "gpus-per-node": "4", "cpus-per-task": "64", "exclusive": ""},
    "delta.gpuA100x8": {"partition": "gpuA100x8", "gpus-per-node": "8", "cpus-per-task": "128"},
    "delta.gpuH200x8": {"partition": "gpuH200x8", "gpus-per-node": "8", "cpus-per-task": "96"},
    "delta.gpuMI100x8": {"partition": "gpuMI100x8", "gpus-per-node": "8", "cpus-per-task": "128"},
    "kestrel": {"partition": "gpu-h100", "gres": "gpu:h100:4", "exclusive": "", "mem": "0"},
    "google-a3mega": {"partition": "a3mega", "gpus-per-node": "8", "mem": "0", "gres": None},
    "aws-p5": {"exclusive": "", "wait-all-nodes": "1", "gres": None, "gpus-per-node": None, "partition": None},
    "della": {"gres": "gpu:2", "account": None, "partition": None},
    "taiwania2": {"partition": "gp1d", "gres": "gpu:8", "cpus-per-task": "32"},
    "hortense": {"partition": "gpu_rome_a100_40", "gpus-per-node": "4", "export": "NONE", "get-user-env": "60L"},
    "hortense.gpu_rome_a100_80": {"partition": "gpu_rome_a100_80", "gpus-per-node": "4", "export": "NONE"},
    # Centres without a shipped file: a file of a dozen keys, no template, and no line of Python.
    "kempner": {"partition": "kempner", "gpus-per-node": "4", "cpus-per-task": "64", "account": "kempner_dev"},
    "kempner.kempner_h100": {"partition": "kempner_h100", "gpus-per-node": "4", "cpus-per-task": "96"},
    "karolina": {"partition": "qgpu", "gpus-per-node": "8", "cpus-per-task": "128", "export": "NONE", "gres": None},
}


def test_every_case_is_compared_with_a_page() -> None:
    assert set(CASES) <= set(DOCUMENTED)


@pytest.mark.parametrize("case", DOCUMENTED)
def test_a_job_asks_as_the_centres_pages_do(case: str, tmp_path: Path) -> None:
    files, wanted = rendered(case, tmp_path), DOCUMENTED[case]
    for name in ("job.sh", "tasks.sh"):
        found = options(files[name])
        assert {key: found.get(key) for key in wanted} == wanted, name


def test_workers_run_on_the_cores_that_lumis_pages_give_to_each_gpu(tmp_path: Path) -> None:
    masks = "fe000000000000 fe00000000000000 fe0000 fe000000 fe fe00 fe00000000 fe0000000000"
    wanted = [{bit for bit in range(64) if int(mask, 16) >> bit & 1} for mask in masks.split()]
    lines = rendered("lumi", tmp_path)["tasks.txt"].splitlines()  # a ps takes cores of the first node
    given = re.findall(r"ROCR_VISIBLE_DEVICES=(\d) .*? taskset -c (\S+)", lines[-1].replace(":::", "\n"))
    assert [int(gpu) for gpu, _ in given] == list(range(8))
    assert [set(cores_in(cores)) for _, cores in given] == wanted


@pytest.mark.parametrize("case", DOCUMENTED)
def test_shellcheck_finds_nothing(case: str, tmp_path: Path) -> None:
    files = rendered(case, tmp_path)
    paths = [tmp_path / name for name in ("job.sh", "tasks.sh")]
    for path in paths:
        path.write_text(files[path.name])
    lines = [line for line in files["tasks.txt"].splitlines() if line and not line.startswith("#")]
    for number, line in enumerate(lines):
        paths.append(tmp_path / f"line{number}.sh")
        paths[-1].write_text(f"#!/bin/sh\n{line}\n")
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # SC2016: what stands between single quotes is for others. SC1091: files of the nodes are not here.
    done = subprocess.run([shellcheck, "--exclude=SC2016,SC1091", *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("case", DOCUMENTED)
def test_mpi_ranks_are_started_there(case: str, tmp_path: Path) -> None:
    launcher = site_of(case)[1].launcher
    assert re.search(rf"\b{launcher}\b", rendered(case, tmp_path, "horovod")["tasks.txt"])


@pytest.mark.parametrize("path", sorted(NOT_SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_a_centre_without_a_shipped_file_takes_a_few_keys_and_no_template(path: Path) -> None:
    keys = [key for key in read_toml(path).values if key not in ("description", "partitions")]
    assert 8 <= len(keys) <= 12
    assert not list(path.parent.rglob("*.j2"))
    assert expand(load_site(path).nodes)
