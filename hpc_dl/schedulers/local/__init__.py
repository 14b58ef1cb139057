"""The local scheduler: a job is a group of processes of this machine."""
