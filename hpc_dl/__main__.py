"""Run the command line as ``python -m hpc_dl``, which needs no PATH on a node."""

from hpc_dl.cli.main import main

main()
