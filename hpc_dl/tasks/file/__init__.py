"""The task file, in GREASY's format: its tasks, parser, writer, and files made from a table."""
