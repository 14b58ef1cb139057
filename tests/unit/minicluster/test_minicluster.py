"""The private cluster as far as it needs no Slurm: configuration, rendering, where things are.

After a change of the templates: RENEW_GOLDEN=1 pytest tests/unit/minicluster/test_minicluster.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.cli.main import main
from hpc_dl.errors import UserError
from hpc_dl.minicluster import MiniCluster, programs, root
from hpc_dl.minicluster import config as conf
from hpc_dl.minicluster.accounting import Accounting
from hpc_dl.minicluster.config import ClusterConfig, NodeGroup, Partition, Place, render
from hpc_dl.minicluster.daemons import last_words

GOLDEN = Path(__file__).parents[2] / "golden" / "minicluster"


def place(config: ClusterConfig, **changes: Any) -> Place:
    ports = {name: 10002 + i for i, name in enumerate(config.names)}
    fields: dict[str, Any] = {"root": Path("/tmp/hd"), "user": "1000", "version": (22, 5)}
    return Place(**{**fields, "controller_port": 10001, "node_ports": ports, **changes})


MIXED = ClusterConfig(
    groups=(NodeGroup("nvb", 3), NodeGroup("cpu", 1, cpus=8, gpus=0, memory_mb=8000)),
    partitions=(Partition("gpu", "nvb[1-3]", "1-00:00:00"), Partition("all")),
    extra=("KillWait=30", "PartitionName=low Nodes=ALL PriorityTier=1"),
)


@pytest.mark.parametrize(
    ("name", "config", "changes"),
    [
        ("default", ClusterConfig(), {}),
        ("accounting", ClusterConfig(accounting=True), {"user_name": "ada", "accounting_port": 10000}),
        ("mixed", MIXED, {"plugin_dir": Path("/home/ada/my slurm/lib/slurm-wlm")}),
    ],
)
def test_rendered_files_are_as_agreed(
    name: str, config: ClusterConfig, changes: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    texts = render(config, place(config, **changes))
    assert set(texts) == {*conf.FILES, *([conf.ACCOUNTING_FILE] if config.accounting else [])}
    for file, text in texts.items():
        golden = GOLDEN / f"{name}.{file}"
        if request.config.getoption("--renew-golden"):
            golden.write_text(text)
        assert text == golden.read_text()


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ((20, 11), []),
        ((21, 8), ["cgroup/v1"]),
        ((23, 11), ["cgroup/v1"]),
        ((24, 5), ["disabled"]),
        ((25, 11), ["disabled"]),
    ],
)
def test_no_slurm_looks_for_cgroups(version: tuple[int, int], says: list[str]) -> None:
    text = render(ClusterConfig(), place(ClusterConfig(), version=version))["cgroup.conf"]
    assert re.findall("^CgroupPlugin=(.*)$", text, re.MULTILINE) == says


def test_an_extra_line_replaces_ours() -> None:
    text = render(MIXED, place(MIXED))["slurm.conf"]
    assert text.count("KillWait=") == 1
    assert "KillWait=30\n" in text
    assert text.count("PartitionName=") == 3


def test_values_with_blanks_are_quoted() -> None:
    assert conf.conf_value("/opt/my slurm") == '"/opt/my slurm"'
    assert conf.conf_value("1-00:00:00") == "1-00:00:00"


@pytest.mark.parametrize("value", ["a\nSlurmUser=root", "a # b", 'a"b', "a\\b", "", "a;b", "é"])
def test_values_that_slurm_conf_cannot_hold_are_refused(value: str) -> None:
    with pytest.raises(UserError, match="can't be written to slurm"):
        conf.conf_value(value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NodeGroup(count=0), "0 nodes 'mini'"),
        (lambda: NodeGroup(count=-1), "-1 nodes 'mini'"),
        (lambda: NodeGroup(cpus=0), "0 CPUs"),
        (lambda: NodeGroup(gpus=-1), "-1 GPUs"),
        (lambda: NodeGroup(memory_mb=3), "too little memory"),
        (lambda: NodeGroup(prefix="a b"), "node prefix 'a b'"),
        (lambda: NodeGroup(prefix="a\n"), "node prefix"),
        (lambda: NodeGroup(gpu_type="k80:2"), "GPU type 'k80:2'"),
        (lambda: Partition("main\nSlurmUser=root"), "partition"),
        (lambda: ClusterConfig(groups=()), "no nodes"),
        (lambda: ClusterConfig(partitions=()), "no partition"),
        (lambda: ClusterConfig(groups=(NodeGroup(), NodeGroup(gpus=0))), "node mini1, mini2: more than one"),
        (lambda: ClusterConfig(partitions=(Partition("a"), Partition("a"))), "partition a: more than one"),
        (lambda: ClusterConfig(extra=("KillWait",)), "extra line 'KillWait'"),
        (lambda: ClusterConfig(extra=("KillWait=1\nB=2",)), "KEY=value on one line"),
    ],
)
def test_bad_configurations_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("path", ["/tmp/a b", "/tmp/a#b", "/tmp/a%n", "/tmp/a,b", "/tmp/ä", "/tmp/" + "x" * 70])
def test_roots_that_slurm_cannot_use_are_refused(path: str) -> None:
    config = ClusterConfig()
    with pytest.raises(UserError, match="HPC_DL_CLUSTER_DIR"):
        render(config, place(config, root=Path(path)))


def test_the_longest_root_leaves_room_for_the_sockets() -> None:
    lengths = [n for n in range(1, 108) if not root.root_problem(Path("/" + "x" * n), 5)]
    longest = f"/{'x' * max(lengths)}/spool/mini1/stepd.slurm.pmix.99999.99"
    assert max(lengths) > 60
    assert len(longest) == 107


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(root.FOLDER_VARIABLE, raising=False)
    monkeypatch.chdir("/tmp")
    assert root.default_root() == Path("/tmp/.cache/minicluster")
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.chdir(long)
    first = root.default_root()
    assert not root.root_problem(first)
    assert str(os.getuid()) in first.name
    other = tmp_path / "a b"
    other.mkdir()
    monkeypatch.chdir(other)
    assert root.default_root() not in (first, other / ".cache/minicluster")
    monkeypatch.setenv(root.FOLDER_VARIABLE, "/tmp/mine")
    assert root.default_root() == Path("/tmp/mine")


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other things"):
        root.make_root(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    (tmp_path / "tmp").mkdir()
    assert not MiniCluster(tmp_path).stop()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex", "tmp"]


def test_a_root_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(UserError, match="not a folder of this user"):
        root.make_root(tmp_path / "link")


def test_a_root_that_cannot_be_made_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Not a directory"):
        root.make_root(tmp_path / "file" / "root")


@pytest.mark.parametrize("trap", ["link to the folder", "folder that others may write", "link to a lock", "no file"])
def test_a_folder_that_another_user_may_have_made_is_no_cluster(tmp_path: Path, trap: str) -> None:
    """Else another user names the programs that this one runs, and the process that `stop` ends."""
    made = tmp_path / "root"
    made.mkdir(mode=0o700)
    file = root.lock(made)
    assert file is not None
    os.write(file, b"4711")
    (made / "cluster.json").write_text("{}")
    assert root.running(made)
    if trap == "link to the folder":
        (tmp_path / "link").symlink_to(made)
        made = tmp_path / "link"
    elif trap == "folder that others may write":
        made.chmod(0o777)
    else:
        (made / "lock").rename(tmp_path / "lock")
        (made / "lock").mkdir() if trap == "no file" else (made / "lock").symlink_to(tmp_path / "lock")
    assert root.running(made) is None
    assert root.supervisor_pid(made) is None
    os.close(file)


def test_running_means_that_the_lock_is_held(tmp_path: Path) -> None:
    assert root.running(tmp_path) is None
    (tmp_path / "cluster.json").write_text("{}")
    file = root.lock(tmp_path)
    assert file is not None
    assert root.supervisor_pid(tmp_path) == 0
    assert root.running(tmp_path) is None  # it starts
    os.write(file, b"4711")
    assert root.running(tmp_path) == tmp_path / "slurm.conf"
    assert root.lock(tmp_path) is None
    os.close(file)
    assert root.running(tmp_path) is None
    assert (tmp_path / "lock").read_text() == "4711"


def test_asking_what_runs_imports_little() -> None:
    code = "import sys, hpc_dl.minicluster as m; m.running(); print({'jinja2', 'subprocess'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_the_command_imports_only_click() -> None:
    code = "import sys, click; old = set(sys.modules); import hpc_dl.cli.cluster; print(sorted(set(sys.modules) - old))"
    new = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert new == "['hpc_dl', 'hpc_dl.cli', 'hpc_dl.cli.cluster']\n"


@pytest.mark.parametrize("conf", ["", "own", "/site/slurm.conf"])
def test_who_starts_it_is_told_which_slurm_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], conf: str
) -> None:
    monkeypatch.setenv(root.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(MiniCluster, "is_up", lambda _: True)
    monkeypatch.delenv("SLURM_CONF", raising=False)
    if conf:
        monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf") if conf == "own" else conf)
    with pytest.raises(SystemExit):
        main(["cluster", "start"])
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith(f'in this shell: eval "$({sys.executable} -m hpc_dl cluster env)"')
    other = conf.startswith("/")
    assert said.startswith(
        "SLURM_CONF=/site/slurm.conf is set, and names the Slurm" if other else "`make submit` uses it"
    )


def fake_slurm(prefix: Path, folder: str = "sbin", plugins: str = "lib/slurm") -> None:
    for name in programs.COMMANDS:
        file = prefix / folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o755)
    (prefix / plugins).mkdir(parents=True)
    (prefix / plugins / "auth_none.so").touch()


def test_a_named_prefix_is_the_only_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(programs.PREFIX_VARIABLE, str(tmp_path))
    with pytest.raises(
        UserError, match=r"slurmctld, slurmd, srun.* not found in HPC_DL_SLURM_PREFIX=.*cluster install"
    ):
        programs.find_programs()
    fake_slurm(tmp_path)
    found = programs.find_programs()
    assert found.find("slurmctld") == str(tmp_path / "sbin/slurmctld")
    assert found.find("ls") is None
    assert found.plugin_dir == tmp_path / "lib/slurm"


def test_the_unpacked_copy_comes_after_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(programs.PREFIX_VARIABLE, raising=False)
    monkeypatch.setattr(programs, "_SYSTEM_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path / "system/bin"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"not found in PATH and .*/.cache/slurm; `hpc-dl cluster install` gets a copy"):
        programs.find_programs()
    fake_slurm(tmp_path / ".cache/slurm", "usr/sbin", "usr/lib/x86_64-linux-gnu/slurm-wlm")
    found = programs.find_programs()
    assert found.prefix == tmp_path / ".cache/slurm"
    env = found.environment({"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/opt/cuda"})
    assert env["PATH"].split(":")[-2:] == [str(tmp_path / ".cache/slurm/usr/sbin"), "/usr/bin"]
    # Its programs know their libraries: jobs must not get them too.
    assert env["LD_LIBRARY_PATH"] == "/opt/cuda"
    fake_slurm(tmp_path / "system", "bin")
    assert programs.find_programs().prefix is None


def test_the_systems_folders_do_not_hide_the_users(tmp_path: Path) -> None:
    env = programs.Programs().environment({"PATH": "/home/ada/bin"})
    assert env["PATH"].startswith("/home/ada/bin:")


def test_a_version_has_a_copy_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(programs.PREFIX_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"not found in .*/.cache/slurm-24.11; `hpc-dl cluster install --version 24.11`"
    ):
        programs.find_programs("24.11")
    fake_slurm(tmp_path / ".cache/slurm-24.11", "usr/sbin")
    assert programs.find_programs("24.11").prefix == tmp_path / ".cache/slurm-24.11"
    with pytest.raises(UserError, match=r"Slurm 24.1: unknown version \(did you mean '24.11'\?\); known are '20.11', "):
        programs.find_programs("24.1")


def test_a_cluster_with_accounting_needs_more_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(programs.PREFIX_VARIABLE, str(tmp_path / "slurm"))
    fake_slurm(tmp_path / "slurm", "usr/sbin", "usr/lib/x86_64-linux-gnu/slurm-wlm")
    assert programs.find_programs().prefix == tmp_path / "slurm"
    (tmp_path / "slurm/usr/sbin/mariadbd").touch(mode=0o755)
    with pytest.raises(UserError, match=r"slurmdbd not found in HPC_DL_SLURM_PREFIX=.*`hpc-dl cluster install`"):
        programs.find_programs(accounting=True)
    (tmp_path / "slurm/usr/sbin/slurmdbd").touch(mode=0o755)
    found = programs.find_programs(accounting=True)
    database, slurmdbd = Accounting(tmp_path / "root", found, "ada").daemons(10000)
    assert database["command"][:2] == ["env", f"MYSQL_UNIX_PORT={tmp_path}/root/db/socket"]
    # Nobody but the user reaches the database: it has no port, and its socket is in a private folder.
    assert {"--skip-networking", "--skip-ssl"} < {*database["command"]}
    assert (slurmdbd["port"], slurmdbd["command"][-2:]) == (10000, [str(tmp_path / "slurm/usr/sbin/slurmdbd"), "-D"])


def test_what_is_no_part_of_slurm_may_be_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(programs.PREFIX_VARIABLE, str(tmp_path / "own"))
    monkeypatch.setenv("PATH", str(tmp_path / "system"))
    monkeypatch.setattr(programs, "_SYSTEM_FOLDERS", ())
    fake_slurm(tmp_path / "own")
    (tmp_path / "own/sbin/munged").unlink()
    with pytest.raises(UserError, match="not here: munged not found"):
        programs.find_programs()
    fake_slurm(tmp_path / "system", ".")
    assert programs.find_programs().find("munged") == str(tmp_path / "system/munged")
    (tmp_path / "own/sbin/slurmctld").unlink()
    with pytest.raises(UserError, match="not here: slurmctld not found"):
        programs.find_programs()


def test_the_last_words_are_the_fatal_ones(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("[12:00] fatal: no such user\n[12:01] error: later\n")
    assert last_words(tmp_path) == "no such user"
    (tmp_path / "a.log").write_text("[12:00] error: one\n[12:01] error: two\n")
    assert last_words(tmp_path) == "two"
    assert last_words(tmp_path / "nowhere") == ""
