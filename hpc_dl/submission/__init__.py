"""From a plan to a job: submission, the job's handle and states, resumption."""
