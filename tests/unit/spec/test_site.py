"""Sites: files, names, values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.runfolder.folder import RunFolder, to_toml
from hpc_dl.spec.layers import Layer, build, read_toml
from hpc_dl.spec.nodelist import expand
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_checks import check
from hpc_dl.spec.site_files import load_site, site_file, site_files


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of site files."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "hpc_dl" / "sites"
    folder.mkdir(parents=True)
    return folder


def test_every_site_that_we_ship_is_valid() -> None:
    names = {"local", "minicluster", "minotauro"}
    assert names <= set(site_files())
    for name in names:
        site = load_site(site_file(name))
        assert site.name == name
        assert site.description
        assert expand(site.nodes)


def test_minotauro_is_as_in_the_2016_thesis() -> None:
    site = load_site(site_file("minotauro"))
    assert (len(expand(site.nodes)), site.cores, site.gpus, site.gpu_gres) == (39, 16, 4, "gpu:k80")
    assert site.interconnect_suffix == "-ib0"
    assert " ".join(site.modules) == "K80 cuda/7.5 mkl/2017.0.098 CUDNN/5.1.3 python/3.5.2"


def test_a_gres_without_type_has_no_colon() -> None:
    assert Site(cores=1).gpu_gres == "gpu"


def test_the_users_own_file_comes_before_ours(config: Path) -> None:
    (config / "minotauro.toml").write_text("cores = 3\n")
    assert site_file("minotauro") == config / "minotauro.toml"
    assert load_site(site_file("minotauro")).cores == 3


def test_a_site_may_be_given_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "my site.toml"
    file.write_text("cores = 2\n")
    assert load_site(site_file(str(file))).name == "my site"


def test_an_unknown_site_shows_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"unknown site 'minotaur' \(did you mean 'minotauro'\?\); known sites: .*'local'"
    ):
        site_file("minotaur")
    for name in ("none.toml", "a/b", "a\0/", "x" * 300 + ".toml"):
        with pytest.raises(UserError, match="no such file"):
            site_file(name)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("cores = 0", 1, "cores = 0: expected int >= 1"),
        ("cores = 1\n\ncorse = 1", 3, "unknown site key 'corse' (did you mean 'cores'?)"),
        ("cores = 1\nscheduler = 'slrum'", 2, "(did you mean 'slurm'?); allowed: 'local', 'slurm'"),
        ("cores = 1\nports = [5000, 4000]", 2, "ports = [5000, 4000]: the first is above the last"),
        ("cores = 1\nports = [80, 4000]", 2, "expected int >= 1024"),
        ("cores = 1\nports = [4000]", 2, "expected array of length 2"),
        ("cores = 1\nmemory_gb = inf", 2, "expected float <= "),
        ("cores = 1\nmemory_gb = nan", 2, "expected float > 0"),
        ("cores = 1\npartition = '''a\nid'''", 2, "can't stand in a line of a script"),
        ("cores = 1\n[slurm]\nqos = 'a'\n'x\\ny' = 1", 4, "is not an sbatch option"),
        ("cores = 1\n[slurm]\nnodes = 3", 3, "'nodes' has the job key 'nodes' in its place"),
        ("cores = 1\n[slurm]\nnode = 3", 3, "'node' is short for 'nodes', which has the job key 'nodes' in its place"),
        ("cores = 1\n[slurm]\narra = '1-3'", 3, "'arra' is short for 'array', which is set by hpc_dl itself"),
        ("cores = 1\n[slurm]\ntasks-per-node = 2", 3, "'tasks-per-node' is set by hpc_dl itself"),
        ("cores = 1\n[slurm]\nquiet = true", 3, "'quiet' is set by hpc_dl itself"),
        *(
            (
                f"cores = 1\n[slurm]\n{key} = 'cm2'",
                3,
                f"slurm: {key!r} moves sbatch alone to another cluster; set clusters in",
            )
            for key in ("clusters", "cluster", "M")
        ),
        ("cores = 1\ninterface = 'ib0'\naddress = '::1'", 2, "interface can't stand beside address = '::1': all nodes"),
        (
            "cores = 1\ninterconnect_suffix = 'i'\ninterface = 'ib0'",
            3,
            "interface can't stand beside interconnect_suffix = 'i': both say where a node is reached",
        ),
        ("cores = 1\nfull_names = true\naddress = '::1'", 2, "full_names can't stand beside address = '::1'"),
        ("cores = 1\nfull_names = true\ninterface = 'ib0'", 2, "full_names can't stand beside interface = 'ib0'"),
        (
            "cores = 1\nclean_environment = true\n[slurm]\nexport = 'A'",
            4,
            "slurm.export can't stand beside clean_environment = true",
        ),
        (
            "cores = 1\nlauncher = 'mpirun'\nmpi = 'pmi2'",
            3,
            "mpi can't stand beside launcher = 'mpirun': it is an option",
        ),
        (
            "cores = 1\nmpi_library = 'mpich'",
            2,
            "mpi_library can't stand beside launcher = 'srun': it says whose mpirun",
        ),
        ("cores = 1\nclusters = 'a,b'", 2, "clusters = 'a,b': expected the name of one cluster"),
        ("cores = 1\nproxy = 'proxy:3128'", 2, "proxy = 'proxy:3128': expected http://HOST:PORT"),
        (
            "cores = 1\nproxy = 'http://me:x@proxy:3128'",
            2,
            "proxy holds a password, and is written into the run folder",
        ),
        ("cores = 1\n[env]\nA = 'a'\n'a b' = 'x'", 4, "'a b' is not a name of an environment variable"),
        *(
            (f"cores = 1\n[env]\n{name} = 'x'", 3, f"{name!r} is a variable that the job script can't change")
            for name in ("run", "python", "IFS", "OPTIND", "RANDOM")
        ),
        ("cores = 1\n[env]\nSLURM_RESTART_COUNT = 'x'", 3, "'SLURM_RESTART_COUNT' is Slurm's own"),
        (
            "cores = 1\n[env]\nPATH = '/opt/bin'",
            3,
            "'PATH' can't be changed: the job script finds its own commands by it",
        ),
        ("cores = 1\n[env]\nMY_LIBS = '/x:$MY_LIBS'", 3, "'MY_LIBS' has '$MY_LIBS' in its value: nothing replaces it"),
        (
            "cores = 1\n[env]\nMY_LIBS = '${MY_LIBS}:/x'",
            3,
            "'MY_LIBS' has '$MY_LIBS' in its value: nothing replaces it",
        ),
    ],
)
def test_an_invalid_file_is_named_with_the_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    file = tmp_path / "my.toml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_site(file)
    assert str(caught.value).startswith(f"{file}, line {line}: ")
    assert message in str(caught.value)


def test_a_site_without_cores_is_named(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.touch()
    with pytest.raises(UserError, match=f"{file}: .*missing.*cores"):
        load_site(file)


TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.just("\t"), max_size=10)
SCALARS: st.SearchStrategy[Any] = TEXT | st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False)
SITES = st.builds(
    Site,
    name=TEXT,
    description=TEXT,
    cores=st.integers(1, 300),
    memory_gb=st.none() | st.floats(0.1, 1e6),
    ports=st.tuples(st.integers(1024, 2000), st.integers(2000, 65535)),
    slurm=st.dictionaries(st.from_regex(r"[a-z][a-z-]{1,6}", fullmatch=True), SCALARS, max_size=3),
    modules=st.lists(TEXT, max_size=3).map(tuple),
    env=st.dictionaries(st.from_regex(r"[A-Z]{1,5}", fullmatch=True), TEXT, max_size=3),
    runs=TEXT,
)


@given(site=SITES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_frozen_site_reads_back_equal(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(to_toml(site), encoding="utf-8", newline="")
    assert build(Site, [read_toml(file)], "site") == site


VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["qos", "A", "a b"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(values=st.dictionaries(st.sampled_from([*Site.__struct_fields__, "x"]), VALUES, max_size=4))
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_toml_gives_a_valid_site_or_a_user_error(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(tomli_w.dumps(values), encoding="utf-8", newline="")
    try:
        check(load_site(file))
    except UserError as error:
        assert str(error).startswith(str(file))  # noqa: PT017 - both outcomes are right


def test_changes_replace_single_keys_and_are_checked() -> None:
    assert load_site(site_file("local"), cores=7).cores == 7
    with pytest.raises(UserError, match=r"^keyword cores: cores = 0: expected int >= 1$"):
        load_site(site_file("local"), cores=0)
    assert build(Site, [Layer({"cores": "4"}, "sinfo")], "site").cores == 4


def test_a_key_of_an_earlier_version_is_a_note_and_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.toml"
    file.write_text("cores = 16\nsockets = 2\n")
    assert load_site(file).cores == 16
    assert capsys.readouterr().err == (
        f"hpc-dl: {file}, line 2: sockets is not used any more: each node tells itself how its cores are shared out\n"
    )


def test_the_site_of_an_earlier_versions_run_folder_is_read(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.site_file.write_text('name = "old"\ncores = 16\nsockets = 2\n')
    assert run.read_site() == Site(name="old", cores=16)
