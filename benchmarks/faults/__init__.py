"""The fault table: what each fault costs each mode, on a private cluster whose nodes have their own networks."""
