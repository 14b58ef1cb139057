"""The warning of a network that is too large for a GPU."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hpc_dl.planning.gpu_memory import gpu_warning
from hpc_dl.planning.place import resolve
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site

K80 = Site(name="k80", cores=16, gpus=4, gpu_memory_gb=12)


def warning(site: Site = K80, **settings: Any) -> str | None:
    return gpu_warning(resolve(JobSpec(**settings), site), site)


def test_a_network_that_is_too_large_is_named_with_the_numbers() -> None:
    # 4 x (853,018 x 2 + 4096 x 1,873,994) bytes are 28.60 x 2**30.
    assert warning(model="resnet56", batch=4096) == (
        "model 'resnet56' needs about 28.6 GB of GPU memory, a GPU of site 'k80' has 12 GB: 4 bytes x"
        " (853,018 parameters x 2 (weights, gradients) + batch 4,096 x 1,873,994 layer outputs);"
        " a smaller batch needs less"
    )
    assert warning(model="resnet56", batch=128) is None


def test_without_a_parameter_server_the_gpu_holds_the_momentum() -> None:
    # 38,947,914 parameters x 4 bytes are 0.145 GB, and 351,242 layer outputs next to nothing.
    small = msgspec.structs.replace(K80, gpu_memory_gb=0.4)
    assert warning(small, model="vgg19", batch=1, mode="async") is None
    assert "x 3 (weights, gradients, momentum)" in str(warning(small, model="vgg19", batch=1, mode="single"))


@pytest.mark.parametrize(
    ("site", "settings"),
    [
        (K80, {"model": "mine:network"}),
        (K80, {"gpus": 0}),
        (K80, {"script": "train.py"}),
        (Site(name="unknown", cores=1, gpus=1), {}),
        (Site(name="cpu", cores=1), {}),
    ],
)
def test_nothing_is_said_of_what_is_not_known(site: Site, settings: dict[str, Any]) -> None:
    assert warning(site, **{"model": "resnet83", "batch": 10**6, **settings}) is None
