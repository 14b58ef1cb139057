"""The training program, ``python -m hpc_dl.train``: it knows TensorFlow and TF_CONFIG, and nothing of Slurm."""
