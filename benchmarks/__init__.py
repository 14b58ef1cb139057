"""The benchmarks: `make bench` runs all, `python -m benchmarks NAME` one. Medians of several runs, never asserted."""
