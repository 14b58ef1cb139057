"""`hpc-dl sites`: the list, and where each value of a site comes from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpc_dl.cli.main import main
from hpc_dl.errors import UserError
from hpc_dl.shipped_files import share
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import load_site
from hpc_dl.submission.choose_site import Choice


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's site files, on a machine without Slurm."""
    for name in ("SLURM_CONF", "SLURM_CONF_SERVER", "HPC_DL_CLUSTER_DIR", "HPC_DL_SITE", "HPC_DL_PARTITION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "hpc_dl" / "sites"
    folder.mkdir(parents=True)
    return folder


def said(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["sites", *arguments])
    out, err = capfd.readouterr()
    assert ended.value.code == code, err
    return out + err


JEAN_ZAY = """cores = 40
gpus = 4
gpu_type = "v100"
nodes = "r[1-10]i0n0"
description = "two kinds of nodes"

[partitions.gpu_p5]
cores = 64
gpus = 8
gpu_type = "a100"
nodes = "jean-zay-iam[01-52]"
slurm.constraint = "a100"
"""


def test_the_list_has_the_gpus_of_all_partitions(user: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (user / "jz.toml").write_text(JEAN_ZAY)
    (user / "any.toml").write_text("cores = 1\ngpus = 2\n")
    lines = said(capfd).splitlines()
    assert (
        f"  jz             4 x v100 (10 nodes), 8 x a100 (52 nodes); two kinds of nodes  ({user / 'jz.toml'})" in lines
    )
    assert f"  any            2 x GPU  ({user / 'any.toml'})" in lines
    assert [line[2:7] for line in lines if line.startswith("*")] == ["local"]


def test_each_value_is_shown_with_its_file_and_line(user: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own, shipped = user / "minotauro.toml", share() / "env" / "sites" / "minotauro.toml"
    own.write_text('partition = "debug"\nslurm = { account = "abc" }\n[env]\nA = "x # y"\n')
    lines = said(capfd, "show", "minotauro").splitlines()
    assert f'partition = "debug"  # {own}, line 1' in lines
    assert f'slurm.account = "abc"  # {own}, line 2' in lines
    assert f'env.A = "x # y"  # {own}, line 4' in lines
    assert f"gpus = 4  # {shipped}, line {_line(shipped, 'gpus = 4')}" in lines
    assert not any("grace" in line for line in lines)
    assert "# grace = 20  # default" in said(capfd, "show", "minotauro", "--all").splitlines()


def _line(path: Path, text: str) -> int:
    return path.read_text().splitlines().index(text) + 1


def test_the_table_of_a_partition_is_shown_in_place_of_the_sites_keys(
    user: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = user / "jz.toml"
    path.write_text(JEAN_ZAY)
    text = said(capfd, "show", "jz", "--partition", "gpu_p5")
    assert f"cores = 64  # {path}, line 8\n" in text
    assert f'slurm.constraint = "a100"  # {path}, line 12\n' in text
    assert "[partitions" not in text
    assert "no table for partition 'gpu_p6' (did you mean 'gpu_p5'?)" in said(
        capfd, "show", "jz", "--partition", "gpu_p6"
    )


@pytest.mark.parametrize("partition", ["", "gpu_p5"])
def test_what_is_shown_is_a_site_file(user: Path, capfd: pytest.CaptureFixture[str], partition: str) -> None:
    (user / "jz.toml").write_text(JEAN_ZAY + '[partitions."a b"]\nenv."A" = "1"\n')
    copy = user / "copy.toml"
    copy.write_text(said(capfd, "show", "jz", "--partition", partition, "--all"))
    site, same = load_site(user / "jz.toml", partition), load_site(copy, partition)
    assert (same.cores, same.slurm, same.nodes) == (site.cores, site.slurm, site.nodes)
    assert partition or same.partitions == site.partitions


def test_without_a_name_the_chosen_site_is_shown(user: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert re.search(r'^scheduler = "local"  # .*local\.toml, line \d+$', said(capfd, "show"), re.MULTILINE)


def test_an_unknown_name_and_a_bad_file_are_one_error(user: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "unknown site 'minotaur' (did you mean 'minotauro'?)" in said(capfd, "show", "minotaur", code=2)
    (user / "bad.toml").write_text("cores = 1\n[partitions.x]\ncorse = 2\n")
    assert f"{user / 'bad.toml'}, line 3: unknown site key 'corse'" in said(capfd, "show", "bad", code=2)


def test_a_site_without_a_file_is_shown_too(
    user: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Choice(Site(name="new", cores=8, gpus=2, slurm={"nice": 1}), user / "new.toml")
    monkeypatch.setattr("hpc_dl.submission.choose_site.choose_site", lambda *_: chosen)
    lines = said(capfd, "show").splitlines()
    assert lines == [f"{line}  # said by the scheduler" for line in ("cores = 8", "gpus = 2", "slurm.nice = 1")]


def test_the_sites_are_listed_where_none_can_be_chosen(
    user: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: str) -> Choice:
        raise UserError("Slurm is here and does not answer")

    monkeypatch.setattr("hpc_dl.submission.choose_site.choose_site", away)
    text = said(capfd)
    assert "\n  minotauro " in text
    assert text.endswith("\nnone is chosen here: Slurm is here and does not answer\n")
