"""The run folder of one job: files, checkpoints, metrics, logs, report. It knows neither Slurm nor TensorFlow."""
