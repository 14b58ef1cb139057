"""What runs inside a job's allocation: the launcher of a node's processes, attempts, restarts, staging, the outcome."""
