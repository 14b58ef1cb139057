"""The run folder: everything about one job, in one private place. This module knows every name in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli_w

from hpc_dl.config import build, read_toml
from hpc_dl.jobspec import JobSpec
from hpc_dl.placement import NodeFacts, Placement
from hpc_dl.rendering import Renderer
from hpc_dl.site import Site

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

    def __str__(self) -> str:
        how = f"was killed by signal {self.signal}" if self.signal else f"ended with exit code {self.exit_code}"
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


class RunFolder:
    """The files of one job; reading is by whoever shares the disk, writing by the job alone."""

    def __init__(self, path: Path | str) -> None:
        self._name_files(Path(path))

    def _name_files(self, path: Path) -> None:
        self.path = path
        self.job_file = self.path / "job.toml"
        self.site_file = self.path / "site.toml"
        self.local = self.path / "local.json"
        self.script = self.path / "job.sh"
        self.log = self.path / "job.log"
        self.templates = self.path / "templates"
        self.facts = self.path / "nodes.jsonl"
        self.cluster = self.path / "cluster.json"
        self.placement = self.path / "placement.json"
        self.tasks = self.path / "tasks.txt"
        self.logs = self.path / "logs"
        self.state = self.path / "state"
        self.done = self.state / "done"
        self.failure = self.state / "failure.json"
        self.metrics = self.path / "metrics"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.result = self.path / "result.json"
        self.summary = self.path / "summary.json"
        self.attempt = self.path / "attempt"
        self.ended = self.path / "ended.json"

    @property
    def job_id(self) -> str:
        """Return the job id, the last part of the folder's name."""
        return self.path.name.rpartition("-")[2]

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
        """Give the folder another name, beside where it is.

        Raises:
            OSError: the name is taken.
        """
        self._name_files(self.path.rename(self.path.with_name(name)))

    def log_of(self, process: str) -> Path:
        """Return the log of process ``worker:3``."""
        return self.logs / f"{process.replace(':', '-')}.log"

    def freeze(self, job: JobSpec, site: Site, script: str, templates: Sequence[Path]) -> None:
        """Write what the job is made from, so that later changes of the sources don't reach it.

        Args:
            job: the resolved job description.
            site: the site.
            script: the job script.
            templates: all template folders, strongest first.
        """
        write_text(self.job_file, to_toml(job))
        write_text(self.site_file, to_toml(site))
        write_text(self.script, script)
        for number, folder in enumerate(templates):
            shutil.copytree(folder, self.templates / str(number))

    def renderer(self) -> Renderer:
        """Return a renderer of the frozen templates."""
        *others, ours = sorted(self.templates.iterdir(), key=lambda folder: int(folder.name))
        return Renderer(others, ours)

    def read_job(self) -> JobSpec:
        """Return the frozen job description."""
        return build(JobSpec, [read_toml(self.job_file)], "job")

    def read_site(self) -> Site:
        """Return the frozen site."""
        return build(Site, [read_toml(self.site_file)], "site")

    def read_facts(self) -> dict[str, NodeFacts]:
        """Return what each node told, by node name."""
        lines = self.facts.read_bytes().splitlines() if self.facts.exists() else []
        return {facts.node: facts for facts in (msgspec.json.decode(line, type=NodeFacts) for line in lines if line)}

    def read_cluster(self) -> dict[str, list[str]]:
        """Return the cluster spec."""
        return msgspec.json.decode(self.cluster.read_bytes(), type=dict[str, list[str]])

    def read_placement(self) -> Placement:
        """Return where the ranks of an MPI job are."""
        return msgspec.json.decode(self.placement.read_bytes(), type=Placement)

    def read_failure(self) -> Failure | None:
        """Return the first failure, if there was one."""
        return _read(self.failure, Failure)

    def read_result(self) -> dict[str, Any] | None:
        """Return what the training program reported at its end; None if that is no object of JSON."""
        try:
            result = json.loads(self.result.read_bytes())  # not msgspec: a loss may be NaN
        except (FileNotFoundError, ValueError):
            return None
        return result if isinstance(result, dict) else None

    def read_summary(self) -> Summary | None:
        """Return how the job ended, if it did."""
        return _read(self.summary, Summary)

    def processes(self) -> Iterator[str]:
        """Yield the names of the processes that have a log, ``ps:0``, ``worker:0``, … in order."""
        logs = (path.stem.rpartition("-") for path in self.logs.glob("*-*.log"))
        for role, index in sorted((role, int(index)) for role, _, index in logs):
            yield f"{role}:{index}"


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None


def to_toml(value: msgspec.Struct) -> str:
    """Return a frozen object as TOML that the readers of job and site files take again."""
    return tomli_w.dumps({k: v for k, v in msgspec.to_builtins(value).items() if v is not None})


def write_text(path: Path, text: str | bytes) -> None:
    """Write a file so that a reader sees the old or the new text, never a part."""
    data = text.encode() if isinstance(text, str) else text
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
