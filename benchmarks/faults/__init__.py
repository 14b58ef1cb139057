"""The fault table: what a fault costs each mode, on a private cluster whose nodes have networks of their own."""
