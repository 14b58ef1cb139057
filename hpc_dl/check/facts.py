"""Facts about the machine where a job is submitted, and about its Slurm. `rules` judges them."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import msgspec

from hpc_dl import data
from hpc_dl.check.finding import last_line
from hpc_dl.check.python import Python, read_python, wanted_packages
from hpc_dl.errors import UserError
from hpc_dl.machine import ports_in_use
from hpc_dl.planning.plan import Plan, script_values
from hpc_dl.planning.task_file import inner_module, nodes_python
from hpc_dl.schedulers import scheduler_of
from hpc_dl.schedulers.cluster import Cluster
from hpc_dl.submission.container_check import check_container_here
from hpc_dl.submission.mpi_check import check_mpi
from hpc_dl.submission.ps_nodes_check import check_ps_nodes
from hpc_dl.templates import Renderer
from hpc_dl.templates.values import HereScript

# What base.sh.j2 says of a line that failed.
_FAILED = re.compile(r"hpc-dl: (module_init|module load|before_modules|after_modules) failed; [^:]*: (.*)")
_PATIENCE = 180  # seconds for modules and the import of TensorFlow from a slow disk


class Folder(msgspec.Struct, frozen=True):
    """A folder that a job writes into."""

    path: str
    problem: str = ""
    """Why nothing can be written there; empty if it can."""
    free: int = 0
    """Bytes."""


class Here(msgspec.Struct, frozen=True):
    """How the site's modules and the nodes' Python work on this machine."""

    failed_modules: dict[str, str] = {}
    """Module to what it printed when it failed to load. ``module_init`` stands for the file of that site key."""
    python: Python | None = None
    said: str = ""
    """The last line that was printed, if `python` is None."""
    failed_lines: dict[str, str] = {}
    """``KEY: LINE`` of the site's shell lines to what it printed when it failed."""


class Facts(msgspec.Struct, frozen=True):
    """What is known before submission."""

    runs: Folder
    data: Folder
    here: Here
    cluster: Cluster | None = None
    """None in a local run."""
    refusal: str = ""
    """Why Slurm would not take the job, as ``sbatch --test-only`` says; empty if it would."""
    data_there: bool = True
    no_network: str = ""
    """Why the data set's address can't be reached, if it must be downloaded; else empty."""
    mpi_problem: str = ""
    outgoing_ports: tuple[int, int] = (0, 0)
    """The first and last of the ports that the kernel gives to outgoing connections."""
    busy_ports: frozenset[int] = frozenset()
    container_problem: str = ""
    script: str = ""
    """Why the user's script can't be run; empty if it can."""


def gather(plan: Plan) -> Facts:
    """Find out everything that the rules need. This takes as long as importing TensorFlow."""
    job, site = plan.job, plan.site
    data_dir = Path(job.workdir, site.data)
    built_in = not job.script
    there = not built_in or data.is_there(job.data, data_dir)
    must_download = built_in and not there and data.describe(job.data).needs_download
    return Facts(
        runs=look_at(plan.runs),
        data=look_at(data_dir) if built_in and not there else Folder(str(data_dir)),
        here=ask_here(plan),
        cluster=scheduler_of(site).cluster(),
        refusal=_refusal(plan),
        data_there=there,
        no_network=_no_network(data.describe(job.data).url) if must_download else "",
        mpi_problem=_problem(lambda: check_mpi(job, site, nodes_python(site))),
        container_problem=_problem(lambda: check_container_here(plan)),
        outgoing_ports=_outgoing_ports(),
        busy_ports=ports_in_use(site.ports) if site.address else frozenset(),
        script=_problem_of_script(Path(job.script)) if job.script else "",
    )


def look_at(path: Path) -> Folder:
    """Try to write a file into a folder, or into its nearest ancestor that exists; then remove the file."""
    nearest = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    try:
        with tempfile.TemporaryFile(dir=nearest, prefix=".hpc_dl-") as file:
            file.write(b"x")
        return Folder(str(path), "", shutil.disk_usage(nearest).free)
    except OSError as error:
        return Folder(str(path), f"{nearest}: {error.strerror}")


def here_script(plan: Plan) -> str:
    """Return the script that looks at this machine."""
    job = plan.job
    values = HereScript(
        **script_values(plan.site, job.workdir, {}, job.env),
        inner_module=inner_module(job, plan.site),
        job=job,
        wanted=[] if plan.site.in_container else wanted_packages(job.mode, job.script),
    )
    return Renderer(plan.templates).render("check/here.sh.j2", values)


def ask_here(plan: Plan) -> Here:
    """Load the site's modules in a separate shell, and ask the nodes' Python there what it has."""
    script = here_script(plan)
    with tempfile.NamedTemporaryFile("w", prefix="hpc_dl-", suffix=".sh") as file:
        file.write(script)
        file.flush()
        try:
            done = subprocess.run(
                ["bash", *(["-l"] if plan.site.login_shell or plan.site.clean_environment else []), file.name],
                env=_environment_of_a_login() if plan.site.clean_environment else None,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return Here(said=f"no answer within {_PATIENCE} s")
    return read_here(done.stdout)


def _environment_of_a_login() -> dict[str, str]:
    """Return what a login shell begins with: a job with a clean environment gets what such a shell then has."""
    kept = {key: value for key in ("HOME", "USER", "LOGNAME", "SHELL") if (value := os.environ.get(key))}
    return {**kept, "PATH": os.defpath}


def read_here(output: str) -> Here:
    """Parse what the script of `ask_here` printed."""
    modules: dict[str, str] = {}
    lines: dict[str, str] = {}
    before: list[str] = []
    for line in output.splitlines():
        if found := _FAILED.fullmatch(line):
            kind, what = found.groups()
            errors = [text.strip() for text in before if "error" in text.lower()]
            said = errors[0] if errors else last_line("\n".join(before))
            if kind.endswith("_modules"):
                lines[f"{kind}: {what}"] = said
            else:
                modules[kind if kind == "module_init" else what] = said
            before = []
        else:
            before.append(line)
    python = read_python(output)
    return Here(modules, python, "" if python else last_line("\n".join(before)), lines)


def _refusal(plan: Plan) -> str:
    try:
        check_ps_nodes(plan)
        scheduler_of(plan.site).test(plan.script())
    except (UserError, OSError) as error:
        return str(error)
    return ""


def _no_network(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in urllib.request.getproxies():
        return ""  # the proxy decides
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=10).close()
    except OSError as error:
        return f"{parts.hostname}: {error.strerror or error}"
    return ""


def _problem(check: Callable[[], None]) -> str:
    """Return what a check raises; empty if nothing."""
    try:
        check()
    except UserError as error:
        return str(error)
    return ""


def _outgoing_ports() -> tuple[int, int]:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return (0, 0)
    return (int(low), int(high))


def _problem_of_script(script: Path) -> str:
    if not os.access(script, os.R_OK):
        return "it can't be read"
    if script.suffix == ".py":
        return ""
    if not os.access(script, os.X_OK):
        return f"it is not executable: chmod +x {script}"
    with script.open("rb") as file:
        start = file.read(4)
    runs = start[:2] == b"#!" or start == b"\x7fELF"
    return "" if runs else "its first line names no interpreter, such as #!/bin/bash"
