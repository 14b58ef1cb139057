"""Preview: the text of every file that a job would have in its run folder."""

from __future__ import annotations

import msgspec

from hpc_dl.errors import UserError, allowed, near_match
from hpc_dl.planning.plan import Plan
from hpc_dl.planning.process_env import rank_variables, script_defaults, variables
from hpc_dl.planning.site_env import site_env
from hpc_dl.runfolder.folder import RunFolder, to_toml
from hpc_dl.spec.placement import Placement, classic_flags, tf_config


def files(plan: Plan, placement: Placement) -> dict[str, str]:
    """Return the text of each file by its name, from the functions that make the real files."""
    run = preview_folder(plan)
    cluster = msgspec.json.format(msgspec.json.encode(placement.cluster())).decode()
    places = msgspec.json.format(msgspec.json.encode(placement)).decode()
    return {
        run.script.name: plan.script(),
        run.tasks.name: plan.task_file(placement, str(run.path)),
        run.cluster.name: cluster + "\n",
        run.placement.name: places + "\n",
        run.job_file.name: to_toml(plan.job),
        run.asked_file.name: to_toml(plan.asked),
        run.site_file.name: to_toml(plan.site),
    }


def preview_folder(plan: Plan) -> RunFolder:
    """Return the run folder with JOBID where the job's number will be."""
    return RunFolder(plan.runs / f"{plan.job.name}-JOBID")


def process_text(plan: Plan, placement: Placement, name: str) -> str:
    """Return what one process gets, a line each: its node, variables and the classic flags.

    Raises:
        UserError: the job has no process of that name.
    """
    named = {process.name: process for process in placement.processes}
    if name not in named:
        raise UserError(
            f"process {name!r}: not in this job{near_match(name, named)}; it has {allowed(list(named)[:20])}"
        )
    process = named[name]
    cluster = placement.cluster()
    own = {**rank_variables(placement).get(name, {}), **site_env(plan.site), **plan.job.env}
    environ = {**script_defaults(plan.job), **own, **variables(process, plan.job, plan.site)}
    lines = [
        f"node {process.node}",
        *(f"{key}={value}" for key, value in environ.items()),
        f"TF_CONFIG={tf_config(cluster, process.role, process.index)}",
    ]
    if plan.job.classic_flags:
        lines += classic_flags(cluster, process.role, process.index)
    return "\n".join(lines)
