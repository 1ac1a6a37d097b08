"""Data set builders of TFDS; `build` prepares a data set without TensorFlow."""
