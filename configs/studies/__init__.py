"""Studies: plans of comparisons, selected by `python -m colearn_jax.study --config=NAME`."""
