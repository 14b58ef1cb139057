"""The environment of a job: what it gets of ours, what it can't be told, what is never shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from hpc_dl.errors import UserError
from hpc_dl.processes import inheritable, private_files
from hpc_dl.spec.job import load_job
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.site import load_site


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "wandb_api_key",
        "APIKEY",
        "GIT_CREDENTIALS",
        "PGPASSWORD",
        "MYSQL_PWD",
        "SSHPASS",
        "DB_PASS",
        "GITHUB_PAT",
        "SECRETKEY",
        *("OPENAI_KEY", "STORAGE_ACCOUNT_KEY", "ENCRYPTION_KEY", "SSH_KEY", "GPG_KEY", "DB_PW", "PGPASS", "JWT"),
        *("BEARER", "COOKIE", "DATABASE_URL", "SLACK_WEBHOOK_URL", "SENTRY_DSN"),
    ],
)
def test_what_looks_like_a_secret_is_refused_and_not_repeated(name: str, tmp_path: Path) -> None:
    for value in ("hidden", "hid\nden"):
        with pytest.raises(
            UserError, match=f"keyword env: env: '{name}' looks like a secret, .* export {name} in"
        ) as caught:
            load_job(None, [Layer({"env": {name: value}}, "keyword {key}")])
        assert "hid" not in str(caught.value)
    (tmp_path / "s.toml").write_text(f"cores = 1\n[env]\nA = 'a'\n{name} = 'hidden'\n")
    with pytest.raises(UserError, match=rf"s\.toml, line 4: env: '{name}' looks like a secret"):
        load_site(tmp_path / "s.toml")


def test_an_address_with_a_password_is_a_secret_whatever_its_name() -> None:
    for value in ("https://me:hidden@proxy:80", "postgres://me:hidden@db/x"):
        with pytest.raises(UserError, match="env: 'X' looks like a secret") as caught:
            load_job(None, [Layer({"env": {"X": value}}, "test")])
        assert "hidden" not in str(caught.value)
    assert load_job(None, [Layer({"env": {"X": "http://proxy:80/a:b@c"}}, "test")])


def test_names_that_only_resemble_secrets_are_taken() -> None:
    names = [
        "TOKENIZERS_PARALLELISM",
        "MAX_TOKENS",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "SECRETARY",
        "OLDPWD",
        "OMP_PROC_BIND",
        "SSH_KEY_FILE",
        "KEYBOARD",
        "DATA_URL",
    ]
    env = dict.fromkeys(names, "x")
    assert load_job(None, [Layer({"env": env}, "test")]).env == env


@pytest.mark.parametrize("env", [{"A": "hidden", "B": 3}, {"A": ["hidden"]}, "hidden"])
def test_a_wrong_type_shows_no_value(env: Any) -> None:
    with pytest.raises(UserError, match=r"^keyword env: env: expected ") as caught:
        load_job(None, [Layer({"env": env}, "keyword {key}")])
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "decides"),
    [
        ("TF_CONFIG", "the placement"),
        ("CUDA_VISIBLE_DEVICES", "the placement; see gpus and workers"),
        ("OMP_NUM_THREADS", "its cores; see cores and ps_cores"),
        ("HPC_DL_RUN", "hpc_dl"),
    ],
)
def test_what_each_process_gets_of_its_own_is_refused(name: str, decides: str) -> None:
    with pytest.raises(UserError, match=f"--env: env: '{name}' is set for each process by {decides}$"):
        load_job(None, [Layer({"env": {name: "x"}}, "--env")])


USERS = {"PATH": "/bin", "HF_TOKEN": "t", "SLURM_CONF": "/s", "HPC_DL_CLUSTER_DIR": "/c"}
OUTSIDE = {"SBATCH_ACCOUNT": "a", "OMPI_MCA_btl": "tcp", "PMIX_MCA_gds": "hash", "PRTE_MCA_x": "1"}
ANYWAY = {"HPC_DL_NODES": "4", "HPC_DL_START_FROM": "/x", "SRUN_CPUS_PER_TASK": "1", "SLURM_CPUS_PER_TASK": "1"}


@pytest.mark.parametrize("inside", ["SLURM_JOB_ID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "HPC_DL_RUN"])
def test_nothing_of_a_job_around_us_is_inherited(inside: str) -> None:
    assert inheritable({**USERS, **OUTSIDE, **ANYWAY}) == {**USERS, **OUTSIDE}
    assert inheritable({**USERS, **OUTSIDE, **ANYWAY, "TF_CONFIG": "{}", "SLURMD_NODENAME": "n", inside: "1"}) == USERS


def test_what_sbatch_would_take_in_place_of_the_script_is_dropped_by_its_whole_name() -> None:
    kept = {"SBATCH_WAIT_ALL_NODES": "1", "SBATCH_WAIT4SWITCH": "1", "SBATCH_ACCOUNT": "a"}
    # A held job never ends, and sbatch would wait for its end.
    assert inheritable({**kept, "SBATCH_WAIT": "1", "SBATCH_OUTPUT": "x"}) == kept


def test_files_are_private_within_and_as_before_afterwards(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with private_files():
            (tmp_path / "in").touch()
        (tmp_path / "out").touch()
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("in", "out")]
    assert modes == [0o600, 0o644]
