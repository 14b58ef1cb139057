"""Slurm: submission of a rendered script through submitit, and the state of a job."""
