"""Checkpoints of this run, and of the one that it starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from hpc_dl.errors import UserError
from hpc_dl.train.attempt import Attempt
from hpc_dl.train.checkpoints.store import Checkpoints

tf1 = tf.compat.v1


def restored(run_dir: Path, start_from: Path | None) -> float | None:
    """Return what a variable has after `restore`; None if there was nothing to restore."""
    with tf.Graph().as_default(), tf1.Session() as session:
        variable = tf1.get_variable("x", [])
        found = Checkpoints(run_dir, Attempt(run_dir), start_from).restore(session)
        return float(session.run(variable)) if found else None


def save(run_dir: Path, step: int, name: str = "x") -> None:
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.get_variable(name, initializer=float(step))
        session.run(tf1.global_variables_initializer())
        Checkpoints(run_dir, Attempt(run_dir)).save(session, step)


def test_its_own_checkpoint_counts_more_than_where_it_started(tmp_path: Path) -> None:
    before, run = tmp_path / "before", tmp_path / "run"
    assert restored(run, None) is None
    save(before, 300)
    assert restored(run, before) == 300
    save(run, 200)
    assert restored(run, before) == 200


def test_a_torn_checkpoint_is_no_start(tmp_path: Path) -> None:
    before, run = tmp_path / "before", tmp_path / "run"
    save(before, 100)
    save(before, 200)
    (before / "checkpoints/step-200.data-00000-of-00001").write_bytes(b"")
    assert restored(run, before) == 100
    (before / "checkpoints/step-100.index").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"^--start-from: no whole checkpoint in .*/before/checkpoints$"):
        restored(run, before)


def test_a_checkpoint_of_another_network_is_named(tmp_path: Path) -> None:
    save(tmp_path, 100, "y")
    with pytest.raises(UserError, match=r"^checkpoint .*/step-100 is of another network: "):
        restored(tmp_path / "run", tmp_path)
