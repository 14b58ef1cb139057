"""Checks the nodes of a job, in a short job of their own. Without Slurm, it checks this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hpc_dl import data
from hpc_dl.check.finding import Finding, error, last_line
from hpc_dl.check.node_rules import findings
from hpc_dl.check.probe import NodeAnswer, probe
from hpc_dl.disk import write_whole
from hpc_dl.planning.plan import Plan, script_values
from hpc_dl.runfolder.folder import RunFolder
from hpc_dl.schedulers import scheduler_of
from hpc_dl.schedulers.protocol import ENDED, JobState
from hpc_dl.spec.nodelist import expand
from hpc_dl.spec.site import Scalar
from hpc_dl.submission.asking import Asking
from hpc_dl.templates import Renderer
from hpc_dl.templates.values import NodesScript

_MINUTES = "2"  # a minute is too short to import TensorFlow from a slow disk
_LOOK = 0.2  # seconds between looks for the end of the job
_LOG = "check.log"


def check_nodes(plan: Plan, say: Callable[[str], None]) -> list[Finding]:
    """Run the probe where the job would run, and return all that is wrong there. Leave nothing behind.

    Args:
        plan: the job.
        say: shows a line to the user while the job waits.

    Raises:
        UserError: Slurm refuses the job.
        OSError: the folder of the run folders can't be written.
    """
    answers, silent = ask_nodes(plan, say)
    return [one for answer in answers for one in findings(plan.job, plan.site, answer)] + silent


def ask_nodes(plan: Plan, say: Callable[[str], None]) -> tuple[list[NodeAnswer], list[Finding]]:
    """Run the probe where the job would run, and return the answers and what is wrong with nodes that gave none.

    Args:
        plan: the job.
        say: shows a line to the user while the job waits.

    Raises:
        UserError: Slurm refuses the job.
        OSError: the folder of the run folders can't be written.
    """
    with _folder(plan) as run:
        scheduler = scheduler_of(plan.site)
        if scheduler.one_machine:
            name = os.uname().nodename
            return [probe(run, name, [name], _has_data(plan), local=True)], []
        write_whole(run.script, node_script(plan))
        scheduler.submit(run, _name(plan))
        asking = Asking(run)
        try:
            say(f"Submitted batch job {run.job_id}, which checks {plan.job.nodes} nodes")
            _wait(asking, say)
        finally:
            if asking.state.state not in ENDED:
                scheduler.cancel([run])
                _wait(asking, lambda _: None)
        return read_answers(plan, run, asking.state)


def _has_data(plan: Plan) -> bool:
    return not plan.job.script and data.is_there(plan.job.data, Path(plan.job.workdir, plan.site.data))


def _name(plan: Plan) -> str:
    return f".check-{plan.job.name}"  # the dot hides it from `list`


def node_script(plan: Plan) -> str:
    """Return the script of the job that checks the nodes. It asks for as much as the job itself."""
    options = dict(scheduler_of(plan.site).directives(plan.job, plan.site, plan.runs))
    # It has nothing to save or to continue: a signal ahead of its end would only kill the probes.
    options.pop("signal", None)
    if options.pop("requeue", False):
        options["no-requeue"] = True
    changes: dict[str, Scalar] = {
        "job-name": f"check-{plan.job.name}",
        "time": _MINUTES,
        "output": f"{str(plan.runs).replace('%', '%%')}/{_name(plan)}-%j/{_LOG}",
    }
    values = NodesScript(
        **script_values(plan.site, plan.job.workdir, {**options, **changes}, plan.job.env),
        job=plan.job,
        run=f"{plan.runs}/{_name(plan)}-",
        with_data=_has_data(plan),
        step_options=scheduler_of(plan.site).step_options(plan.job, plan.site, 1),
    )
    return Renderer(plan.templates).render("check/nodes.sh.j2", values)


def read_answers(plan: Plan, run: RunFolder, state: JobState) -> tuple[list[NodeAnswer], list[Finding]]:
    """Return what the nodes wrote into the run folder, and what is wrong with those that wrote nothing."""
    answers = [
        msgspec.json.decode(path.read_bytes(), type=NodeAnswer) for path in sorted(run.path.glob("*.answer.json"))
    ]
    if len(answers) >= plan.job.nodes:
        return answers, []
    answered = {answer.node for answer in answers}
    silent = [node for node in (expand(state.nodelist) if state.nodelist else []) if node not in answered]
    log = run.path / _LOG
    said = last_line(log.read_text(errors="replace")) if log.exists() else f"no log in {plan.runs}"
    which = f"nodes {', '.join(silent)}" if silent else f"{plan.job.nodes - len(answers)} nodes"
    return answers, [error(f"{which} did not answer; job {run.job_id} ended {state.state}: {said}")]


def answer_probe(run: RunFolder, node: str, nodelist: str, with_data: bool) -> None:
    """Probe this node, in a step of the job that checks it, and write the answer into the run folder."""
    answer = probe(run, node, expand(nodelist), with_data)
    write_whole(run.path / f"{node}.answer.json", msgspec.json.encode(answer))


def _wait(asking: Asking, say: Callable[[str], None]) -> None:
    """Wait for the end of a job, and say why the job is pending."""
    reason = ""
    while not asking.look().over:
        if asking.state.reason not in ("", reason):
            reason = asking.state.reason
            say(f"Job {asking.state.job_id} waits: {reason} (Ctrl-C ends it)")
        time.sleep(_LOOK)


@contextlib.contextmanager
def _folder(plan: Plan) -> Iterator[RunFolder]:
    """Yield a temporary run folder."""
    made = [folder for folder in (plan.runs, *plan.runs.parents) if not folder.exists()]
    run = RunFolder.create(plan.runs / f".check-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        run.freeze(plan.job, plan.asked, plan.site, "", {})
        yield run
    finally:
        shutil.rmtree(run.path, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
