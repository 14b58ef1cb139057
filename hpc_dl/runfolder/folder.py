"""The run folder: everything about one job, in one private place. This module knows every name in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import tomli_w

from hpc_dl.disk import look_anew, write_new, write_whole
from hpc_dl.spec.job import JobSpec
from hpc_dl.spec.layers import build, read_toml
from hpc_dl.spec.placement import NodeFacts, Placement
from hpc_dl.spec.site import Site
from hpc_dl.spec.site_files import without_gone

if TYPE_CHECKING:
    from hpc_dl.templates import Renderer

T = TypeVar("T")


class Failure(msgspec.Struct, frozen=True):
    """The first process that failed: the cause of the job's end."""

    process: str
    node: str
    exit_code: int
    """As a shell sees it: 128 + number for a signal."""
    signal: int = 0
    time: float = 0.0
    """Unix seconds."""
    last_lines: tuple[str, ...] = ()
    hung: str = ""
    """Why a process was killed as hung, such as ``no sign of life for 120 s``; empty: it did not hang."""

    def __str__(self) -> str:
        how = f"was killed by signal {self.signal}" if self.signal else f"ended with exit code {self.exit_code}"
        how = f"hung, and was killed: {self.hung}" if self.hung else how
        lines = "".join(f"\n    {line}" for line in self.last_lines)
        return f"{self.process} on node {self.node} {how}" + (
            f"; its last lines:{lines}" if lines else "; it said nothing"
        )


class Summary(msgspec.Struct, frozen=True):
    """How a job ended."""

    state: str
    exit_code: int
    started: float
    ended: float
    failure: Failure | None = None
    result: dict[str, Any] | None = None
    """What the training program wrote to ``result.json``."""
    attempts: int = 1
    """How often all processes were started, with requeues and restarts."""


class RunFolder:
    """The files of one job.

    Args:
        path: the folder.
        attempt: the attempt that is meant; None: the latest one.
    """

    def __init__(self, path: Path | str, attempt: int | None = None) -> None:
        self._attempt = attempt
        self._name_files(Path(path))

    def _name_files(self, path: Path) -> None:
        self.path = path
        self.job_file = self.path / "job.toml"
        self.asked_file = self.path / "asked.toml"
        self.site_file = self.path / "site.toml"
        self.local = self.path / "local.json"
        self.script = self.path / "job.sh"
        self.log = self.path / "job.log"
        self.templates = self.path / "templates"
        self.cluster = self.path / "cluster.json"
        self.placement = self.path / "placement.json"
        self.tasks = self.path / "tasks.txt"
        self.logs = self.path / "logs"
        self.attempts = self.path / "attempts.jsonl"
        self.attempt_file = self.path / "attempt"
        self.metrics = self.path / "metrics"
        self.monitor = self.path / "monitor"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.result = self.path / "result.json"
        self.summary = self.path / "summary.json"
        self.ended = self.path / "ended.json"

    @property
    def job_id(self) -> str:
        """Return the job id, the last part of the folder's name."""
        return self.path.name.rpartition("-")[2]

    @property
    def attempt(self) -> int:
        """Return the number of the attempt that is meant, counted from 0."""
        return self.latest_attempt() if self._attempt is None else self._attempt

    def latest_attempt(self) -> int:
        """Return the number of the job's latest attempt; 0 before the first."""
        try:
            text = self.attempt_file.read_bytes()
        except FileNotFoundError:
            return 0
        if text.strip().isdigit():
            return int(text)
        # The file was damaged: each attempt has left a folder too.
        return max((int(path.name) for path in (self.path / "state").glob("*") if path.name.isdigit()), default=0)

    @property
    def superseded(self) -> bool:
        """Return whether an attempt after the one that is meant has begun."""
        return self.latest_attempt() > self.attempt

    @property
    def state(self) -> Path:
        """Return the folder in which the launchers of an attempt tell one another what has happened."""
        return self.path / "state" / str(self.attempt)

    @property
    def facts(self) -> Path:
        """Return the folder of the nodes' facts."""
        return self.state / "facts"

    @property
    def done(self) -> Path:
        """Return the folder of markers of workers that ended well."""
        return self.state / "done"

    @property
    def lost(self) -> Path:
        """Return the folder of markers of workers that were given up."""
        return self.state / "lost"

    @property
    def stop(self) -> Path:
        """Return the file through which the job script or a launcher tells all launchers to end: it empties the file.

        The file exists from the attempt's beginning. On NFS, a node may see a new file of another node only a minute
        later; but when it opens a file, it reads the current content.
        """
        return self.state / "stop"

    def told_to_end(self) -> bool:
        """Return whether all launchers are to end."""
        try:
            return not self.stop.read_bytes()
        except FileNotFoundError:
            return False

    @property
    def failure(self) -> Path:
        """Return the file of the attempt's first failure."""
        return self.state / "failure.json"

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make a new private run folder.

        Raises:
            FileExistsError: there is one of this name.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        return cls(path)

    def rename(self, name: str) -> None:
        """Give the folder another name in the same parent folder.

        Raises:
            OSError: the name is taken.
        """
        self._name_files(self.path.rename(self.path.with_name(name)))

    def log_of(self, process: str) -> Path:
        """Return the log of process ``worker:3``."""
        return self.logs / f"{process.replace(':', '-')}.log"

    def freeze(self, job: JobSpec, asked: JobSpec, site: Site, script: str, templates: Mapping[str, Path]) -> None:
        """Write the files that the job is made from, so that later changes of their sources don't affect it.

        Args:
            job: the resolved job description.
            asked: the job description as it was given, without the site's defaults.
            site: the site.
            script: the job script.
            templates: name and file of the templates that the job itself renders.
        """
        write_whole(self.job_file, to_toml(job))
        write_whole(self.asked_file, to_toml(asked))
        write_whole(self.site_file, to_toml(site))
        write_whole(self.script, script)
        for name, path in templates.items():
            target = self.templates / name
            # `mkdir` with parents would give its mode to the last folder alone.
            inside = [parent for parent in reversed(target.parents) if parent.is_relative_to(self.templates)]
            for folder in inside:
                folder.mkdir(mode=0o700, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o600)
        self.log.touch(0o600)  # Slurm appends to it, and would make it with the user's umask

    def freeze_like(self, other: RunFolder) -> None:
        """Take the files that `freeze` has written for another element of an array; they are on the disk once."""
        for source in (other.job_file, other.asked_file, other.site_file, other.script):
            _link(source, self.path / source.name)
        shutil.copytree(other.templates, self.templates, copy_function=_link)
        self.log.touch(0o600)

    def freeze_job(self, job: JobSpec, asked: JobSpec) -> None:
        """Replace the job description, before the job is submitted."""
        for path, value in ((self.job_file, job), (self.asked_file, asked)):
            path.unlink()  # it may be shared with other elements of an array
            write_new(path, to_toml(value))

    def renderer(self) -> Renderer:
        """Return a renderer of the frozen templates."""
        from hpc_dl.templates import Renderer  # few commands need it, and it takes a third of their start

        return Renderer([], self.templates)

    def read_job(self) -> JobSpec:
        """Return the frozen job description."""
        return build(JobSpec, [read_toml(self.job_file)], "job")

    def read_site(self) -> Site:
        """Return the frozen site."""
        return build(Site, [without_gone(read_toml(self.site_file))], "site")

    def read_facts(self) -> dict[str, NodeFacts]:
        """Return the facts of each node, by node name."""
        told = (msgspec.json.decode(path.read_bytes(), type=NodeFacts) for path in self.facts.glob("*.json"))
        return {facts.node: facts for facts in told}

    def read_cluster(self) -> dict[str, list[str]]:
        """Return the cluster spec."""
        return msgspec.json.decode(self.cluster.read_bytes(), type=dict[str, list[str]])

    def read_placement(self) -> Placement:
        """Return the placement of the job's processes."""
        return msgspec.json.decode(self.placement.read_bytes(), type=Placement)

    def read_failure(self) -> Failure | None:
        """Return the first failure, if there was one."""
        look_anew(self.state)
        return _read(self.failure, Failure)

    def read_result(self) -> dict[str, Any] | None:
        """Return what the training program reported at its end; None if that is no object of JSON."""
        try:
            result = json.loads(self.result.read_bytes())  # not msgspec: a loss may be NaN
        except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
            return None
        return result if isinstance(result, dict) else None

    def read_summary(self) -> Summary | None:
        """Return how the job ended, if it did."""
        return _read(self.summary, Summary)

    def processes(self) -> Iterator[str]:
        """Yield the names of the processes that have a log, ``ps:0``, ``worker:0``, … in order."""
        logs = (path.stem.rpartition("-") for path in self.logs.glob("*-*.log"))
        for role, index in sorted((role, int(index)) for role, _, index in logs if index.isdecimal()):
            yield f"{role}:{index}"


def _link(source: Path | str, target: Path | str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # a file system without links, or too many of them
        shutil.copy2(source, target)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    # Ours are written whole, so one that can't be decoded is not ours.
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def to_toml(value: msgspec.Struct) -> str:
    """Return a frozen object as TOML that the readers of job and site files take again."""
    return tomli_w.dumps({k: v for k, v in msgspec.to_builtins(value).items() if v is not None})
