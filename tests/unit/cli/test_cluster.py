"""`hpc-dl cluster`: what it says of a private Slurm."""

from __future__ import annotations

import pytest

from hpc_dl.cli.main import main
from hpc_dl.minicluster import MiniCluster
from hpc_dl.minicluster.cluster import Status


def test_a_slurmctld_that_does_not_answer_is_no_running_slurm(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MiniCluster, "status", lambda _: Status(1, {}))
    with pytest.raises(SystemExit) as ended:
        main(["cluster", "status"])
    assert ended.value.code == 1
    assert "slurmctld does not answer in " in capfd.readouterr().out
