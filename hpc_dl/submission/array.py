"""Arrays of jobs that differ in single settings: one job script for all, a run folder for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from hpc_dl.errors import UserError, allowed
from hpc_dl.planning.plan import Plan, make_plan
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.options import fields
from hpc_dl.submission.choose_site import Choice
from hpc_dl.submission.submit import submit_array
from hpc_dl.tasks.file.sweep import read_table


def read_elements(path: Path) -> list[Layer]:
    """Return the settings of each element: the rows of a CSV file, or every combination of a TOML file's lists.

    An empty cell leaves its key as it is.

    Raises:
        UserError: the file can't be read, or is malformed.
    """
    known = {field.name: field for field in fields(JobSpec)}
    found = []
    for row in read_table(path):
        given = {key: value for key, value in row.values.items() if value != ""}
        values = {key: known[key].parse(value, row.place) if key in known else value for key, value in given.items()}
        found.append(Layer(values, row.place))
    return found


def array_numbers(elements: int, parallel: int | None) -> str:
    """Return the numbers of an array's elements as Slurm writes them, ``0-9%2``.

    Raises:
        UserError: `parallel` is no number of elements that may run at once.
    """
    if parallel is not None and (isinstance(parallel, bool) or not isinstance(parallel, int) or parallel < 1):
        raise UserError(f"parallel = {parallel!r}: expected how many elements of the array may run at once, at least 1")
    return f"0-{elements - 1}" + (f"%{parallel}" if parallel else "")


def plan_array(
    job: str | None, chosen: Choice, common: Sequence[Layer], elements: Sequence[Layer], parallel: int | None = None
) -> list[Plan]:
    """Return the plan of each element.

    Args:
        job: name or path of a job file; None: the defaults.
        chosen: the site.
        common: settings of all elements, weakest first.
        elements: the settings of each.
        parallel: how many may run at once; None: as many as fit.

    Raises:
        UserError: something is not valid, or elements differ in what one job script can say only once.
    """
    if not elements:
        raise UserError("an array has no elements: expected the settings of at least one")
    numbers = array_numbers(len(elements), parallel)
    plans = [
        msgspec.structs.replace(make_plan(job, chosen.site, chosen.path, [*common, element]), array=numbers)
        for element in elements
    ]
    script = plans[0].script()
    for number, plan in enumerate(plans):
        keys = _different(plans[0].job, plan.job)
        if differs := [key for key in keys if _with(plans[0], key, plan).script() != script]:
            raise UserError(
                f"{elements[number].where(differs[0])}: {differs[0]} = {getattr(plan.job, differs[0])!r}, and the first"
                f" element has {getattr(plans[0].job, differs[0])!r}: one job script asks for all elements of an array,"
                f" and they differ in {allowed(differs)}; give it once for all, or submit several arrays"
            )
    return plans


def submit_elements(plans: Sequence[Plan]) -> list[RunFolder]:
    """Submit the elements of an array and return their run folders.

    Raises:
        UserError: see `submit_plan`.
    """
    return submit_array(plans[0], [_freezer(plan) for plan in plans])


def _freezer(plan: Plan) -> Callable[[RunFolder], None]:
    return lambda run: run.freeze_job(plan.job, plan.asked)


def _different(one: JobSpec, other: JobSpec) -> Iterator[str]:
    return (key for key in JobSpec.__struct_fields__ if getattr(one, key) != getattr(other, key))


def _with(plan: Plan, key: str, other: Plan) -> Plan:
    """Return a plan with one setting of another."""
    return msgspec.structs.replace(plan, job=msgspec.structs.replace(plan.job, **{key: getattr(other.job, key)}))
