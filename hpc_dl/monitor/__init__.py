"""The monitor: what a node and its processes use of CPU, memory, network, disk and GPUs. It knows no Slurm."""
