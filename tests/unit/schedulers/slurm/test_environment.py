"""What Slurm's commands and jobs get of the environment."""

from __future__ import annotations

import pytest

from hpc_dl.schedulers.slurm.environment import for_sbatch, inheritable

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


@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("SBATCH_PARTITION", "partition='main'"),
        ("SBATCH_TIMELIMIT", "time='5'"),
        ("SBATCH_GPUS", "gres='gpu:2'"),
        ("SBATCH_NO_REQUEUE", "requeue"),
        ("SBATCH_REQUEUE", "no-requeue"),
        ("SBATCH_MEM_PER_NODE", "mem='4G'"),
    ],
)
def test_what_the_script_says_comes_before_the_environment(variable: str, option: str) -> None:
    script = f"#!/bin/bash\n#SBATCH --{option}\n"
    assert variable not in for_sbatch({variable: "x"}, script)
    assert variable in for_sbatch({variable: "x"}, "#!/bin/bash\n#SBATCH --nodes=1\n")


def test_the_make_that_submits_is_not_that_of_the_jobs_own_makes() -> None:
    own = {"MAKEFLAGS": "-j8", "MAKEFILES": "x"}
    assert inheritable(own) == own  # the user's own settings, where no make runs us
    of_make = dict.fromkeys(["MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKE_TERMOUT", "MAKE_TERMERR"], "x")
    assert inheritable({**of_make, "MAKELEVEL": "1", "MAKEFILES": "x"}) == {"MAKEFILES": "x"}
