"""A job before it exists: placement, sbatch options, task file, preview. Pure functions of job, site and node list."""
