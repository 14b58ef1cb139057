"""What would go wrong with a job, said before it is submitted.

`facts` asks the machine and Slurm; `rules` are pure functions from a plan and those facts to findings, one for each
thing that can be wrong. `probe` and `node_rules` do the same on a node, and `nodes` runs them there.
"""
