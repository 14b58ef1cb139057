"""What runs inside a job: a node's facts, the launcher of a node's processes, the job's outcome."""
