"""Batch-job toolkit for training deep networks on Slurm GPU clusters."""
