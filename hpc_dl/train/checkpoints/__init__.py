"""Checkpoints: when they are saved, in which files, and which one is the best."""
