"""How a job and its steps ask Slurm for GPUs and other generic resources. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from hpc_dl.spec.site import Site


def gpu_request(
    form: str, site: Site, gpus: int, gres: Sequence[str] = (), nodes: int = 1, tasks: int = 1
) -> dict[str, str]:
    """Return the options of sbatch or srun that ask for GPUs and other resources (man sbatch).

    Args:
        form: the option that asks for GPUs, as in the site's `gpu_request`; none or empty: no option does.
        site: whose GPUs they are.
        gpus: GPUs of each node.
        gres: further resources of each node.
        nodes: how many nodes.
        tasks: how many tasks start on each node.
    """
    kind = f"{site.gpu_type}:" if site.gpu_type else ""
    counts = {"gpus-per-node": gpus, "gpus-per-task": gpus // tasks, "gpus": gpus * nodes}
    found = {form: f"{kind}{counts[form]}"} if gpus and form in counts else {}
    listed = [*([f"{site.gpu_gres}:{gpus}"] if gpus and form == "gres" else []), *gres]
    return {**found, **({"gres": ",".join(listed)} if listed else {})}


def step_request(site: Site, gpus: int, gres: Sequence[str] = (), nodes: int = 1, tasks: int = 1) -> list[str]:
    """Return the options of srun with which a step gets the GPUs of its job; see `gpu_request`.

    Without an option a step has all that its job has. What is asked for each task would be asked anew for each task of
    a step, so such a job repeats it; its tasks see all GPUs of the node, of which they have theirs by their variable.
    """
    per_task = "gpus-per-task" if site.gpu_request == "gpus-per-task" else ""
    return _step(site.step_gpu_request or per_task, site, gpus, gres, nodes, tasks)


def node_step_request(site: Site, gpus: int, gres: Sequence[str] = ()) -> list[str]:
    """Return the options of srun with which a step with one task on one node gets the GPUs of its job there.

    Without an option, a step of a job that asked for a number over all nodes would ask for them on its one node.
    """
    form = site.step_gpu_request if site.step_gpu_request != "gpus" else "gpus-per-node"
    usual = {"gpus": "gpus-per-node", "gpus-per-task": "gpus-per-task"}.get(site.gpu_request, "")
    return _step(form or usual, site, gpus, gres)


def _step(form: str, site: Site, gpus: int, gres: Sequence[str], nodes: int = 1, tasks: int = 1) -> list[str]:
    if not gpus or not form:
        return []
    options = [f"--{key}={value}" for key, value in gpu_request(form, site, gpus, gres, nodes, tasks).items()]
    return [*options, *(["--gpu-bind=none"] if form == "gpus-per-task" and tasks > 1 else [])]
