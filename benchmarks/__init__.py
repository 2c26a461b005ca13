"""Measurements: each file is a program, run as `python -m benchmarks.NAME` from the top of the repository."""
