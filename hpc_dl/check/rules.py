"""Rules: each looks at one thing that can be wrong. A new check is a function here and a word in `RULES`."""

# ruff: noqa: ARG001 - all rules have one form

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from hpc_dl.check.facts import Facts
from hpc_dl.check.finding import Finding, error, warning
from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.models import MODELS
from hpc_dl.planning.gpu_memory import gpu_warning
from hpc_dl.planning.plan import Plan
from hpc_dl.planning.task_file import nodes_python
from hpc_dl.schedulers.cluster import Node, Partition, fitting, nodes_in, too_few
from hpc_dl.schedulers.slurm.sbatch_options import minutes
from hpc_dl.spec.cores import cores_in, one_thread_per_core
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import tables_of_no_partition

Rule = Callable[[Plan, Facts], Iterator[Finding]]

_SAVED = 5  # checkpoints on disk at once: the three newest, the best, one that is being written
_GB = 1e9


def _partition(plan: Plan, facts: Facts) -> Partition | None:
    """Return the job's partition, if there is one of this name."""
    known = facts.cluster.partitions if facts.cluster else {}
    name = (plan.job.partition or plan.site.partition).split(",")[0]  # Slurm takes several
    return known.get(name) if name else next((one for one in known.values() if one.default), None)


def _nodes(plan: Plan, facts: Facts) -> list[Node]:
    """Return the nodes of the job's partition."""
    if facts.cluster is None or _partition(plan, facts) is None:
        return []
    return nodes_in(facts.cluster.nodes, plan.job.partition or plan.site.partition)


def slurm_answers(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Slurm answers, and has partitions."""
    if facts.cluster and not facts.cluster.partitions:
        yield error("Slurm names no partition (scontrol show partition): is this the right machine, is slurmctld up?")


def partition(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The partition exists and takes jobs."""
    if facts.cluster is None or not facts.cluster.partitions:
        return
    name = plan.job.partition or plan.site.partition
    known = facts.cluster.partitions
    found = _partition(plan, facts)
    if found is None and name:
        yield error(
            f"partition = {name!r}: Slurm has none of this name{near_match(name, known)}; it has {allowed(known)}"
        )
    elif found is None:
        yield error(f"partition: Slurm has no default one; set partition to one of {allowed(known)}")
    elif found.state != "UP":
        yield error(f"partition = {found.name!r}: is {found.state}, and takes no jobs until it is UP; use another one")


def ps_partition(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The partition of the nodes for parameter servers exists, takes jobs, and has enough nodes."""
    job, known = plan.job, facts.cluster.partitions if facts.cluster else {}
    if not known or not job.ps_partition:
        return
    found = known.get(job.ps_partition.split(",")[0])
    if found is None:
        near = near_match(job.ps_partition, known)
        yield error(f"ps_partition = {job.ps_partition!r}: Slurm has none of this name{near}; it has {allowed(known)}")
    elif found.state != "UP":
        yield error(f"ps_partition = {found.name!r}: is {found.state}, and takes no jobs until it is UP")
    nodes = nodes_in(facts.cluster.nodes, job.ps_partition) if facts.cluster else []
    if nodes and len(fit := [node for node in nodes if node.cores >= job.ps_node_cores]) < job.ps_nodes:
        yield error(
            f"ps_nodes = {job.ps_nodes}: of {len(nodes)} nodes in partition {job.ps_partition!r} {len(fit)} have"
            f" {job.ps_node_cores} cores: ask for fewer, or set ps_cores"
        )


def placement(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The processes fit on nodes as the site describes them."""
    try:
        plan.placement()
    except UserError as problem:
        yield error(str(problem))


def limits(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Time and nodes are within the partition's limits."""
    found = _partition(plan, facts)
    if found is None:
        return
    if minutes(plan.job.time) > found.max_minutes:
        yield error(
            f"time = {plan.job.time}: partition {found.name!r} allows {found.max_minutes:g} minutes;"
            " ask for less time, or use another partition"
        )
    if plan.job.nodes > found.max_nodes:
        yield error(f"nodes = {plan.job.nodes}: partition {found.name!r} allows {found.max_nodes:g} in one job")


def enough_nodes(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The partition has enough nodes of the kind that the job wants, and they are up."""
    job, nodes = plan.job, _nodes(plan, facts)
    fit = fitting(job, plan.site, nodes)
    if problem := too_few(job, plan.site, nodes):
        yield error(problem)
    elif nodes and len(up := [node for node in fit if node.up]) < job.nodes:
        out = ", ".join(f"{node.name} {node.state}" for node in fit if not node.up)
        yield warning(f"nodes = {job.nodes}: {len(up)} of {len(fit)} that fit take jobs now ({out}): the job will wait")


def site_file(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The site file describes the nodes as Slurm does."""
    site, nodes = plan.site, _nodes(plan, facts)
    if not nodes:
        return
    where = f"site {site.name!r}"
    cores, threads = Counter((node.cores, node.threads) for node in nodes).most_common(1)[0][0]
    yield from _cores(site, cores, threads)
    gpus = Counter(sum(node.gpus.values()) for node in nodes).most_common(1)[0][0]
    if site.gpus != gpus and (gpus or site.gpu_request != "none"):
        yield warning(f"{where}: gpus = {site.gpus}, sinfo says {gpus}: set gpus = {gpus} in the site file")
    kinds = sorted({kind for node in nodes for kind in node.gpus if kind})
    if site.gpu_type and site.gpu_type not in kinds and plan.job.gpus and (gpus or site.gpu_request != "none"):
        yield error(
            f"{where}: gpu_type = {site.gpu_type!r}{near_match(site.gpu_type, kinds)}: nodes of partition"
            f" {nodes[0].partition!r} have {allowed(kinds) or 'no typed GPUs'}; correct it in the site file"
        )


def tables(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Each table of a partition in the site file is that of a partition of the cluster."""
    known = facts.cluster.partitions if facts.cluster else {}
    if known and plan.site_path.is_file():
        own, shipped = tables_of_no_partition(plan.site_path, known)
        yield from map(error, own)
        yield from map(warning, shipped)


def _cores(site: Site, cores: int, threads: int) -> Iterator[Finding]:
    """Compare the cores of a site with what sinfo counts, which has hardware threads and reserved cores in it."""
    where, said, reserved = f"site {site.name!r}", f"sinfo says {cores}", len(cores_in(site.reserved_cores))
    if threads > 1:
        said += f", {threads} threads of each physical core"
    if one_thread_per_core(site):
        cores, threads = cores // threads, 1
    elif threads != site.threads_per_core:
        yield warning(
            f"{where}: threads_per_core = {site.threads_per_core}, {said}: set threads_per_core = {threads}, or"
            " hint = 'nomultithread' in [slurm]: then cores counts physical cores"
        )
    if site.reserved_cores:
        said += f", {reserved} in reserved_cores"
    # The list may have only the first thread of each reserved core.
    if site.cores not in (cores - reserved, cores - reserved * threads):
        yield warning(f"{where}: cores = {site.cores}, {said}: set cores = {cores - reserved} in the site file")


def kill_wait(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Slurm gives a cancelled job as much time to save as the site file says."""
    wait = facts.cluster.kill_wait if facts.cluster else None
    if wait is not None and wait < plan.site.grace:
        yield warning(
            f"site {plan.site.name!r}: grace = {plan.site.grace} s, but Slurm kills a job {wait} s after SIGTERM"
            f" (KillWait in slurm.conf): what takes longer to save is lost; set grace = {wait}, or a larger KillWait"
        )


def accepted(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Slurm would accept the job: account, QOS and whatever else only Slurm knows."""
    known = [*partition(plan, facts), *ps_partition(plan, facts), *limits(plan, facts), *enough_nodes(plan, facts)]
    if facts.refusal and not any(one.level == "error" for one in known):
        yield error(facts.refusal)


def modules(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The site's modules load, and the shell lines around them succeed."""
    for module, said in facts.here.failed_modules.items():
        if module == "module_init":
            yield error(f"module_init = {plan.site.module_init!r}: can't be sourced: {said}; correct the site file")
        else:
            yield error(f"module {module!r} does not load here: {said}; see `module avail`, correct the site file")
    for line, said in facts.here.failed_lines.items():
        yield error(f"{line}: fails here: {said}; correct the site file")


def python(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The nodes' Python runs, and has the packages that processes import."""
    executable = plan.job.python or nodes_python(plan.site)
    found = facts.here.python
    if found is None and not facts.here.failed_lines and "module_init" not in facts.here.failed_modules:
        yield error(
            f"python = {executable!r}: can't run hpc_dl here: {facts.here.said};"
            " install hpc_dl there, or name another one in the site file"
        )
    for package, reason in (found.failed if found else {}).items():
        how = "make setup-horovod" if package.startswith("horovod") else "make setup"
        yield error(f"python = {executable!r}: import {package} fails: {reason}; install it there ({how})")


def mpi(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """MPI ranks can be started."""
    if facts.mpi_problem:
        yield error(facts.mpi_problem)


def container(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The container's runtime and image are there."""
    if facts.container_problem:
        yield error(facts.container_problem)


def folders(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """Run folders and data can be written, and the disk has room for the checkpoints."""
    for key, folder in (("runs", facts.runs), ("data", facts.data)):
        if folder.problem:
            yield error(f"{key} = {folder.path!r}: can't be written: {folder.problem}; set {key} in the site file")
    model = MODELS.get(plan.job.model)
    if plan.job.script or facts.runs.problem or model is None or not model.parameters:
        return
    needed = _SAVED * 2 * 4 * model.parameters  # float32 parameters and their momentum
    if facts.runs.free < needed:
        yield error(
            f"runs = {facts.runs.path!r}: has {facts.runs.free / _GB:.3g} GB free, the checkpoints of"
            f" {plan.job.model!r} take up to {needed / _GB:.3g} GB; make room, or set runs in the site file"
        )


def data_set(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The data set is there, or can be downloaded."""
    if facts.no_network:
        yield error(
            f"data = {plan.job.data!r}: is not in {facts.data.path}, and can't be downloaded here"
            f" ({facts.no_network}); fetch it on a machine with network access, or use 'digits' or 'synthetic'"
        )


def script(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The user's script can be run."""
    if facts.script:
        yield error(f"script = {plan.job.script!r}: {facts.script}")


def gpu_memory(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The network fits into a GPU."""
    if text := gpu_warning(plan.job, plan.site):
        yield warning(text)


def ports(plan: Plan, facts: Facts) -> Iterator[Finding]:
    """The kernel gives the site's ports to no outgoing connection, and enough of them are free."""
    (first, last), (low, high) = plan.site.ports, facts.outgoing_ports
    if first <= high and low <= last:
        yield warning(
            f"site {plan.site.name!r}: ports = {first}-{last}: the kernel gives {low}-{high} to outgoing connections"
            " (ip_local_port_range), so that one may be taken when a process wants it; choose others in the site file"
        )
    free = last - first + 1 - len(facts.busy_ports)
    needed = plan.job.nodes * plan.job.per_node + (plan.job.ps or 0) + plan.job.chief
    if facts.busy_ports and free < needed:
        yield error(f"site {plan.site.name!r}: ports = {first}-{last}: {free} are free here, the job needs {needed}")


RULES_OF_SITE: tuple[Rule, ...] = (slurm_answers, site_file, tables, kill_wait, modules, python, folders, ports)
RULES: tuple[Rule, ...] = (
    *(slurm_answers, placement, partition, ps_partition, limits, enough_nodes, site_file, tables, kill_wait, modules),
    *(python, mpi, container, folders, data_set, script, gpu_memory, ports, accepted),
)


def findings(plan: Plan, facts: Facts, rules: tuple[Rule, ...] = RULES) -> list[Finding]:
    """Return all findings, errors first."""
    found = [one for rule in rules for one in rule(plan, facts)]
    return sorted(found, key=lambda one: one.level != "error")
