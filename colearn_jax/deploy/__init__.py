"""Models of one sensor for prediction: load them from a work directory, export them to a folder.

This package does not import the training code. `load.load_model` reads exported folders with jax, numpy and
flatbuffers alone.
"""
