"""The agent that starts and watches tasks on one node."""
