"""Functions in place of scripts: an executor with submitit's interface, whose jobs are jobs like all others."""
