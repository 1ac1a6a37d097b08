"""Multi-modal co-learning for Earth observation in JAX."""
