"""The rule by which an agent finds the GPUs of its node, and a task gets its own."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from hpc_dl.errors import UserError
from hpc_dl.gpus import local_gpus, step_gpus
from hpc_dl.spec.site import Site


class GpuRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a site differs from NVIDIA GPUs that Slurm names.

    Args:
        vendor: of the GPUs; decides the variable that gives them to a task.
        untold: GPUs of each node, where Slurm doesn't tell which; 0: Slurm tells.
        believe: what Slurm tells all the same counts.
        fake: the GPUs need not exist.
    """

    vendor: Literal["nvidia", "amd", "other"] = "nvidia"
    untold: int = 0
    believe: bool = False
    fake: bool = False

    @classmethod
    def of(cls, site: Site, gpus: int) -> GpuRule:
        """Return the rule of a site for a job with so many GPUs on each node."""
        untold = gpus if site.gpu_list == "all" or site.gpu_request == "none" else 0
        return cls(site.gpu_vendor, untold, bool(untold) and site.gpu_list == "slurm", bool(untold) and site.fake_gpus)

    @classmethod
    def read(cls, text: str) -> GpuRule:
        """Return the rule of a `text`.

        Raises:
            UserError: it is none.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise UserError(f"GPU rule {text!r}: {error}") from None

    @property
    def text(self) -> str:
        """Return the rule as an argument of a command."""
        return msgspec.json.encode(self).decode()

    def found(self, step: bool) -> tuple[str, ...]:
        """Return the GPUs of this Slurm step, or of this machine.

        Raises:
            UserError: the node has fewer than the rule says.
        """
        if not step:
            return local_gpus(self.vendor)
        return step_gpus(os.environ, self.vendor, self.untold, self.believe, self.fake)
