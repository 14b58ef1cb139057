"""Slurm: every command of Slurm that hpc_dl runs is run here."""
