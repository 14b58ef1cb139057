"""The environment of a job: what it gets of ours, what it can't be told, what is never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpc_dl.errors import UserError
from hpc_dl.spec.job import load_job
from hpc_dl.spec.layers import Layer
from hpc_dl.spec.options import words
from hpc_dl.spec.site_files import load_site


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
        "OPENAI_KEY",
        "ENCRYPTION_KEY",
        "DB_PW",
        "PGPASS",
        "JWT",
        "SLACK_WEBHOOK_URL",
        "DATABASE_URL",
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
        "TOKEN_URL",
        "KEYBOARD",
        "OLDPWD",
        "OMP_PROC_BIND",
        "SSH_KEY_FILE",
        "KEYBOARD",
        "DATA_URL",
        "OMP_NUM_THREADS",
        "TF_NUM_INTEROP_THREADS",
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
        ("HPC_DL_RUN", "hpc_dl"),
    ],
)
def test_what_each_process_gets_of_its_own_is_refused(name: str, decides: str) -> None:
    with pytest.raises(UserError, match=f"--env: env: '{name}' is set for each process by {decides}$"):
        load_job(None, [Layer({"env": {name: "x"}}, "--env")])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PATH", "can't be changed: the job script finds its own commands by it"),
        ("BASH_ENV", "is a variable that the job script can't change"),
        ("IFS", "is a variable that the job script can't change"),
        ("PYTHONHOME", "is a variable that the job script can't change"),
        ("SLURM_JOB_ID", "is Slurm's own"),
        ("SLURMD_NODENAME", "is Slurm's own"),
    ],
)
def test_what_would_break_the_job_script_is_refused(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"--env: env: '{name}' {reason}"):
        load_job(None, [Layer({"env": {name: "x"}}, "--env")])


def test_a_quote_without_an_end_shows_no_value() -> None:
    with pytest.raises(UserError, match="ENV: no closing quotation; it is quoted as in a shell") as caught:
        words("TOKENX='hunter2", "make variable ENV")
    assert "hunter2" not in str(caught.value)
