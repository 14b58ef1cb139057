"""What a run shows of its inside: bytes, traces, step times, the confusion matrix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc_dl.gpus import ALL_VARIABLES
from hpc_dl.runfolder.metrics import figures, per_step
from tests.train.conftest import Processes

Make = Callable[..., Processes]

# AutoGraph translates the condition on a tensor.
_OWN = """
import tensorflow as tf
from hpc_dl.models.keras import keras

class Doubled(keras.layers.Layer):
    def call(self, features):
        if tf.reduce_sum(features) > 0:
            features = 2 * features
        return features

def own(shape, classes):
    images = keras.Input(shape)
    features = keras.layers.Flatten()(Doubled()(images))
    return keras.Model(images, keras.layers.Dense(classes, name="fc")(features), name="own")
"""


def test_async_shows_its_bytes_its_step_times_and_traces(processes: Make, heavy: str) -> None:
    arguments = ["--model", heavy, "--data", "synthetic", "--learning-rate", "0.001", "--trace-steps", "3,5"]
    run = processes().start("--steps", "60", "--log-every", "10", *arguments, ps=1, workers=2)
    assert set(run.wait().values()) == {0}
    result = run.result()

    model_bytes = 4 * result["parameters"]
    traffic = per_step(figures(run.run_dir / "metrics"))
    assert traffic.keys() == {"ps-0", "worker-0", "worker-1"}
    # Each step fetches the parameters and sends the gradients, each once: 2 x model bytes.
    for moved in traffic.values():
        assert moved["bytes_sent"] == pytest.approx(model_bytes, rel=0.1)
        assert moved["bytes_received"] == pytest.approx(model_bytes, rel=0.1)
    lines = [line for line in run.lines("worker-1") if "step" in line]
    received = [line["bytes_received"] for line in lines]
    assert received == sorted(received)
    assert received[-1] >= 0.9 * model_bytes * lines[-1]["local_step"]

    for task in ("worker-0", "worker-1"):
        times = figures(run.run_dir / "metrics")[task]["step_seconds"]
        assert 0 < times["min"] <= times["median"] <= times["p90"] <= times["p99"] <= times["max"]
        for step in (3, 5):
            trace = json.loads((run.run_dir / "traces" / f"{task}-step-{step}.json").read_text())
            names = [event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"]
            assert any("ps" in name for name in names)
            assert any("worker" in name for name in names)
            assert any(event.get("dur", 0) > 0 for event in trace["traceEvents"])

    confusion = result["confusion"]
    # 256 synthetic images, of each class in turn; the first is number 1024.
    assert [sum(row) for row in confusion] == [25] * 4 + [26] * 6
    assert sum(confusion[n][n] for n in range(10)) / 256 == result["test_accuracy"]


def test_the_best_checkpoint_is_kept_apart(processes: Make) -> None:
    arguments = ("--log-every", "100", "--checkpoint-every", "20", "--eval-every", "40")
    run = processes().start("--steps", "200", *arguments)
    assert run.wait() == {"worker-0": 0}
    seen = {line["step"]: line["test_accuracy"] for line in run.lines("worker-0") if line.get("event") == "evaluated"}
    assert list(seen) == [40, 80, 120, 160, 200]
    result = run.result()
    assert seen[200] == result["test_accuracy"]
    assert result["best_test_accuracy"] == max(seen.values())
    assert seen[result["best_step"]] == result["best_test_accuracy"]
    kept = {path.name for path in (run.run_dir / "checkpoints").glob("best*")}
    prefix = f"best-{result['best_step']}"
    assert kept == {"best.json", f"{prefix}.index", f"{prefix}.data-00000-of-00001"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ROCR_VISIBLE_DEVICES": "0"}, "ROCR_VISIBLE_DEVICES gives this process GPUs (0), but TensorFlow sees none: "),
        # Slurm may set all variables; the process of a site with NVIDIA GPUs has this one of its own.
        ({"CUDA_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": "0"}, ""),
    ],
)
def test_the_variable_of_the_vendor_says_whether_a_process_has_gpus(given: dict[str, str], said: str) -> None:
    code = "from hpc_dl.train.devices import devices; print(devices())"
    environ = {key: value for key, value in os.environ.items() if key not in ALL_VARIABLES} | given
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert (said in done.stderr, done.stdout) == (True, "" if said else "['CPU']\n")


def test_a_process_whose_gpus_tensorflow_does_not_see_says_why(processes: Make) -> None:
    run = processes()
    run.environment = {"CUDA_VISIBLE_DEVICES": "0"}
    run.start("--steps", "1")
    assert run.wait() == {"worker-0": 2}
    said = run.log("worker-0").splitlines()[-1]
    assert said.startswith("error: CUDA_VISIBLE_DEVICES gives this process GPUs (0), but TensorFlow sees none: ")
    assert "is built for CPUs" in said

    run.environment["HPC_DL_FAKE_GPUS"] = "1"  # as where fake_gpus = true in the site file
    run.start("--steps", "1", ps=1)
    assert set(run.wait().values()) == {0}
    assert "it computes on its cores" in run.log("worker-0")
    assert "fake_gpus" not in run.log("ps-0")
    assert {task: of["devices"] for task, of in figures(run.run_dir / "metrics").items()} == {
        "ps-0": ["CPU"],
        "worker-0": ["CPU"],
    }


def test_a_network_of_the_users_leaves_nothing_outside_the_run_folder(
    processes: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_network.py").write_text(_OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    run = processes().start("--steps", "1000000", "--model", "own_network:own", "--log-every", "10")
    run.wait_for(lambda: run.step("worker-0") > 10)
    run.kill("worker-0")
    assert list(temporary.iterdir()) == []
    assert list(run.run_dir.rglob("__autograph_generated_file*"))
