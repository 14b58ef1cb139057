"""A site made from what sinfo says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from hpc_dl.errors import UserError
from hpc_dl.runfolder.folder import to_toml
from hpc_dl.schedulers.slurm.partitions import described, parse_nodes
from hpc_dl.spec.nodelist import expand
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_checks import check
from hpc_dl.spec.site_files import load_site


def lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in rows)


def parse_sinfo(text: str, name: str, partition: str = "") -> Site:
    return described(parse_nodes(text), name, partition)


TYPED = lines(
    "nvb1|projects*|idle|16|2|128000|gpu:k80:4(S:0-1)",
    "nvb2|projects*|idle|16|2|128000|gpu:k80:4(S:0-1)",
    "nvb3|projects*|idle|16|2|128000|gpu:k80:4(S:0-1)",
)


def test_a_cluster_of_equal_nodes(tmp_path: Path) -> None:
    site = parse_sinfo(TYPED, "minotauro")
    assert (site.name, site.cluster, site.partition) == ("minotauro", "minotauro", "projects")
    assert (site.cores, site.memory_gb, site.gpus, site.gpu_gres) == (16, 125.0, 4, "gpu:k80")
    assert site.nodes == "nvb[1-3]"
    file = tmp_path / "minotauro.toml"
    file.write_text(to_toml(site))
    assert asdict(load_site(file)) == asdict(site), "what is printed is a site file"


@pytest.mark.parametrize(
    ("gres", "gpus", "kind"),
    [
        ("(null)", 0, ""),
        ("gpu:4", 4, ""),
        ("gpu:12", 12, ""),
        ("gpu:4(S:0-1)", 4, ""),
        ("gpu:k80:4", 4, "k80"),
        ("gpu:a100_3g.20gb:8(S:0,1)", 8, "a100_3g.20gb"),
        ("nvme:1,gpu:v100-32:2(S:0)", 2, "v100-32"),
        ("gpu_mem:80,gpu:h100:4(IDX:0-3)", 4, "h100"),
        ("nvme:1", 0, ""),
        ("", 0, ""),
    ],
)
def test_forms_of_gres(gres: str, gpus: int, kind: str) -> None:
    site = parse_sinfo(lines(f"n1|main*|idle|8|1|1000|{gres}"), "c")
    assert (site.gpus, site.gpu_type) == (gpus, kind)


def test_hardware_threads_are_counted_as_slurm_counts_cpus() -> None:
    site = parse_sinfo(lines("n1|main*|idle|128|2|1000|gpu:4|32|2"), "c")
    assert (site.cores, site.threads_per_core) == (128, 2)
    site = parse_sinfo(lines("n1|main*|idle|64|2|1000|gpu:4|32|2"), "c")  # CPUs=64 in slurm.conf
    assert (site.cores, site.threads_per_core) == (64, 1)
    assert parse_sinfo(lines("n1|main*|idle|64+|2+|1000+|gpu:4|32+|1+"), "c").threads_per_core == 1


def test_the_default_partition_counts() -> None:
    text = lines(
        "c1|cpu|idle|128|2|256000|(null)",
        "c2|cpu|idle|128|2|256000|(null)",
        "g1|gpu*|idle|32|2|512000|gpu:4",
        "g1|debug|idle|32|2|512000|gpu:4",
    )
    site = parse_sinfo(text, "c")
    assert (site.partition, site.nodes, site.cores, site.gpus) == ("gpu", "g1", 32, 4)


PARTITIONS = lines(
    "c1|cpu*|idle|128|2|256000|(null)", "c2|cpu*|idle|128|2|256000|(null)", "g1|gpu|idle|32|2|512000|gpu:a100:4"
)


@pytest.mark.parametrize("partition", ["gpu", "gpu,cpu"])
def test_the_partition_that_is_named_counts(partition: str) -> None:
    site = parse_sinfo(PARTITIONS, "c", partition)
    assert (site.partition, site.nodes, site.cores, site.gpus, site.gpu_gres) == (partition, "g1", 32, 4, "gpu:a100")


@pytest.mark.parametrize("partition", ["gpus", "cpu,gpus"])
def test_an_unknown_partition_shows_the_nearest(partition: str) -> None:
    message = rf"partition = '{partition}': Slurm has no 'gpus' \(did you mean 'gpu'\?\); it has 'cpu', 'gpu'"
    with pytest.raises(UserError, match=message):
        parse_sinfo(PARTITIONS, "c", partition)


def test_without_a_default_the_first_partition_counts() -> None:
    assert parse_sinfo(lines("n1|b|idle|8|1|1000|(null)", "n2|a|idle|4|1|1000|(null)"), "c").partition == "b"


def test_of_nodes_that_differ_the_most_frequent_kind_counts() -> None:
    text = TYPED + lines("big1|projects*|idle|24|2|256000+|gpu:a100:2", "big2|projects*|idle|24+|2+|256000+|gpu:a100:2")
    assert parse_sinfo(text, "c").nodes == "nvb[1-3]"


def test_a_plus_behind_a_number_is_no_part_of_it() -> None:
    site = parse_sinfo(lines("n1|main*|idle|24+|2+|2048+|(null)  "), "c")
    assert (site.cores, site.memory_gb) == (24, 2.0)


@pytest.mark.parametrize("text", ["", "slurm_load_partitions: Unable to contact slurm controller\n", "a|b|c|d|e|f|g\n"])
def test_no_node_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="sinfo names no node: write a site file in env/sites"):
        parse_sinfo(text, "c")


FIELD = (
    st.text(max_size=6) | st.from_regex(r"[0-9]{1,4}\+?", fullmatch=True) | st.sampled_from(["gpu:4", "n[1-3]", "N/A"])
)


@given(st.lists(st.lists(FIELD, min_size=7, max_size=7).map("|".join), max_size=4))
def test_any_lines_give_a_site_or_a_user_error(rows: list[str]) -> None:
    try:
        site = parse_sinfo(lines(*rows), "c")
    except UserError:
        return
    check(site)
    assert expand(site.nodes)
