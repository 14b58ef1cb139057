"""The `hpc-dl` command."""
