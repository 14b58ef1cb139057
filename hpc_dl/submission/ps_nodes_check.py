"""Can parameter servers have nodes of their own? Asked before submission."""

from __future__ import annotations

from hpc_dl.errors import UserError
from hpc_dl.planning.plan import Plan
from hpc_dl.schedulers import scheduler_of


def check_ps_nodes(plan: Plan) -> None:
    """Check that the scheduler can give the job its `ps_nodes`, if it asks for some.

    Raises:
        UserError: It can't.
    """
    if plan.job.ps_nodes and (reason := scheduler_of(plan.site).ps_nodes_problem()):
        raise UserError(
            f"ps_nodes = {plan.job.ps_nodes}: {reason}: leave out ps_nodes and ps_partition, and the parameter servers"
            " share the nodes of workers"
        )
