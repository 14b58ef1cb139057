"""What a training process reports: metrics, step times, traffic, traces."""
