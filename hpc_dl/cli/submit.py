"""`submit`, `resume` and `render`: a job description becomes a job, or the files that it would have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpc_dl.cli.arguments import JOB, RUNS
from hpc_dl.cli.job_options import job_options, layers
from hpc_dl.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpc_dl.planning.plan import Plan
    from hpc_dl.spec.layers import Layer

_JOB = click.argument("job", default="train", envvar="HPC_DL_JOB")
_SITE = click.option(
    "--site", default="", envvar="HPC_DL_SITE", help="site name or file; default: where this machine is"
)


_DETACH = click.option("--detach", is_flag=True, envvar="HPC_DL_DETACH", help="return at once")
_DRY_RUN = click.option(
    "--dry-run", is_flag=True, envvar="HPC_DL_DRY_RUN", help="let Slurm check the job, don't submit it"
)


@click.command()
@_JOB
@_SITE
@_DETACH
@_DRY_RUN
@click.option(
    "--array",
    type=Path,
    envvar="HPC_DL_ARRAY",
    help="a job for each row of this CSV file, or combination of this TOML file",
)
@click.option("--parallel", type=int, envvar="HPC_DL_PARALLEL", help="how many jobs of an array may run at once")
@job_options
def submit(
    job: str, site: str, detach: bool, dry_run: bool, array: Path | None, parallel: int | None, **settings: Any
) -> int:
    """Submit JOB (a name in jobs/ or a TOML file; default: train) and show its progress."""
    if array is not None:
        return _send_array(job, site, layers(settings), array, parallel, detach, dry_run)
    if parallel is not None:
        raise UserError(f"--parallel {parallel}: only an array has jobs that may run at once; see --array")
    return _send(_planned(job, site, layers(settings)), detach, dry_run)


@click.command()
@JOB
@RUNS
@_SITE
@_DETACH
@_DRY_RUN
@click.option("--from-start", is_flag=True, envvar="HPC_DL_FROM_START", help="begin at step 0, without its checkpoints")
@job_options
def resume(job: str, runs: str, site: str, detach: bool, dry_run: bool, from_start: bool, **settings: Any) -> int:
    """Submit again what JOB (a job id or run folder; default: the newest) was to do, from its last checkpoint.

    Options change the job: other nodes, another mode, more steps. Network, data set and script stay.
    """
    from hpc_dl.submission.handle import find_job
    from hpc_dl.submission.resume import plan_resumption

    earlier = find_job(job, Path(runs))
    plan, notes = plan_resumption(earlier.run, earlier.query(), site, layers(settings), from_start)
    _say_notes(notes)
    if plan.job.start_from:
        click.echo(f"Starts from {plan.job.start_from}")
    return _send(plan, detach, dry_run)


def _planned(job: str, site: str, overrides: Sequence[Layer], nodelist: str = "") -> Plan:
    """Return the plan of a job on its site. Print notes on how the site was chosen."""
    from hpc_dl.planning.plan import make_plan
    from hpc_dl.submission.choose_site import site_of_job

    chosen = site_of_job(site, job, overrides)
    _say_notes(chosen.notes)
    return make_plan(job, chosen.site, chosen.path, overrides, nodelist)


def _say_notes(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"hpc-dl: note: {note}", err=True)


def _send(plan: Plan, detach: bool, dry_run: bool) -> int:
    """Show a plan, submit it and follow the job; return the exit code."""
    from rich.console import Console

    from hpc_dl.cli.jobs import follow
    from hpc_dl.cli.terminal import placement_table
    from hpc_dl.planning.gpu_memory import gpu_warning
    from hpc_dl.schedulers import scheduler_of
    from hpc_dl.submission.handle import Job
    from hpc_dl.submission.submit import check_plan, submit_plan

    console = Console()
    say = _sayer(console)
    placement = plan.placement()
    local = scheduler_of(plan.site).one_machine
    where = "" if local else "; node names are examples until Slurm assigns them"
    say(f"Job {plan.job.name}, mode {plan.job.mode}, site {plan.site.name}{where}")
    console.print(placement_table(placement))
    if warning := gpu_warning(plan.job, plan.site):
        click.echo(f"hpc-dl: warning: {warning}", err=True)
    if dry_run:
        say(check_plan(plan))
        return 0
    handle = Job(submit_plan(plan))
    say(f"{'Started local job' if local else 'Submitted batch job'} {handle.job_id}")
    if detach:
        say(f"Run folder: {handle.run.path}")
        return 0
    return follow(handle, console)


def _send_array(
    job: str, site: str, common: Sequence[Layer], file: Path, parallel: int | None, detach: bool, dry_run: bool
) -> int:
    """Submit a job for each row of a table and follow them; return 1 if one ended badly."""
    from rich.console import Console

    from hpc_dl.schedulers import scheduler_of
    from hpc_dl.submission.array import plan_array, read_elements, submit_elements
    from hpc_dl.submission.choose_site import site_of_job
    from hpc_dl.submission.states import states
    from hpc_dl.submission.submit import check_plan
    from hpc_dl.submission.table import watch

    elements = read_elements(file)
    chosen = site_of_job(site, job, [*common, elements[0]])
    _say_notes(chosen.notes)
    plans = plan_array(job, chosen, common, elements, parallel)
    say = _sayer(Console())
    if dry_run:
        say(check_plan(plans[0]))
        return 0
    runs = submit_elements(plans)
    local = scheduler_of(chosen.site).one_machine
    which = f"{runs[0].job_id} to {runs[-1].job_id}" if local else runs[0].job_id.partition("_")[0]
    what = "Started local jobs" if local else "Submitted array"
    say(f"{what} {which}: {len(runs)} jobs, with run folders in {plans[0].runs}")
    if detach:
        return 0
    try:
        watch(runs)
    except KeyboardInterrupt:
        click.echo("\nDetached; the jobs go on")
        return 0
    return int(any(state.state != "COMPLETED" for state in states(runs)))


@click.command()
@_JOB
@_SITE
@click.option("--nodelist", default="", envvar="HPC_DL_NODELIST", help="nodes to assume, such as 'nvb[16,19,25]'")
@click.option("--table", is_flag=True, envvar="HPC_DL_TABLE", help="print the table alone")
@click.option("--process", default="", help="print the environment and flags of one process, such as worker:3")
@job_options
def render(job: str, site: str, nodelist: str, table: bool, process: str, **settings: Any) -> int:
    """Print every file that JOB would have, and the table node x process. Needs no Slurm."""
    from rich.console import Console

    from hpc_dl.cli.terminal import placement_table
    from hpc_dl.planning.preview import files, process_text

    plan = _planned(job, site, layers(settings), nodelist)
    placement = plan.placement(nodelist)
    if process:
        click.echo(process_text(plan, placement, process))
        return 0
    if not table:
        for name, text in files(plan, placement).items():
            click.echo(f"==> {name} <==\n{text}")
    Console().print(placement_table(placement))
    return 0


def _sayer(console: Any) -> Any:
    return lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False)
