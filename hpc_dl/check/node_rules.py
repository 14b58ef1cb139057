"""Rules for nodes: each looks at one part of a node's answer. A new check is a function here and a word in `RULES`."""

# ruff: noqa: ARG001 - all rules have one form

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import msgspec

from hpc_dl.check.finding import Finding, error, warning
from hpc_dl.check.hardware_rules import hardware
from hpc_dl.check.probe import NodeAnswer
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.site import Site

Rule = Callable[[JobSpec, Site, NodeAnswer], Iterator[Finding]]

_KEYS = "interface, interconnect_suffix and ports"
_TOOLS = {"nvidia": "nvidia-smi", "amd": "rocm-smi"}  # what shows the GPUs of a node, by vendor
_CLOCKS = 2.0  # seconds that clocks may differ: people compare times in logs and metrics of several nodes


def python(job: JobSpec, site: Site, answer: NodeAnswer) -> Iterator[Finding]:
    """The packages that the processes import are there."""
    if answer.python is None:
        yield error(f"the Python of the nodes ends at once: {answer.said}")
        return
    for package, reason in answer.python.failed.items():
        yield error(f"python = {answer.python.executable!r}: import {package} fails: {reason}; see modules and env")


def gpus(job: JobSpec, site: Site, answer: NodeAnswer) -> Iterator[Finding]:
    """The GPUs that the job asks for are there, TensorFlow sees them, and they are of the site's type."""
    wanted = job.gpus or 0
    if len(answer.gpus) < wanted:
        seen = ", ".join(answer.gpus) or "none"
        yield error(f"gpus = {wanted}: visible to the job: {seen}; see gres in slurm.conf, or ask for fewer")
    if job.script or answer.python is None or "tensorflow" in answer.python.failed:
        return
    seen = ", ".join(answer.python.gpus) or "none"
    if len(answer.python.gpus) < wanted:
        if site.fake_gpus:
            yield warning(f"gpus = {wanted}: TensorFlow sees {seen}; fake_gpus = true: it will compute on cores")
        else:
            yield error(
                f"gpus = {wanted}: TensorFlow sees {seen}: see {_TOOLS.get(site.gpu_vendor, 'the driver')}, and whether"
                f" {answer.python.executable} has a TensorFlow for GPUs (make setup KIND=gpu)"
            )
    elif wanted and site.gpu_type and not _letters(site.gpu_type) & _letters(seen):
        yield warning(f"gpu_type = {site.gpu_type!r}: TensorFlow sees {seen}; correct the site file, or ask the admins")


def _letters(text: str) -> set[str]:
    """Return the words of a GPU's name, such as ``k80`` of ``Tesla K80``."""
    return set(re.split(r"[^a-z0-9]+", text.lower())) - {""}


def folders(job: JobSpec, site: Site, answer: NodeAnswer) -> Iterator[Finding]:
    """The node can use the run folder, the data set and the local disk."""
    if answer.run.problem:
        yield error(f"runs: can't be written from this node: {answer.run.problem}; it must be on a disk that all share")
    if answer.data_problem:
        yield error(f"data = {job.data!r}: {answer.data_problem} from this node; it must be on a disk that all share")
    if answer.local_disk.problem:
        path, problem = answer.local_disk.path, answer.local_disk.problem
        yield error(f"stage: local_disk = {path!r}: {problem}; correct the site file, or leave stage out")


def network(job: JobSpec, site: Site, answer: NodeAnswer) -> Iterator[Finding]:
    """The node can listen at its address, and reach the others at theirs."""
    own = answer.address
    if own.problem:
        where = f"{own.host}:{own.port}: can't listen there: " if own.host else ""
        yield error(f"{where}{own.problem}; see {_KEYS}" if where else own.problem)
    for call in answer.calls:
        if call.problem:
            where = f" ({call.address})" if call.address else ""
            yield error(f"node {call.node}{where} can't be reached: {call.problem}; see {_KEYS}")


def clocks(job: JobSpec, site: Site, answer: NodeAnswer) -> Iterator[Finding]:
    """The clocks agree."""
    for call in answer.calls:
        if not call.problem and abs(call.ahead) - call.took > _CLOCKS:
            yield warning(f"the clock of node {call.node} differs by {call.ahead:+.1f} s: times in logs don't agree")


RULES: tuple[Rule, ...] = (python, gpus, folders, network, clocks, hardware)


def findings(job: JobSpec, site: Site, answer: NodeAnswer) -> list[Finding]:
    """Return all findings on a node, labelled with its name."""
    return [msgspec.structs.replace(one, node=answer.node) for rule in RULES for one in rule(job, site, answer)]
