"""What people write, merged and checked: job files, site files, modes, node lists. Pure functions and types."""
