"""Stand-ins for what a unit test can't have."""
