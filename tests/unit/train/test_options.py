"""The training program's pure parts: options, cluster, loop, metrics, placement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_dl.errors import JobError, UserError
from hpc_dl.spec.modes import MODES
from hpc_dl.train.loop import train
from hpc_dl.train.options import Options, parse
from hpc_dl.train.reporting.metrics import Metrics
from hpc_dl.train.stop import Stop
from hpc_dl.train.tf_config import Cluster, from_tf_config

REQUIRED = ["--run-dir", "run", "--steps", "10"]
TF_CONFIG = {"cluster": {"ps": ["a:1"], "worker": ["a:2", "b:1"]}, "task": {"type": "worker", "index": 1}}


def test_options_are_read() -> None:
    options = parse([*REQUIRED, "--mode", "async", "--batch", "32", "--lr-boundaries", "5,7", "--data-dir", "d"])
    assert options == Options(
        run_dir=Path("run"), steps=10, mode="async", batch=32, lr_boundaries=(5, 7), data_dir=Path("d")
    )
    assert options.initial_rate == MODES["async"].learning_rate
    assert parse(REQUIRED).initial_rate == MODES["single"].learning_rate
    assert parse([*REQUIRED, "--mode", "async", "--learning-rate", "0.3"]).initial_rate == 0.3
    assert parse([*REQUIRED, "--lr-boundaries", ""]).lr_boundaries == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing option '--run-dir'"),
        (["--mode", "asinc"], r"--mode: .*'asinc': not a known mode \(did you mean 'async'\?\); allowed: .*'single'"),
        (["--model", "resnet"], r"--model: unknown model 'resnet' \(did you mean 'resnet\d+'\?\)"),
        (["--data", "digit"], r"--data: unknown data set 'digit' \(did you mean 'digits'\?\)"),
        (["--batch", "0"], "--batch: batch = '0': expected int >= 1"),
        (["--batch", "many"], "--batch: batch = 'many': expected int"),
        (["--steps", "-1"], "--steps: steps = '-1': expected int >= 1"),
        (["--learning-rate", "nan"], "--learning-rate: learning_rate = 'nan': expected float > 0"),
        (["--momentum", "1"], "--momentum: momentum = '1': expected float < 1"),
        (["--lr-boundaries", "7,5"], "--lr-boundaries: lr_boundaries = 7,5: must be rising"),
        (["--trace-steps", "0,5"], r"--trace-steps: trace_steps = \['0', '5'\]: expected int >= 1"),
        (["--eval-every", "-1"], "--eval-every: eval_every = '-1': expected int >= 0"),
        (["--lr-boundaries", "7;5"], r"--lr-boundaries: lr_boundaries = \['7;5'\]: expected int"),
        (["--mode", "sync", "--towers", "2"], "towers = 2: mode 'sync' has no use for it; only 'mixed', 'single'"),
        (["--backup-workers", "1"], "backup_workers = 1: mode 'single' has no use for it; only 'sync'"),
        (["--mode", "async", "--staleness", "-1"], "--staleness: staleness = '-1': expected int >= 0"),
        (["--mode", "async", "--compression", "x"], "not a known compression; allowed: 'none', 'fp16', '1bit'"),
        (["--mode", "horovod", "--compression", "1bit"], "mode 'horovod' has only 'none', 'fp16'"),
        (["--fusion-mb", "0"], "--fusion-mb: fusion_mb = '0': expected float > 0"),
        (["--warmup-steps", "-1"], "--warmup-steps: warmup_steps = '-1': expected int >= 0"),
        (["--mode", "sync", "--restart-timeout", "0"], "restart_timeout = '0': expected float > 0"),
        (["--disk-patience", "-1"], "--disk-patience: disk_patience = '-1': expected float >= 0"),
        (["--bach", "3"], "no such option '--bach'. Did you mean '--batch'?"),
    ],
)
def test_wrong_options_get_one_message(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse([*REQUIRED, *arguments] if arguments else [])


def test_wrong_options_end_with_2_and_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hpc_dl.train", "--run-dir", str(tmp_path / "run"), "--steps", "1"]
    for extra, environment in ((["--mode", "x"], {}), ([], {"TF_CONFIG": "{"})):
        done = subprocess.run(
            [*command, *extra], capture_output=True, text=True, check=False, env={**os.environ, **environment}
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_cluster_from_tf_config() -> None:
    assert from_tf_config(None) == Cluster()
    assert Cluster().is_chief
    cluster = from_tf_config(json.dumps(TF_CONFIG))
    assert cluster == Cluster(("a:1",), ("a:2", "b:1"), "worker", 1)
    assert (cluster.task, cluster.is_chief) == ("worker-1", False)


@pytest.mark.parametrize(
    "config",
    [
        "[]",
        "{}",
        '{"cluster": 3}',
        json.dumps({**TF_CONFIG, "task": {"type": "worker", "index": 2}}),
        json.dumps({**TF_CONFIG, "task": {"type": "boss", "index": 0}}),
        json.dumps({**TF_CONFIG, "cluster": {"chief": ["a:1"], "worker": ["a:2", "b:1"]}}),
        json.dumps({**TF_CONFIG, "cluster": {"ps": ["a:1"]}}),
        json.dumps({**TF_CONFIG, "cluster": {"ps": ["a"], "worker": ["a:2", "b:1"]}}),
    ],
)
def test_wrong_tf_config(config: str) -> None:
    with pytest.raises(UserError, match=r"^TF_CONFIG: "):
        from_tf_config(config)


def run_loop(
    folder: Path, options: Options, losses: list[float] | None = None, start: int = 0, stride: int = 1
) -> tuple[list[int], list[int], list[dict[str, float]]]:
    """Run the loop over a step function that counts: steps made, steps saved, lines written."""
    made: list[int] = []
    saved: list[int] = []

    def save(step: int) -> str:
        saved.append(step)
        return f"step-{step}"

    def step() -> tuple[int, float, float]:
        made.append(start + stride * (len(made) + 1))
        return made[-1], losses[len(made) - 1] if losses else 1.0, 0.5

    metrics = Metrics(folder, "worker-0", options.steps, options.batch)
    train(step, start, options, metrics, Stop(), save)
    lines = [json.loads(line) for line in (folder / "metrics" / "worker-0.jsonl").read_text().splitlines()]
    return made, saved, [line for line in lines if "step" in line]


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Metrics, "scalars", lambda *_: None)


def test_loop_logs_first_every_and_last_step(tmp_path: Path) -> None:
    made, saved, lines = run_loop(tmp_path, Options(run_dir=tmp_path, steps=10, log_every=4, checkpoint_every=3))
    assert made == list(range(1, 11))
    assert saved == [3, 6, 9]
    assert [line["step"] for line in lines] == [1, 4, 8, 10]
    rates = {"steps_per_s", "images_per_s", "global_steps_per_s"}
    moved = {"bytes_sent", "bytes_received"}
    assert lines[1].keys() == {"time", "step", "local_step", "loss", "accuracy"} | rates | moved
    assert lines[1]["images_per_s"] == pytest.approx(32 * lines[1]["steps_per_s"])


def test_loop_of_a_worker_among_others(tmp_path: Path) -> None:
    """Global steps pass by in strides: a checkpoint is saved at the first step after each multiple."""
    made, saved, lines = run_loop(
        tmp_path, Options(run_dir=tmp_path, steps=20, log_every=2, checkpoint_every=5), start=4, stride=4
    )
    assert made == [8, 12, 16, 20]
    assert saved == [8, 12, 16, 20]
    assert [(line["step"], line["local_step"]) for line in lines] == [(8, 1), (12, 2), (20, 4)]
    assert [line["global_steps_per_s"] / line["steps_per_s"] for line in lines] == pytest.approx([4, 4, 4])


def test_loop_has_nothing_to_do_at_the_end(tmp_path: Path) -> None:
    assert run_loop(tmp_path, Options(run_dir=tmp_path, steps=10), start=10) == ([], [], [])


def test_loop_ends_when_the_loss_is_lost(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="the loss is nan at step 2: try a lower --learning-rate"):
        run_loop(tmp_path, Options(run_dir=tmp_path, steps=10, log_every=2), [1.0, float("nan")])


@pytest.mark.parametrize("steps", [2, 10])
def test_a_loss_that_is_lost_between_two_lines_is_not_saved_and_is_no_end(tmp_path: Path, steps: int) -> None:
    saved: list[int] = []
    options = Options(run_dir=tmp_path, steps=steps, log_every=5, checkpoint_every=2)
    losses = iter(enumerate([1.0] + [float("nan")] * 9, 1))

    def step() -> tuple[int, float, float]:
        number, loss = next(losses)
        return number, loss, 0.5

    def save(number: int) -> str:
        saved.append(number)
        return "prefix"

    metrics = Metrics(tmp_path, "worker-0", steps, 128)
    with pytest.raises(JobError, match="the loss is nan at step 2"):
        train(step, 0, options, metrics, Stop(), save)
    assert saved == []


def test_a_run_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--run-dir: .*file.* can't be written: "):
        Metrics(tmp_path / "file", "worker-0", 1, 1)
