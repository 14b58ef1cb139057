"""Lists of cores, hardware threads and reserved cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_dl.errors import UserError
from hpc_dl.spec.cores import cores_in, jobs_cores, one_thread_per_core, physical_cores, threads_of
from hpc_dl.spec.nodelist import fold_numbers
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import load_site


@given(st.sets(st.integers(0, 4095), max_size=60))
def test_a_list_of_cores_is_read_as_taskset_writes_it(cores: set[int]) -> None:
    assert cores_in(fold_numbers(sorted(cores))) == tuple(sorted(cores))


@given(st.text(alphabet="0123456789-, x", max_size=12))
def test_any_text_is_a_list_or_a_clear_error(text: str) -> None:
    try:
        assert all(0 <= core < 65536 for core in cores_in(text))
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either way is right


@pytest.mark.parametrize("text", ["a", "3-1", "1,,2", "99999999", "0-99999999", "-1", "1-", "²"])
def test_what_is_no_list_of_cores_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected core|runs backwards|no core number"):
        cores_in(text)


@pytest.mark.parametrize(
    ("site", "job", "expected"),
    [
        ({}, {}, False),
        ({"slurm": {"hint": "nomultithread"}}, {}, True),
        ({"slurm": {"hint": "multithread"}}, {}, False),
        ({"slurm": {"hint": "nomultithread"}}, {"hint": "multithread"}, False),
        ({}, {"hint": "nomultithread"}, True),
        ({"slurm": {"threads-per-core": 1}}, {}, True),
        ({"slurm": {"threads-per-core": "2"}}, {}, False),
        ({"srun": ("--cpu-bind=none", "--threads-per-core=1")}, {}, True),
    ],
)
def test_whether_slurm_counts_physical_cores(site: dict[str, Any], job: dict[str, Any], expected: bool) -> None:
    assert one_thread_per_core(Site(cores=4, **site), job) is expected


def test_hardware_threads_are_numbered_after_all_cores() -> None:
    site = Site(cores=128, threads_per_core=2)
    assert (physical_cores(site), threads_of(3, site), threads_of(67, site)) == (64, (3, 67), (3, 67))
    assert jobs_cores(site)[:2] == ((0, 64), (1, 65))
    assert jobs_cores(Site(cores=3)) == ((0,), (1,), (2,))


@given(st.integers(1, 4), st.integers(1, 40), st.data())
def test_reserved_cores_are_no_cores_of_a_job(threads: int, cores: int, data: st.DataObject) -> None:
    total = cores + data.draw(st.integers(0, 8))
    out = data.draw(st.sets(st.integers(0, total - 1), min_size=total - cores, max_size=total - cores))
    named = sorted(core + total * thread for core in out for thread in range(threads))
    site = Site(cores=cores * threads, threads_per_core=threads, reserved_cores=fold_numbers(named))
    found = [cpu for core in jobs_cores(site) for cpu in core]
    assert physical_cores(site) == total
    assert sorted([*found, *named]) == list(range(total * threads))


def test_lumi_keeps_the_first_core_of_each_group_of_eight() -> None:
    site = Site(cores=56, reserved_cores="0,8,16,24,32,40,48,56")
    assert physical_cores(site) == 64
    assert [core for (core,) in jobs_cores(site)] == [core for core in range(64) if core % 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gres = ['gpu:2']", "line 2: gres = 'gpu:2': GPUs are asked for by the job key gpus"),
        ("gres = ['nvme:1', 'gpu']", "line 2: gres = 'gpu': GPUs are asked for"),
        ("gres = ['nvme 1']", "line 2: gres = 'nvme 1': expected name, name:count or name:type:count"),
        ("gres = ['nvme:1,tmp:2']", "line 2: gres = 'nvme:1,tmp:2': expected name"),
        ("gpus = 2\ngpu_cores = ['0-3']", "line 3: gpu_cores: has the cores of 1 GPUs, gpus = 2"),
        ("gpus = 2\ngpu_cores = ['0-3', '3-5']", "line 3: gpu_cores[1] = '3-5': core 3 is next to GPU 0 too; two GPUs"),
        (
            "gpus = 2\ngpu_cores = ['0-3', '4-8']",
            "line 3: gpu_cores[1] = '4-8': there is no core 8: a node has the cores",
        ),
        ("gpus = 1\ngpu_cores = ['0-x']", "line 3: gpu_cores[0] = '0-x': expected core numbers such as 0-7,16, found"),
        ("reserved_cores = '8-0'", "line 2: reserved_cores = '8-0': '8-0' runs backwards"),
        ("threads_per_core = 3", "line 2: threads_per_core = 3: cores = 8 are no whole number of physical cores"),
        (
            "threads_per_core = 2\nslurm = { hint = 'nomultithread' }",
            "line 2: threads_per_core = 2: Slurm counts physical cores here, by an option in slurm or srun:",
        ),
        ("gpu_request = 'gpu-per-node'", "line 2: gpu_request = 'gpu-per-node': not a known gpu_request (did you mean"),
    ],
)
def test_what_does_not_fit_the_node_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "my.toml"
    file.write_text(f"cores = 8\n{text}\n")
    with pytest.raises(UserError) as caught:
        load_site(file)
    assert str(caught.value).startswith(f"{file}, {message}")


def test_two_gpus_may_have_the_same_cores(tmp_path: Path) -> None:
    file = tmp_path / "delta.toml"
    file.write_text("cores = 128\ngpus = 4\ngpu_cores = ['48-63', '48-63', '16-31', '16-31']\n")
    assert len(load_site(file).gpu_cores) == 4
    file.write_text("cores = 56\nreserved_cores = '0,8'\ngpus = 2\ngpu_cores = ['49-55', '57']\n")
    assert load_site(file).gpu_cores == ("49-55", "57")


def test_gpu_cores_do_not_matter_where_a_partition_has_no_gpus(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("cores = 8\ngpus = 2\ngpu_cores = ['0-3', '4-7']\n[partitions.cpu]\ngpus = 0\n")
    assert load_site(file, "cpu").gpus == 0
