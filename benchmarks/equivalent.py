"""Changes that no test can notice, with the reason: results are the same, or only time and memory differ."""

SYMMETRIC = "the function is symmetric in its two arguments"
COST = "time and memory alone"
OTHER_DRAW = "other bits of the same distribution, for all devices and resumed runs alike"
ONE_MORE = "one more of all values that are drawn is flipped"
TWO_AXES = "the axis of classes is the second of two"

# (file, the changed line): why. `mutants.py` counts these apart.
REASONS: dict[tuple[str, str], str] = {
  (
    "colearn_jax/data/apart.py",
    "others, has = others[~np.isnan(points[others]).all(1)], ~np.isnan(points[rows]).any(1)",
  ): "a place is known or not: of latitude and longitude both are NaN, or none",
  (
    "colearn_jax/data/apart.py",
    "others, has = others[~np.isnan(points[others]).any(1)], ~np.isnan(points[rows]).all(1)",
  ): "a place is known or not: of latitude and longitude both are NaN, or none",
  (
    "colearn_jax/data/augment.py",
    "flip_rows, flip_columns = drawn.flip_rows < 0.5, drawn.flip_columns <= 0.5",
  ): ONE_MORE,
  (
    "colearn_jax/data/augment.py",
    "flip_rows, flip_columns = drawn.flip_rows <= 0.5, drawn.flip_columns < 0.5",
  ): ONE_MORE,
  (
    "colearn_jax/data/augment.py",
    "if x.ndim in (4, 5) and (self.flip or self.quarter_turns or self.crop <= 1):",
  ): "a crop of the whole image is the image",
  (
    "colearn_jax/data/augment.py",
    "x = x.astype(jnp.float32) - self.noise * scale.reshape((1,) * (x.ndim - 1) + scale.shape) * normal",
  ): OTHER_DRAW,
  (
    "colearn_jax/data/grouping.py",
    "count = np.bincount(code[rows], minlength=code.max() + 2)[code].astype(np.float64)",
  ): "one more count of 0 at the end, which no code refers to",
  (
    "colearn_jax/data/grouping.py",
    "each = np.stack([np.unique(of, return_inverse=True)[1].reshape(-2) for of in groups.values()], axis=1)",
  ): "NumPy reads every negative size as -1",
  (
    "colearn_jax/data/grouping.py",
    "shift = np.random.RandomState(seed).uniform(size=3)",
  ): "two of the numbers are used, and they are the same",
  (
    "colearn_jax/data/moments.py",
    'if x.dtype.kind in "iu" and x.dtype.itemsize <= 3:',
  ): "no type has three bytes",
  (
    "colearn_jax/data/statistics.py",
    "return min(max(2**21 * max(int(np.prod(shape)) for shape in shapes), 1), 4096)",
  ): COST,
  (
    "colearn_jax/data/statistics.py",
    "return min(max(2**21 // min(int(np.prod(shape)) for shape in shapes), 1), 4096)",
  ): COST,
  (
    "colearn_jax/data/statistics.py",
    "return min(max(3**21 // max(int(np.prod(shape)) for shape in shapes), 1), 4096)",
  ): COST,
  (
    "colearn_jax/data/statistics.py",
    "return min(min(2**21 // max(int(np.prod(shape)) for shape in shapes), 1), 4096)",
  ): COST,
  (
    "colearn_jax/data/statistics.py",
    'size = _samples_per_piece(x.shape[2:] for x in table["inputs"].values())',
  ): COST,
  ("colearn_jax/data/stream.py", "PIECE = 2**23 # bytes of samples in one work item of a thread"): COST,
  (
    "colearn_jax/data/stream.py",
    "ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=min(2 * THREADS, share // piece))",
  ): COST,
  (
    "colearn_jax/data/stream.py",
    "if not (workers):",
  ): "processes read what threads read; no processes are asked for where there are to be none",
  (
    "colearn_jax/evaluation/evaluate.py",
    "for prediction, target in zip(predictions, targets, strict=False):",
  ): "there is one target for each prediction, by their origin",
  ("colearn_jax/evaluation/metrics.py", '"mae": float(sk.mean_absolute_error(p, y)),'): SYMMETRIC,
  (
    "colearn_jax/evaluation/metrics.py",
    '"pearson_r": float(np.corrcoef(y, p)[0, 1]) if defined else np.nan,',
  ): SYMMETRIC,
  (
    "colearn_jax/evaluation/metrics.py",
    "for name, a in zip(task.outputs, precision, strict=False):",
  ): "there is one precision for each output, by the shape of the target",
  (
    "colearn_jax/evaluation/metrics.py",
    "for t, q in zip(target.T, probability.T, strict=False)",
  ): "there is one probability for each label, by the shape of the target",
  ("colearn_jax/evaluation/metrics.py", "rmse = float(sk.root_mean_squared_error(p, y))"): SYMMETRIC,
  (
    "colearn_jax/nn/attention.py",
    "CACHE = 4 * 2**20 # bytes of scores that a CPU computes at a time, so that they stay in its cache",
  ): COST,
  ("colearn_jax/nn/attention.py", "fitting = max(2, CACHE // (4 * heads * count**2))"): COST,
  ("colearn_jax/nn/attention.py", "if pieces == 2:"): COST,
  (
    "colearn_jax/nn/layers.py",
    "kept = hashed_bits(rngs.dropout(), x.shape) <= jnp.uint32(keep * 2**32)",
  ): "one of 2^32 values is kept more often",
  ("colearn_jax/nn/layers.py", "return x.astype(jnp.promote_types(jnp.float32, x.dtype))"): SYMMETRIC,
  (
    "colearn_jax/nn/quantiles.py",
    "return jnp.where(jnp.isnan(known).all() | jnp.isnan(values), values, score)",
  ): "all quantiles of a band are known, or none",
  (
    "colearn_jax/nn/random.py",
    "draw = lambda block: shuffled(words, epoch * blocks - block, rows.reshape(-1), xp)",
  ): OTHER_DRAW,
  (
    "colearn_jax/nn/random.py",
    "first, second = (_hash(epoch + xp.uint32(half), words[0], words[1], xp) for half in (1, 2**31))",
  ): OTHER_DRAW,
  (
    "colearn_jax/nn/random.py",
    "position -= jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)",
  ): OTHER_DRAW,
  (
    "colearn_jax/objectives/alignment.py",
    "sides = rows / jnp.repeat(jnp.array([1.0, -1.0]), len(mask)) / jnp.maximum(mask.sum(), 1.0)",
  ): "a product with 1 or -1 is the quotient",
  (
    "colearn_jax/objectives/alignment.py",
    "z = jnp.where(rows[:, None] > 0, widened(z), 1.0)",
  ): "the pairs of these rows have weight 0",
  (
    "colearn_jax/objectives/distillation.py",
    "of_others = (jnp.exp(q) * jnp.where(own, 0.0, q - own_q)).sum(1)",
  ): TWO_AXES,
  (
    "colearn_jax/objectives/distillation.py",
    "own = jax.nn.one_hot(label, student.shape[1], dtype=bool)",
  ): TWO_AXES,
  (
    "colearn_jax/objectives/ring.py",
    "logsum = top + jnp.log(jnp.where(mask > 0, total, 2.0))",
  ): "the rows with this value are not counted",
  (
    "colearn_jax/training/closed_form.py",
    "effects = groups, jnp.where(of_group > 0, part / jnp.where(of_group >= 0, of_group, 1.0), 0.0)",
  ): "the quotient that is not finite is not taken",
  (
    "colearn_jax/training/closed_form.py",
    "effects = groups, jnp.where(of_group >= 0, part / jnp.where(of_group > 0, of_group, 1.0), 0.0)",
  ): "a group without weight has no sum either",
  (
    "colearn_jax/training/closed_form.py",
    "first = order[jnp.argsort(~there[order], stable=False)] # rows with the sensor come first",
  ): "the rows with the sensor are in a random order anyway",
  (
    "colearn_jax/training/closed_form.py",
    "return x.shape[1] < x.shape[1]",
  ): "both forms of the solution are the same",
  (
    "colearn_jax/training/closed_form.py",
    'solved = jax.lax.fori_loop(0, 2 if task.kind == "regression" else SWEEPS, sweep, begin)',
  ): "the second solution of a quadratic problem is the first",
  (
    "colearn_jax/training/closed_form.py",
    "y += level * system.ones",
  ): "features are centred, so that a constant in y changes no coefficient",
  (
    "colearn_jax/training/optimizer.py",
    "falling = rate / 25e4 + (rate - rate / 25e4) * cosine(jnp.minimum((share - 0.3) / 0.7, 2.0))",
  ): "the share of the training is never above 1",
  (
    "colearn_jax/training/step.py",
    "return state.epoch / max(recipe.max_epochs, 2)",
  ): "the progress of one epoch is 0",
  (
    "colearn_jax/training/streaming.py",
    "if checked and (done.is_ready() or jax.process_count() > 1):",
  ): "the steps of a finished run change nothing, so only time is lost",
  (
    "colearn_jax/training/streaming.py",
    "return len(begun) > 2 and bool(jax.device_get(begun.popleft()) >= 1)",
  ): "a fault in the first step is then found at the end of the epoch, and nothing changes until there",
}
