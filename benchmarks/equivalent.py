"""Changes that no test can notice, with the reason: results are the same, or only time and memory differ."""

SYMMETRIC = "the function is symmetric in its two arguments"

# (file, the line as it is, what is written instead): why. `mutants.py` counts these apart.
REASONS: dict[tuple[str, str, str], str] = {
  (
    "colearn_jax/data/apart.py",
    "others, has = others[~np.isnan(points[others]).any(1)], ~np.isnan(points[rows]).any(1)",
    "all",
  ): "a place is known or not: of latitude and longitude both are NaN, or none",
  (
    "colearn_jax/data/grouping.py",
    "count = np.bincount(code[rows], minlength=code.max() + 1)[code].astype(np.float64)",
    "2",
  ): "one more count of 0 at the end, which no code refers to",
  (
    "colearn_jax/data/stream.py",
    "if workers:",
    "not (workers)",
  ): "processes read what threads read; no processes are asked for where there are to be none",
  (
    "colearn_jax/evaluation/metrics.py",
    '"mae": float(sk.mean_absolute_error(y, p)),',
    "p, y",
  ): SYMMETRIC,
  (
    "colearn_jax/evaluation/metrics.py",
    "for name, a in zip(task.outputs, precision, strict=True):",
    "False",
  ): "there is one precision for each output, by the shape of the target",
  (
    "colearn_jax/nn/layers.py",
    "return x.astype(jnp.promote_types(x.dtype, jnp.float32))",
    "jnp.float32, x.dtype",
  ): SYMMETRIC,
  (
    "colearn_jax/nn/layers.py",
    "kept = hashed_bits(rngs.dropout(), x.shape) < jnp.uint32(keep * 2**32)",
    "<=",
  ): "one of 2^32 values is kept more often",
}
