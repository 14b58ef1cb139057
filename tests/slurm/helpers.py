"""Jobs with an own script on the private cluster."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hpc_dl
from hpc_dl.minicluster import MiniCluster
from hpc_dl.schedulers.slurm.version import Version, parse_version
from hpc_dl.submission.handle import Job
from tests.unit.fakes.processes import Marker, eventually

# A worker that writes down what it got, says that it is ready and does what its arguments say:
# MARKER [wait] [fail CODE worker:I] (a process waits until the file "go" is there; a ps waits for ever).
SCRIPT = """
import json, os, pathlib, socket, sys, time
task = json.loads(os.environ["TF_CONFIG"])["task"]
name = f"{task['type']}:{task['index']}"
run = pathlib.Path(os.environ["HPC_DL_RUN"])
host, port = json.loads(os.environ["TF_CONFIG"])["cluster"][task["type"]][task["index"]].split(":")
server = socket.create_server((host, int(port)))
print(json.dumps({
    "name": name, "node": os.environ.get("SLURMD_NODENAME"), "gpus": os.environ["CUDA_VISIBLE_DEVICES"],
    "config": json.loads(os.environ["TF_CONFIG"]), "args": sys.argv[1:],
    "restart": os.environ.get("SLURM_RESTART_COUNT"),
    "numbers": {key: value for key, value in os.environ.items() if key.startswith(("SLURM_", "PMI"))},
}), flush=True)
words = sys.argv[2:]
while task["type"] == "ps" or ("wait" in words and not pathlib.Path("go").exists()):
    time.sleep(0.05)
if "fail" in words and words[words.index("fail") + 2] == name:
    print(f"{name} has no luck", file=sys.stderr, flush=True)
    sys.exit(int(words[words.index("fail") + 1]))
if name == "worker:0":
    (run / "result.json").write_text(json.dumps({"test_accuracy": 0.75}))
"""


def slurm_version(cluster: MiniCluster) -> Version:
    """Return the version of a cluster's Slurm, for what differs between versions by Slurm's own doing."""
    done = subprocess.run(["srun", "--version"], env=cluster.env(), capture_output=True, text=True, check=True)
    return parse_version(done.stdout)


class Bench:
    """A working folder whose jobs run on the private cluster."""

    def __init__(self, cluster: MiniCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.marker = Marker()
        self.jobs: list[Job] = []
        (folder / "own.py").write_text(SCRIPT)

    def submit(self, *words: str, site: str = "minicluster", **settings: Any) -> Job:
        """Submit the script, with the marker and `words` as its arguments."""
        settings = {"name": "own", "script": "own.py", "args": [self.marker.word, *words], "time": "5", **settings}
        self.jobs.append(hpc_dl.submit(site=site, **settings))
        return self.jobs[-1]

    def run(self, *words: str, code: int = 0) -> str:
        """Run an `hpc-dl` command; return its output."""
        command = [sys.executable, "-m", "hpc_dl", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def told(self, job: Job) -> dict[str, dict[str, Any]]:
        """Return what each process has written down, by name; the last line of its log that is one."""
        found = {}
        for name, path in job.logs().items():
            lines = [line for line in path.read_text().splitlines() if line.startswith('{"name"')]
            if lines:
                found[name] = json.loads(lines[-1])
        return found

    def ready(self, job: Job, processes: int, seconds: float = 120) -> None:
        """Wait until so many processes have written."""
        eventually(lambda: len(self.told(job)) == processes, seconds, f"{processes} processes; {job.stdout()}")

    def go(self) -> None:
        """Let those that wait go on."""
        (self.folder / "go").touch()

    def scontrol(self, job: Job) -> str:
        """Return all that Slurm says of a job."""
        command = ["scontrol", "--oneliner", "show", "job", job.job_id]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    def field(self, job: Job, name: str) -> str:
        """Return one field of what Slurm says of a job, up to the next."""
        found = re.search(rf"\b{name}=(.*?)(?= \w[\w:/]*=|$)", self.scontrol(job).strip())
        assert found is not None
        return found[1].strip()

    def pids(self, script: str = "own.py") -> dict[str, int]:
        """Return the processes of the script by name, such as ``worker:3``."""
        found: dict[str, int] = {}
        for pid in self.marker.pids():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                environment = Path(f"/proc/{pid}/environ").read_bytes().decode()
            except OSError:
                continue
            task = re.search(r'"task":\{"type":"(\w+)","index":(\d+)\}', environment)
            if words[1].endswith(script) and task:
                found[f"{task[1]}:{task[2]}"] = pid
        return found

    def clean(self) -> None:
        """Cancel what still runs, and wait for its end."""
        for job in self.jobs:
            subprocess.run(["scancel", job.job_id], capture_output=True, check=False, timeout=120)
        eventually(self.marker.gone, 30, "processes are left")
