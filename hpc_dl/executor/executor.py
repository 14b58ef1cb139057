"""Executor: submits functions as jobs, with the interface of submitit's executors."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import submitit
from submitit.core.utils import DelayedSubmission, JobPaths

from hpc_dl.disk import write_new
from hpc_dl.errors import UserError, near_match
from hpc_dl.executor.job import FunctionJob, task_names
from hpc_dl.executor.parameters import job_settings, settings_of, with_settings
from hpc_dl.executor.pickled import Call, describe, dumps
from hpc_dl.planning.gpu_memory import gpu_warning
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.runfolder.function import FunctionFiles
from hpc_dl.schedulers import scheduler_of
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer, build
from hpc_dl.submission.array import array_numbers
from hpc_dl.submission.choose_site import site_of_job
from hpc_dl.submission.submit import submit_array, submit_plan

_RUN = Path(__file__).with_name("run.py")
_ORIGIN = "update_parameters: {key}"
_OPTIONS = ("max_num_timeout", "max_pickle_size_gb")


class Executor(submitit.Executor):
    """Submits functions as jobs; takes the place of ``submitit.AutoExecutor``.

    A function runs in each worker of its job, and in the chief, with ``TF_CONFIG``, GPUs and MPI as the mode has them.

    Args:
        folder: the folder for the run folders; None: the site's, where ``hpc-dl list`` finds them.
        site: name or path of a site file; empty: the site that this machine belongs to.
        cluster: submitit's word for it: ``slurm`` or ``local``.
        max_num_timeout: how often a job whose function has a checkpoint is queued again at its time limit.
        max_pickle_size_gb: the largest size of what one call submits.
        **options: the last two with submitit's prefix, such as ``slurm_max_num_timeout``.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        site: str = "",
        cluster: str | None = None,
        max_num_timeout: int = 3,
        max_pickle_size_gb: float = 1.0,
        **options: Any,
    ) -> None:
        self._runs = JobPaths.get_first_id_independent_folder(os.fspath(folder)) if folder is not None else None
        super().__init__(self._runs or "runs")
        self._site = site or _site_of_cluster(cluster)
        self._needs_slurm = cluster == "slurm"
        self.max_num_timeout = max_num_timeout
        self.max_pickle_size_gb = max_pickle_size_gb
        for name, value in options.items():
            prefix, _, option = name.partition("_")
            if option not in _OPTIONS or prefix not in ("slurm", "local"):
                raise UserError(f"Executor: unknown argument {name!r}{near_match(name, _OPTIONS)}")
            if prefix == "slurm":
                setattr(self, option, value)

    @classmethod
    def name(cls) -> str:
        """Return the name that ``submitit.AutoExecutor(cluster="hpc_dl")`` takes."""
        return "hpc_dl"

    @classmethod
    def affinity(cls) -> int:
        """Return 0: submitit chooses this executor only when it is asked to."""
        return 0

    def _internal_update_parameters(self, **kwargs: Any) -> None:
        given = {name: value for name, value in kwargs.items() if value is not None}
        settings = settings_of({**self.parameters, **given})
        build(JobSpec, [Layer(job_settings(settings, whole_nodes=True), _ORIGIN)], "job")
        self.parameters.update(given)

    def _internal_process_submissions(
        self, delayed_submissions: Sequence[DelayedSubmission]
    ) -> list[submitit.Job[Any]]:
        calls = [Call(one.function, one.args, one.kwargs) for one in delayed_submissions]
        pickles: list[bytes] = []
        for call in calls:
            pickles.append(dumps(tuple(call), f"the function {call.name!r}"))
            self._check_size(pickles)
        adders = [_adder(call, pickle) for call, pickle in zip(calls, pickles, strict=True)]
        plan = self._plan(calls[0], len(calls))
        names = tuple(task_names(plan.job))
        if len(calls) == 1:
            return [FunctionJob(submit_plan(plan, adders[0]), names)]
        return [FunctionJob(run, names) for run in submit_array(plan, adders)]

    def _check_size(self, pickles: Sequence[bytes]) -> None:
        size = sum(map(len, pickles)) / 1024**3
        if size > self.max_pickle_size_gb:
            raise UserError(
                f"functions and arguments have {size:.2g} GB, and executor.max_pickle_size_gb is"
                f" {self.max_pickle_size_gb:g}: write large data to a file, and submit its name"
            )

    def _plan(self, call: Call, elements: int) -> Plan:
        settings = settings_of(self.parameters)
        layers = [
            Layer({"name": _job_name(call.name), "requeues": self.max_num_timeout}, "Executor"),
            Layer(job_settings(settings, whole_nodes=True), _ORIGIN),
            Layer({"script": str(_RUN)}, "Executor"),
        ]
        chosen = site_of_job(self._site, None, layers)
        for note in chosen.notes:
            warnings.warn(note, stacklevel=5)
        site = with_settings(chosen.site, settings)
        if self._needs_slurm and scheduler_of(site).one_machine:
            raise UserError("cluster = 'slurm': no Slurm answers here")
        whole = site.exclusive or scheduler_of(site).one_machine
        layers[1] = Layer(job_settings(settings, whole), _ORIGIN)
        if self._runs is not None:
            site = msgspec.structs.replace(site, runs=str(self._runs))
        plan = make_plan(None, site, chosen.path, layers)
        if warning := gpu_warning(plan.job, site):
            warnings.warn(warning, stacklevel=5)
        if elements == 1:
            return plan
        return msgspec.structs.replace(plan, array=array_numbers(elements, settings.get("array_parallelism")))


def _adder(call: Call, pickle: bytes) -> Callable[[RunFolder], None]:
    """Return what writes a call into a run folder."""
    description = msgspec.json.format(msgspec.json.encode(describe(call)))

    def add(run: RunFolder) -> None:
        files = FunctionFiles(run.path)
        files.folder.mkdir(mode=0o700)
        write_new(files.description, description)
        write_new(files.submitted(), pickle)

    return add


def _site_of_cluster(cluster: str | None) -> str:
    """Return the site for submitit's name of a cluster.

    Raises:
        UserError: we have no such cluster.
    """
    if cluster in (None, "slurm", "hpc_dl"):
        return ""
    if cluster == "local":
        return "local"
    raise UserError(f"cluster = {cluster!r}: allowed: 'slurm', 'local'; site = … names any other site")


def _job_name(function: str) -> str:
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9_.-]", "", function)[:64] or "function"
