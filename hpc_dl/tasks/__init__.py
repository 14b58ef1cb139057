"""Task files in Greasy's format: model, parser, runner."""
