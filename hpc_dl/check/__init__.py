"""Finds what would go wrong with a job, before it is submitted.

`facts` asks the machine and Slurm. `rules` has pure functions from a plan and these facts to findings, one for each
thing that can be wrong. `probe` and `node_rules` do the same on a node, and `nodes` runs them there.
"""
