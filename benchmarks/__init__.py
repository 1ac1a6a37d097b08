"""Measurements, run as `python -m benchmarks.NAME`. The first lines of each module say what it measures."""
