"""Measurements: run as `python -m benchmarks.NAME`, each says in its first lines what it measures."""
