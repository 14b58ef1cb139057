"""`check`: what would go wrong with a job, before it is submitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpc_dl.cli.job_options import job_options, layers


@click.command()
@click.argument("job", default="train", envvar="HPC_DL_JOB")
@click.option("--site", default="", envvar="HPC_DL_SITE", help="site name or file; default: where this machine is")
@click.option("--on-node", is_flag=True, envvar="HPC_DL_ON_NODE", help="look at the nodes too, in a job of a minute")
@job_options
def check(job: str, site: str, on_node: bool, **settings: Any) -> int:
    """Say what would go wrong with JOB (a name in jobs/ or a TOML file; default: train), all at once.

    An error would keep it from running; a warning would not. Exit code 2 if there is an error.
    """
    from hpc_dl.check.facts import gather
    from hpc_dl.check.finding import Finding, error, warning
    from hpc_dl.check.nodes import check_nodes
    from hpc_dl.check.rules import RULES, RULES_OF_SITE, findings
    from hpc_dl.errors import UserError
    from hpc_dl.planning.plan import make_plan
    from hpc_dl.submission.choose_site import choose_site, site_of_job

    found: list[Finding] = []
    rules, overrides = RULES, layers(settings)
    try:
        chosen = site_of_job(site, job, overrides)
        plan = make_plan(job, chosen.site, chosen.path, overrides)
    except UserError as wrong:
        chosen = choose_site(site)
        found.append(error(str(wrong)))
        plan, rules = make_plan(None, chosen.site, chosen.path), RULES_OF_SITE
    found += map(warning, chosen.notes)
    found += findings(plan, gather(plan), rules)
    if on_node and rules is RULES:
        try:
            found += check_nodes(plan, lambda text: click.echo(text, err=True))
        except (UserError, OSError) as wrong:
            if not found:
                found.append(error(str(wrong)))
    for one in found:
        click.echo(str(one))
    if not found:
        where = " and on its nodes" if on_node else ""
        click.echo(
            f"Nothing is wrong with job {plan.job.name} on site {plan.site.name}, as far as can be seen here{where}"
        )
    return 2 if any(one.level == "error" for one in found) else 0


@click.command()
@click.argument("run", type=Path)
@click.option("--nodelist", required=True, help="the nodes of the job")
@click.option("--with-data", is_flag=True, help="the data set is there, as seen from where the job is submitted")
def probe(run: Path, nodelist: str, with_data: bool) -> int:
    """Look at this node for the job of run folder RUN, and write down what was seen."""
    from hpc_dl.check.nodes import answer_probe
    from hpc_dl.node.facts import node_name
    from hpc_dl.runfolder.folder import RunFolder

    answer_probe(RunFolder(run), node_name(), nodelist, with_data)
    return 0
