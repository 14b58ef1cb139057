"""Does a network fit into a GPU's memory? An estimate from numbers that are known without TensorFlow."""

from __future__ import annotations

from hpc_dl.models import MODELS
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site

_BYTES = 4  # of a float32
_GB = 2**30  # what vendors call a GB of GPU memory


def gpu_warning(job: JobSpec, site: Site) -> str | None:
    """Return a warning if the network of a resolved job will probably not fit into a GPU; None if it fits.

    A GPU holds the weights and the gradients. It also holds the momentum if there are no parameter servers. For each
    image of the batch it holds the outputs of all layers, from which the gradients are computed. There is no warning
    for networks of the user's own, whose size is not known.
    """
    model = MODELS.get(job.model)
    if job.script or not job.gpus or site.gpu_memory_gb is None or model is None:
        return None
    copies = ["weights", "gradients", *([] if job.ps else ["momentum"])]
    needed = _BYTES * (model.parameters * len(copies) + job.batch * model.activations) / _GB
    if needed <= site.gpu_memory_gb:
        return None
    return (
        f"model {job.model!r} needs about {needed:.3g} GB of GPU memory, a GPU of site {site.name!r} has"
        f" {site.gpu_memory_gb:g} GB: {_BYTES} bytes x ({model.parameters:,} parameters x {len(copies)}"
        f" ({', '.join(copies)}) + batch {job.batch:,} x {model.activations:,} layer outputs);"
        " a smaller batch needs less"
    )
