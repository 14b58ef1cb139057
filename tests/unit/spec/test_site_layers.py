"""Site files in layers: below a file lie others, and tables of partitions above them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.spec.site_files import load_site, site_file, site_layers


class Folders:
    """The user's configuration and the current folder; both come before the package's files."""

    def __init__(self, tmp_path: Path) -> None:
        self.user = tmp_path / "config" / "hpc_dl" / "sites"
        self.here = tmp_path / "here" / "env" / "sites"
        self.user.mkdir(parents=True)
        self.here.mkdir(parents=True)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    found = Folders(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path / "here")
    return found


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def refusal(name: str, **load: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_site(site_file(name), **load)
    return str(caught.value)


def test_a_few_lines_of_the_user_change_a_site_that_is_shipped(folders: Folders) -> None:
    write(folders.user, "minotauro", "slurm = { account = 'abc' }\nruns = '/scratch/abc'\n")
    site = load_site(site_file("minotauro"))
    assert (site.name, site.cores, site.gpu_type) == ("minotauro", 16, "k80")
    assert (site.slurm, site.runs) == ({"account": "abc"}, "/scratch/abc")


def test_three_files_of_one_name_are_merged_key_by_key(folders: Folders) -> None:
    write(folders.here, "minotauro", "cores = 8\nslurm = { qos = 'here', nice = 1 }\nenv = { A = '1' }\n")
    write(folders.user, "minotauro", "slurm = { qos = 'mine' }\nenv = { B = '2' }\n")
    site = load_site(site_file("minotauro"))
    assert (site.cores, site.gpus, site.interconnect_suffix) == (8, 4, "-ib0")
    assert (site.slurm, site.env) == ({"qos": "mine", "nice": 1}, {"A": "1", "B": "2"})


def test_a_list_is_replaced_as_a_whole(folders: Folders) -> None:
    write(folders.user, "minotauro", "modules = ['cuda/12']\n")
    assert load_site(site_file("minotauro")).modules == ("cuda/12",)


def test_a_base_may_have_another_name(folders: Folders) -> None:
    write(folders.user, "mine", "base = 'minotauro'\npartition = 'debug'\n")
    site = load_site(site_file("mine"))
    assert (site.name, site.partition, site.cluster) == ("mine", "debug", "minotauro")


def test_a_base_may_be_a_file_beside_this_one(folders: Folders) -> None:
    write(folders.user, "common", "cores = 3\n")
    write(folders.user, "mine", "base = './common.toml'\n")
    assert load_site(site_file("mine")).cores == 3


def test_a_base_has_the_users_lines_on_it_too(folders: Folders) -> None:
    write(folders.user, "minotauro", "cores = 8\n")
    write(folders.user, "mine", "base = 'minotauro'\n")
    site = load_site(site_file("mine"))
    assert (site.cores, site.gpus) == (8, 4)


def test_an_empty_base_keeps_a_file_apart_from_a_shipped_one_of_its_name(folders: Folders) -> None:
    write(folders.user, "minotauro", "base = ''\ncores = 8\n")
    site = load_site(site_file("minotauro"))
    assert (site.cores, site.gpus, site.modules) == (8, 0, ())


def test_a_file_given_by_its_path_stands_alone(folders: Folders, tmp_path: Path) -> None:
    path = write(tmp_path, "minotauro", "cores = 8\n")
    assert load_site(site_file(str(path))).gpus == 0


def test_its_own_name_as_base_is_the_file_in_a_later_folder(folders: Folders) -> None:
    write(folders.user, "minotauro", "base = 'minotauro'\ncores = 8\n")
    assert load_site(site_file("minotauro")).gpus == 4


@pytest.mark.parametrize("length", [2, 3, 7])
def test_bases_in_a_circle_are_an_error_with_the_line(folders: Folders, length: int) -> None:
    for number in range(length):
        write(folders.user, f"s{number}", f"cores = 1\nbase = 's{(number + 1) % length}'\n")
    first, last = folders.user / "s0.toml", folders.user / f"s{length - 1}.toml"
    assert refusal("s0") == f"{last}, line 2: base = 's0': {first} leads back to {last}"


def test_a_circle_through_the_same_name_is_an_error_too(folders: Folders) -> None:
    write(folders.here, "a", "cores = 1\nbase = 'b'\n")
    write(folders.user, "b", "base = 'a'\n")
    assert f"{folders.here / 'a.toml'}, line 2: base = 'b': " in refusal("b")


def test_an_unknown_base_shows_the_nearest(folders: Folders) -> None:
    path = write(folders.user, "mine", "base = 'minotaur'\n")
    text = refusal("mine")
    assert text.startswith(f"{path}, line 1: base = 'minotaur': unknown site 'minotaur' (did you mean 'minotauro'?)")


@pytest.mark.parametrize("base", ["./none.toml", "a\\u0000/", "x" * 300 + ".toml"])
def test_a_base_that_is_no_file_is_an_error_with_the_line(folders: Folders, base: str) -> None:
    path = write(folders.user, "mine", f'cores = 1\nbase = "{base}"\n')
    assert re.match(rf"{path}, line 2: base = .*no such file$", refusal("mine"))


def test_a_base_that_is_no_text_is_an_error_with_the_line(folders: Folders) -> None:
    path = write(folders.user, "mine", "cores = 1\nbase = 3\n")
    assert refusal("mine") == f"{path}, line 2: base = 3: expected str, got int"


def test_a_mistake_in_a_file_below_names_that_file(folders: Folders) -> None:
    below = write(folders.here, "mine", "cores = 0\n")
    write(folders.user, "mine", "gpus = 1\n")
    assert refusal("mine") == f"{below}, line 1: cores = 0: expected int >= 1"


TABLES = """
cores = 40
gpus = 4
modules = ["tf"]
env = { A = "site", B = "site" }

[partitions.a100]
cores = 64
gpus = 8
modules = ["arch/a100", "tf"]
slurm = { account = "abc@a100", constraint = "a100" }
env.A = "table"

[partitions.h100]
gpu_type = "h100"
"""


def test_a_table_of_the_jobs_partition_replaces_the_sites_keys(folders: Folders) -> None:
    write(folders.user, "jz", TABLES)
    site = load_site(site_file("jz"), "a100")
    assert (site.cores, site.gpus, site.modules) == (64, 8, ("arch/a100", "tf"))
    assert site.slurm == {"account": "abc@a100", "constraint": "a100"}
    assert site.env == {"A": "table", "B": "site"}
    assert load_site(site_file("jz"), "h100").gpu_type == "h100"
    for other in ("", "v100"):
        assert load_site(site_file("jz"), other).cores == 40


def test_the_table_of_the_default_partition_counts_without_a_choice(folders: Folders) -> None:
    write(folders.user, "jz", "partition = 'a100'\n" + TABLES)
    assert load_site(site_file("jz")).cores == 64
    assert load_site(site_file("jz"), "h100").cores == 40


def test_several_partitions_at_once_must_agree(folders: Folders) -> None:
    write(folders.user, "jz", TABLES + "[partitions.h100-2]\ngpu_type = 'h100'\n")
    assert load_site(site_file("jz"), "h100,h100-2").gpu_type == "h100"
    assert "'a100,h100': site 'jz' says of each something else" in refusal("jz", in_partition="a100,h100")
    assert "'h100,other': site 'jz' says of each something else" in refusal("jz", in_partition="h100,other")
    assert load_site(site_file("jz"), "one,two").cores == 40


def test_a_table_may_have_a_pattern_as_its_name(folders: Folders) -> None:
    tables = "[partitions.'gpu*']\ncores = 2\n[partitions.gpu-x]\ncores = 3\n[partitions.'*-x']\ncores = 4\ngpus = 4\n"
    write(folders.user, "mine", f"cores = 1\n{tables}")
    found = {name: load_site(site_file("mine"), name) for name in ("gpu", "gpu-x", "cpu-x", "cpu", "gpu,gpu-y")}
    assert {name: site.cores for name, site in found.items()} == {
        "gpu": 2,
        "gpu-x": 3,
        "cpu-x": 4,
        "cpu": 1,
        "gpu,gpu-y": 2,
    }
    assert found["gpu-x"].gpus == 4, "all tables that fit are merged, its own last"


def test_the_users_lines_lie_over_a_shipped_table_of_the_same_partition(folders: Folders) -> None:
    write(folders.here, "jz", TABLES)
    write(folders.user, "jz", "cores = 1\n[partitions.a100.slurm]\naccount = 'xyz@a100'\n")
    site = load_site(site_file("jz"), "a100")
    assert site.slurm == {"account": "xyz@a100", "constraint": "a100"}
    assert site.cores == 64, "the shipped table says more of its partition than the user's line on the whole site"
    assert load_site(site_file("jz")).cores == 1


def test_the_users_table_needs_no_shipped_one(folders: Folders) -> None:
    write(folders.user, "minotauro", "[partitions.debug]\nslurm = { qos = 'debug' }\n")
    assert load_site(site_file("minotauro"), "debug").slurm == {"qos": "debug"}
    assert load_site(site_file("minotauro")).slurm == {}


def test_a_keyword_replaces_what_a_table_says(folders: Folders) -> None:
    write(folders.user, "jz", TABLES)
    assert load_site(site_file("jz"), "a100", cores=7).cores == 7


@pytest.mark.parametrize("key", ["name", "base", "scheduler", "cluster", "clusters", "slurm_conf", "partition"])
def test_a_key_by_which_a_site_is_found_cant_stand_in_a_table(folders: Folders, key: str) -> None:
    path = write(folders.user, "mine", f"cores = 1\n[partitions.gpu]\ngpus = 1\n{key} = 'x'\n")
    reason = f"{key} is the same in all partitions: it can't stand in [partitions.gpu]"
    assert refusal("mine") == f"{path}, line 4: {reason}"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[partitions.gpu]\ncorse = 1", 3, "unknown site key 'corse' (did you mean 'cores'?)"),
        ("[partitions.gpu]\n\ncores = 0", 4, "cores = 0: expected int >= 1"),
        ("[partitions.gpu]\ngpu_request = 'gpu-per-node'", 3, "(did you mean 'gpus-per-node'?)"),
        ("[partitions.gpu]\nports = [3000, 2000]", 3, "the first is above the last"),
        ("[partitions.gpu]\nslurm = { nodes = 1 }", 3, "'nodes' has the job key 'nodes' in its place"),
        ("[partitions.gpu.slurm]\nqos = 'a'\nnodes = 1", 4, "'nodes' has the job key 'nodes' in its place"),
        ("[partitions.gpu.env]\nRUN_TOKEN = 'x'", 3, "'RUN_TOKEN' looks like a secret"),
        ("[partitions]\ngpu = { cores = 0 }", 3, "cores = 0: expected int >= 1"),
        ("partitions.gpu.cores = 0", 2, "cores = 0: expected int >= 1"),
        ("partitions = { gpu = { cores = 0 } }", 2, "cores = 0: expected int >= 1"),
        ("[partitions.'gpu 2']\ncores = 0", 3, "cores = 0: expected int >= 1"),
        ('[partitions."a.b"]\ncores = 0', 3, "cores = 0: expected int >= 1"),
        ("[partitions.gpu.partitions.x]\ncores = 2", 2, "partitions is the same in all partitions"),
        ("partitions = 3", 2, "expected object, got int"),
        ("partitions = { gpu = 3 }", 2, "expected object, got int"),
        ("[partition.gpu]\ncores = 2", 2, "partition is the name of one; tables are called [partitions.gpu]"),
        ("[partitions.'gpu*']\ncores = 0", 3, "cores = 0: expected int >= 1"),
    ],
)
def test_a_mistake_in_a_table_names_file_and_line_whatever_the_jobs_partition(
    folders: Folders, text: str, line: int, message: str
) -> None:
    path = write(folders.user, "mine", f"cores = 1\n{text}\n")
    for partition in ("", "gpu", "other"):
        said = refusal("mine", in_partition=partition)
        assert said.startswith(f"{path}, line {line}: ")
        assert message in said


def test_folders_may_have_variables_of_the_shell_that_submits(folders: Folders) -> None:
    write(folders.user, "mine", "cores = 1\nruns = '$SCRATCH/${PROJECT}_x/$$5'\ncontainer = ['run', '$IMAGE']\n")
    environ = {"SCRATCH": "/scratch/me", "PROJECT": "p1", "IMAGE": "/img/$HOME.sif"}
    site = load_site(site_file("mine"), environ=environ)
    assert (site.runs, site.container) == ("/scratch/me/p1_x/$5", ("run", "/img/$HOME.sif"))
    assert load_site(site_file("mine")).runs == "$SCRATCH/${PROJECT}_x/$$5", "as in the file where nobody submits"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("runs = '$SCRTCH/x'", 2, "runs = '$SCRTCH/x': $SCRTCH is not set where you submit (did you mean 'SCRATCH'?)"),
        ("data = '/d/${WROK}'", 2, "data = '/d/${WROK}': $WROK is not set where you submit (did you mean 'WORK'?)"),
        ("runs = '/a$'", 2, "runs = '/a$': a $ without a name"),
        ("runs = '${a b}'", 2, "runs = '${a b}': a $ without a name"),
        ("container = ['x', '$ABC']", 2, "container = '$ABC': $ABC is not set where you submit"),
        ("[partitions.gpu]\nruns = '$GPU_RUNS'", 3, "runs = '$GPU_RUNS': $GPU_RUNS is not set where you submit"),
    ],
)
def test_a_variable_that_is_not_set_is_an_error_with_the_line(
    folders: Folders, text: str, line: int, reason: str
) -> None:
    path = write(folders.user, "mine", f"cores = 1\n{text}\n")
    said = refusal("mine", in_partition="gpu", environ={"SCRATCH": "/s", "WORK": "/w"})
    assert said == f"{path}, line {line}: {reason}; $$ stands for a $"


def test_an_unset_variable_in_another_partitions_table_does_no_harm(folders: Folders) -> None:
    write(folders.user, "mine", "cores = 1\n[partitions.gpu]\nruns = '$GPU_RUNS'\n")
    assert load_site(site_file("mine"), environ={}).runs == "runs"


KEYS = st.fixed_dictionaries(
    {},
    optional={
        "cores": st.integers(1, 99),
        "gpus": st.integers(0, 9),
        "modules": st.lists(st.sampled_from("ab")),
        "slurm": st.dictionaries(st.sampled_from(["qos", "account", "nice"]), st.integers(0, 9)),
        "env": st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from("xy")),
    },
)
FILES = st.lists(
    st.tuples(KEYS, st.dictionaries(st.sampled_from(["p1", "p2"]), KEYS, max_size=2)), min_size=1, max_size=4
)


def laid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """What one settings over another are, said in the plainest way."""
    tables: dict[str, Any] = {key: {**below.get(key, {}), **above[key]} for key in ("slurm", "env") if key in above}
    return {**below, **above, **tables}


@given(files=FILES, partition=st.sampled_from(["", "p1", "p2", "p3"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_lie_over_each_other_and_tables_over_all_files(
    folders: Folders, files: list[tuple[dict[str, Any], dict[str, Any]]], partition: str
) -> None:
    wanted: dict[str, Any] = {"cores": 1}
    for number, (keys, tables) in enumerate(files):
        base = f"f{number - 1}" if number else ""
        text = tomli_w.dumps({**({} if number else {"cores": 1}), **keys, "base": base, "partitions": tables})
        write(folders.user, f"f{number}", text)
        wanted = laid(wanted, keys)
    for _, tables in files:
        wanted = laid(wanted, tables.get(partition, {}))
    site = load_site(site_file(f"f{len(files) - 1}"), partition)
    found = {key: getattr(site, key) for key in wanted}
    assert found == {key: tuple(value) if isinstance(value, list) else value for key, value in wanted.items()}


@given(names=st.lists(st.sampled_from("abcd"), min_size=4, max_size=4))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bases_end_in_layers_or_in_a_user_error(folders: Folders, names: list[str]) -> None:
    for name, base in zip("abcd", names, strict=True):
        write(folders.user, name, f"cores = 1\nbase = '{base}'\n")
    try:
        layers = site_layers(site_file("a"))
    except UserError as error:
        assert "leads back to" in str(error)  # noqa: PT017 - both outcomes are right
    else:
        files = [layer.file for layer in layers if layer.file]
        assert len(files) == len(set(files))
        assert files[-1] == os.fspath(folders.user / "a.toml")
