"""Training of the runs of a configuration. `run.py` is the script; the other modules are its parts.

setup: configuration to objects. state, step, epoch: pure functions that are compiled. optimizer: update rule,
schedules, weight averages. samples, on_device, streaming: where batches come from. checkpoint, log: files.
"""
