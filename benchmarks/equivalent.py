"""Changes that no test can notice, with the reason: results are the same, or only time and memory differ."""

import re

from benchmarks.mutations import Mutation

SYMMETRIC = "the function is symmetric in its two arguments"
COST = "time and memory alone"
OTHER_DRAW = "other bits of the same distribution, for all devices and resumed runs alike"
ONE_MORE = "one more of all values that are drawn is flipped"
TWO_AXES = "arrays of two axes, or the second of two: the last axis is axis 1"

NO_POLE = "beyond a pole the cosine is negative, and a row has one cell either way"
KNOWN = "a place is known or not: of latitude and longitude both are NaN, or none"

# In any file: a pattern of the changed line, and why.
PATTERNS = {
  r"reshape\([^-]*-2[,)]": "any negative number is the length that is left",
  r"\bzip\(.*strict=False": "both have the same length; strict=True asserts it",
}

# By file of the package and changed line: why. `mutants.py` counts these apart.
REASONS: dict[str, dict[str, str]] = {
  "data/apart.py": {
    "codes = np.ones(len(dates), np.int64) if within is None else within.astype(np.int64)": "all samples have the same code",
    'days = np.where(np.isnat(dates), 1, dates.astype("datetime64[D]").astype(np.int64))': "the day of a sample without a date is not looked at",
    "others, has = others[~np.isnan(points[others]).all(1)], ~np.isnan(points[rows]).any(1)": KNOWN,
    "others, has = others[~np.isnan(points[others]).any(1)], ~np.isnan(points[rows]).all(1)": KNOWN,
    "span = np.ptp(days) + 2": "more room between two codes than is needed",
  },
  "data/augment.py": {
    "axis = axis - 1 if axis >= 0 else axis": "axis 0 is that of the samples, along which nothing is taken",
    "bits = hashed_bits(jax.random.fold_in(key, 2), x.shape)": OTHER_DRAW,
    "flip_rows, flip_columns = drawn.flip_rows < 0.5, drawn.flip_columns <= 0.5": ONE_MORE,
    "flip_rows, flip_columns = drawn.flip_rows <= 0.5, drawn.flip_columns < 0.5": ONE_MORE,
    "if x.ndim in (4, 5) and (self.flip or self.quarter_turns or self.crop < 2):": "a crop of the whole image is the image",
    "if x.ndim in (4, 5) and (self.flip or self.quarter_turns or self.crop <= 1):": "a crop of the whole image is the image",
    "missing |= bits <= jnp.uint32(self.time_dropout * 2**32)": ONE_MORE,
    "return jnp.clip(jnp.floor(at * size).astype(jnp.int32), 0, size + 1)": "positions are clipped when they are taken",
    "source = jnp.arange(steps)[None] + shift[:, None]": "shifts to both sides are as frequent",
    "x = _take_per_sample(x, jnp.clip(source, 0, steps + 1), axis=1)": "positions are clipped when they are taken",
    "x = x.astype(jnp.float32) - self.noise * scale.reshape((1,) * (x.ndim - 1) + scale.shape) * normal": OTHER_DRAW,
  },
  "data/context.py": {
    "return np.stack([np.sin(angle), np.cos(angle)], 1).astype(np.float32)": "of one-dimensional arrays the second axis is the last one",
    "return np.stack(out, 1).astype(np.float32)": "of one-dimensional arrays the second axis is the last one",
  },
  "data/grouping.py": {
    "column = np.floor((places[:, 1] - 180) / 360 * cells + shift[1]) % cells": "a whole turn",
    "count = np.bincount(code[rows], minlength=code.max() + 2)[code].astype(np.float64)": "one more count of 0 at the end, which no code refers to",
    'lacking = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values).all(1)': KNOWN,
    "middle = np.clip((row + 0.5 - shift[0]) * height - 90, -90, 91)": NO_POLE,
    "middle = np.clip((row + 0.5 - shift[0]) * height - 90, -91, 90)": NO_POLE,
    "shift = np.random.RandomState(seed).uniform(size=3)": "two of the numbers are used, and they are the same",
  },
  "data/moments.py": {
    'bits, unsigned = 9 * x.dtype.itemsize, np.dtype(f"u{x.dtype.itemsize}")': "more bins than there are values",
    'if x.dtype.kind in "iu" and x.dtype.itemsize < 2:': COST,
    'if x.dtype.kind in "iu" and x.dtype.itemsize <= 3:': "no type has three bytes",
    "join = lambda a, b: {m: merge(b[m], a[m]) for m in b}": SYMMETRIC,
  },
  "data/statistics.py": {
    '"format": 4,': "the version of a cached file is any number",
    "deviation = np.sqrt(found.spread / np.maximum(found.count, 2))": "one value has no spread",
    "offset, scale = found.mean, np.sqrt(found.spread / np.maximum(found.count, 2))": "one value has no spread",
    "return max(max(2**21 // max(int(np.prod(shape)) for shape in shapes), 1), 4096)": COST,
    "return min(max(2**21 * max(int(np.prod(shape)) for shape in shapes), 1), 4096)": COST,
    "return min(max(2**21 // max(int(np.prod(shape)) for shape in shapes), 1), 4097)": COST,
    "return min(max(2**21 // max(int(np.prod(shape)) for shape in shapes), 2), 4096)": COST,
    "return min(max(2**21 // min(int(np.prod(shape)) for shape in shapes), 1), 4096)": COST,
    "return min(max(2**22 // max(int(np.prod(shape)) for shape in shapes), 1), 4096)": COST,
    "return min(max(2*21 // max(int(np.prod(shape)) for shape in shapes), 1), 4096)": COST,
    "return min(max(3**21 // max(int(np.prod(shape)) for shape in shapes), 1), 4096)": COST,
    "return min(min(2**21 // max(int(np.prod(shape)) for shape in shapes), 1), 4096)": COST,
    'size = _samples_per_piece(x.shape[2:] for x in table["inputs"].values())': COST,
  },
  "data/stream.py": {
    "PIECE = 2**23 # bytes of samples in one work item of a thread": COST,
    "PIECE = 2*22 # bytes of samples in one work item of a thread": COST,
    "PIECE = 3**22 # bytes of samples in one work item of a thread": COST,
    "ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(2 * THREADS, share * piece))": COST,
    "ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(3 * THREADS, share // piece))": COST,
    "ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=min(2 * THREADS, share // piece))": COST,
    "dataset = dataset.batch(share // piece, drop_remainder=False, batch_fn=_concatenate).map(put)": "all batches are whole",
    "dataset = rows.map(_Example(reader, labels)).batch(piece, drop_remainder=False).to_iter_dataset(ahead)": "all pieces are whole",
    "if not (workers):": "processes read what threads read; no processes are asked for where there are to be none",
    "n for n in range(1, share + 1) if share % n == 0 and n / reader.nbytes <= max(PIECE, reader.nbytes)": COST,
    "n for n in range(1, share + 1) if share % n == 0 or n * reader.nbytes <= max(PIECE, reader.nbytes)": COST,
    "n for n in range(1, share + 2) if share % n == 0 and n * reader.nbytes <= max(PIECE, reader.nbytes)": COST,
    "padded = np.append(rows, np.full(-len(rows) % size, -2))": "any negative row is padding",
    "piece = min(": COST,
    "return (len(self.order) // self.size + self.start) * len(self.places)": "the sequence is endless",
    "return grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=3)": COST,
    "workers: int = 1,": "processes read what threads read",
  },
  "evaluation/metrics.py": {
    '"accuracy": float(sk.accuracy_score(predicted, target)),': SYMMETRIC,
    '"kappa": float(sk.cohen_kappa_score(predicted, target)) if len(occur) > 1 else np.nan,': SYMMETRIC,
    '"kappa": float(sk.cohen_kappa_score(target, predicted)) if len(occur) >= 1 else np.nan,': "of one class scikit-learn gives NaN itself",
    '"mae": float(sk.mean_absolute_error(p, y)),': SYMMETRIC,
    '"median_ae": float(sk.median_absolute_error(p, y)),': SYMMETRIC,
    '"pearson_r": float(np.corrcoef(y, p)[0, 1]) if defined else np.nan,': SYMMETRIC,
    "labels, occur = np.arange(len(task.outputs)), np.union1d(predicted, target)": SYMMETRIC,
    "rmse = float(sk.root_mean_squared_error(p, y))": SYMMETRIC,
  },
  "nn/attention.py": {
    "ABSENT = -2000000000.0 # added to the scores of a missing token; finite, so that rows without any token stay finite": "any number that is large enough",
    "CACHE = 4 * 2**20 # bytes of scores that a CPU computes at a time, so that they stay in its cache": COST,
    "batch, count = arrays[1].shape[:2]": "both arrays have the same samples and tokens",
    "bias = jnp.where(there, 1.0, ABSENT)": "a constant in the scores of all tokens that are there changes no share",
    "fitting = max(1, CACHE * (4 * heads * count**2))": COST,
    "fitting = max(1, CACHE // (4 * heads * count**3))": COST,
    "fitting = max(1, CACHE // (4 * heads * count*2))": COST,
    "fitting = max(1, CACHE // (5 * heads * count**2))": COST,
    "fitting = max(2, CACHE // (4 * heads * count**2))": COST,
    "if not (pieces == 1):": COST,
    "if pieces != 1:": COST,
    "if pieces == 2:": COST,
    "kept = hashed_bits(rngs.dropout(), (x.shape[0],) + (1,) * (x.ndim - 1)) <= jnp.uint32(keep * 2**32)": "one of 2^32 values is kept more often",
  },
  "nn/layers.py": {
    "axes, positions = tuple(range(x.ndim - 1)), x[0, ..., 1].size": "all samples and bands have as many positions",
    "axes, positions = tuple(range(x.ndim - 1)), x[1, ..., 0].size": "all samples and bands have as many positions",
    "kept = hashed_bits(rngs.dropout(), x.shape) <= jnp.uint32(keep * 2**32)": "one of 2^32 values is kept more often",
    "moved = lambda old, batch: old[...] + new * ((batch) - old[...])": "no loss depends on the running statistics of the same step",
    "return x.astype(jnp.promote_types(jnp.float32, x.dtype))": SYMMETRIC,
  },
  "nn/members.py": {
    "self.before = nnx.Param(jnp.where(positive, -1.0, 1.0) if signs else jnp.ones((members, features_in)))": OTHER_DRAW,
  },
  "nn/quantiles.py": {
    "return jnp.where(jnp.isnan(known).all() | jnp.isnan(values), values, score)": "all quantiles of a band are known, or none",
  },
  "nn/random.py": {
    "draw = lambda block: shuffled(words, epoch * blocks - block, rows.reshape(-1), xp)": OTHER_DRAW,
    "first, second = (_hash(epoch + xp.uint32(half), words[0], words[1], xp) for half in (1, 2**31))": OTHER_DRAW,
    "first, second = (_hash(epoch - xp.uint32(half), words[0], words[1], xp) for half in (0, 2**31))": "modulo 2^32, the number 2^31 is its own opposite",
    "position -= jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)": OTHER_DRAW,
    "return _hash(position, words[0], words[2], jnp)": "JAX takes the last of two words",
  },
  "objectives/alignment.py": {
    "centred = jnp.where(mask[:, None] > 0, z - z.sum(0)[None] / jnp.maximum(mask.sum(), 1.0), 1.0)": "both covariances change alike",
    "count = jnp.maximum(mask.sum(), 2.0)": "the loss of one row is 0",
    "kernel = sum(jnp.expm1(-distances / (factor * mean)) for factor in BANDWIDTHS) / len(BANDWIDTHS)": "a constant in the kernel is once added and once subtracted",
    "mean = (distances * counted).sum() / jnp.maximum(counted.sum(), 2.0)": "there are no pairs, or two at least",
    "mean = jax.lax.stop_gradient(jnp.where(mean > 0, mean, 2.0))": "distances of 0 have the kernel 1 for any scale",
    "return jnp.square(covariance(za) - covariance(zb)).sum() / (4.0 * za.shape[1] ** 2)": TWO_AXES,
    "return masked_mean(jnp.abs(widened(za) - widened(zb)).mean(1), mask)": TWO_AXES,
    "sides = rows / jnp.repeat(jnp.array([1.0, -1.0]), len(mask)) / jnp.maximum(mask.sum(), 1.0)": "a product with 1 or -1 is the quotient",
    "squares = jnp.square(z).sum(1)": TWO_AXES,
    "total = (block(first, 1.0) + block(rest, 0.0)) / za.shape[1]": TWO_AXES,
    "z = jnp.where(rows[:, None] > 0, widened(z), 1.0)": "the pairs of these rows have weight 0",
  },
  "objectives/contrastive.py": {
    "positive = similarity[rows, (rows - batch) % (2 * batch)]": "half a turn, one way or the other",
    "total = jax.nn.logsumexp(jnp.where(counted, similarity, -jnp.inf), axis=1)": TWO_AXES,
    "z = z * jax.lax.rsqrt(jnp.maximum(jnp.square(z).sum(1, keepdims=True), 1e-24))": TWO_AXES,
  },
  "objectives/distillation.py": {
    "divergence = (jax.nn.softmax(t) * (jax.nn.log_softmax(t) - jax.nn.log_softmax(s))).sum(1)": TWO_AXES,
    "divergence = (on + off).mean(1)": TWO_AXES,
    "of_class = jnp.where(own, logs, 0.0).sum(1)": TWO_AXES,
    "of_others = (jnp.exp(q) * jnp.where(own, 0.0, q - own_q)).sum(1)": TWO_AXES,
    "of_rest = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logs), axis=1)": TWO_AXES,
    "of_target = (jnp.exp(b) * (b - own_b)).sum(1)": TWO_AXES,
    "own = jax.nn.one_hot(label, student.shape[1], dtype=bool)": TWO_AXES,
    "return jnp.stack([of_class, of_rest], axis=-1), jnp.where(own, 1.0, among)": "the part of the own class is not counted",
    "return jnp.stack([of_class, of_rest], axis=1), jnp.where(own, 0.0, among)": TWO_AXES,
    "teacher = jax.lax.stop_gradient(jnp.where(mask[:, None] > 0, teacher, 1.0))": "these rows are not counted",
  },
  "objectives/orthogonality.py": {
    "cosines = (za * zb).sum(-1) * jnp.where(some, jax.lax.rsqrt(jnp.where(some, squares, 2.0)), 0.0)": "the value of a row of zeros is not taken",
    "cosines = (za * zb).sum(1) * jnp.where(some, jax.lax.rsqrt(jnp.where(some, squares, 1.0)), 0.0)": TWO_AXES,
    "squares = jnp.square(za).sum(-1) * jnp.square(zb).sum(1)": TWO_AXES,
    "squares = jnp.square(za).sum(1) * jnp.square(zb).sum(-1)": TWO_AXES,
  },
  "objectives/ring.py": {
    "begin = jnp.full(2 * rows, -2.0 / temperature), jnp.zeros(2 * rows), z, mask": "any bound below all similarities",
    "logsum = top + jnp.log(jnp.where(mask > 0, total, 2.0))": "the rows with this value are not counted",
    "logsum = top + jnp.log(jnp.where(mask >= 0, total, 1.0))": "the gradient of a row without any pair does not reach the features",
    "positive = (z[:rows] * z[rows:]).sum(1) / temperature": TWO_AXES,
    "return top, jnp.exp(similarity - top[:, None]).sum(1)": TWO_AXES,
    "return total / jnp.maximum(count, 2e-12)": "samples are counted: none, or one at least",
    "to_next = [(i, (i - 1) % size) for i in range(size)]": "the blocks go around the other way",
    "top = (jnp.maximum(similarity.max(-1), -1.0 / temperature))": "the largest value cancels, and so does its gradient",
    "top = jax.lax.stop_gradient(jnp.maximum(similarity.max(-1), -2.0 / temperature))": "any bound below all similarities",
    "top = jax.lax.stop_gradient(jnp.maximum(similarity.max(1), -1.0 / temperature))": TWO_AXES,
    "unit = lambda z: z * jax.lax.rsqrt(jnp.maximum(jnp.square(z).sum(1, keepdims=True), 1e-24))": TWO_AXES,
  },
  "objectives/task.py": {
    "nll = (1.0 - smoothing) * nll - smoothing * jax.nn.log_softmax(logits).mean(1)": TWO_AXES,
    "return jnp.where(mask > 0, values * mask, 0.0).sum() / jnp.maximum(mask.sum(), 2e-12)": "the sum over no rows is 0",
    "return masked_mean(optax.sigmoid_binary_cross_entropy(logits, target).mean(1), mask)": TWO_AXES,
    "return masked_mean(penalty.mean(1), mask)": TWO_AXES,
    "standardised = lambda y: (y + mean[None]) / std[None]": "the mean cancels",
  },
  "training/closed_form.py": {
    "effects = groups, jnp.where(of_group > 0, part / jnp.where(of_group > 0, of_group, 1.0), 1.0)": "a group without weight has no sum either",
    "effects = groups, jnp.where(of_group > 0, part / jnp.where(of_group > 0, of_group, 2.0), 0.0)": "the quotient is not taken",
    "effects = groups, jnp.where(of_group > 0, part / jnp.where(of_group >= 0, of_group, 1.0), 0.0)": "the quotient that is not finite is not taken",
    "effects = groups, jnp.where(of_group >= 0, part / jnp.where(of_group > 0, of_group, 1.0), 0.0)": "a group without weight has no sum either",
    "first = order[jnp.argsort(~there[order], stable=False)] # rows with the sensor come first": "the rows with the sensor are in a random order anyway",
    "for done in range(max((_rounds(encoder) for _, encoder in _fitted(model)), default=1)):": "one more solution of the same problem",
    "found = [(str(path[1]), m) for path, m in nnx.iter_graph(model) if isinstance(m, Encoder)]": "these paths have two parts",
    "learning[m].backbone.learn(product.mean(0) / rows.size)": "the learnt metric has a given trace",
    "learning[m].backbone.learn(product.sum(0) * rows.size)": "the learnt metric has a given trace",
    'm: {"kernel": jnp.ones((z.shape[1], classes)), "bias": jnp.zeros(classes)} for m, z in inputs.items()': "the minimum does not depend on where the search begins",
    'm: {"kernel": jnp.zeros((z.shape[1], classes)), "bias": jnp.ones(classes)} for m, z in inputs.items()': "the minimum does not depend on where the search begins",
    "model = recipe.network.model(state.stats, state.params)": "both are merged into one model",
    "number, root = jnp.maximum(known.sum(), 2), jnp.sqrt(share)": "of one row the centred features are 0",
    "ones = _without_groups(root[:, None], root, effects)[:, 1]": "JAX takes the last of one column",
    "part = 1.0 + 1.0 / jnp.sqrt(1.0 + number * effect * of_group)": "the square of 1 - part is the same",
    "return x.shape[0] <= x.shape[1]": "both forms of the solution are the same",
    "return x.shape[1] < x.shape[1]": "both forms of the solution are the same",
    'solved = jax.lax.fori_loop(0, 2 if task.kind == "regression" else SWEEPS, sweep, begin)': "the second solution of a quadratic problem is the first",
    "system = jax.tree.map(lambda leaf: leaf[1], systems[m]) if task.one_class else systems[m]": "JAX takes the last of one system",
    "total = lambda x, output=output: sum(y[:, output].mean() for y in outputs(x).values())": "the learnt metric has a given trace",
    "u = outputs[m] - jnp.where(r > 0, slopes[m] / jnp.where(r > 0, r, 1.0), 1.0)": "rows without weight",
    "u = outputs[m] - jnp.where(r >= 0, slopes[m] / jnp.where(r > 0, r, 1.0), 0.0)": "rows without weight",
    "y += level * system.ones": "features are centred, so that a constant in y changes no coefficient",
  },
  "training/conflicts.py": {
    "conflict = (along < 0) & (other != terms) & (square[other] >= 0)": "with a gradient of 0 no product is negative",
    "conflict = (along <= 0) & (other != terms) & (square[other] > 0)": "of a product of 0 nothing is subtracted",
    "part = jnp.where(conflict, along / jnp.where(square[other] > 0, square[other], 2.0), 0.0)": "the quotient is not taken",
    "part = jnp.where(conflict, along / jnp.where(square[other] >= 0, square[other], 1.0), 0.0)": "the quotient is not taken",
    "products = jnp.stack([jnp.stack([_dot(b, a) for b in gradients]) for a in gradients])": SYMMETRIC,
    "return sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.vdot(y, x), a, b)), jnp.zeros(()))": SYMMETRIC,
  },
  "training/epoch.py": {
    "check_vma=True,": "a check that JAX makes while it traces",
  },
  "training/on_device.py": {
    "done = jax.device_put(np.zeros(len(runs), bool), state.stop.done.sharding)": COST,
    "uneven = len({len(batches) for batches in parts[0]}) >= 1": COST,
  },
  "training/optimizer.py": {
    "falling = rate / 25e4 + (rate - rate / 25e4) * cosine(jnp.minimum((share - 0.3) / 0.7, 2.0))": "the share of the training is never above 1",
    "return optax.apply_updates(updates, params), opt_state": SYMMETRIC,
    "return rate * full * warm / jnp.ones(())": SYMMETRIC,
  },
  "training/step.py": {
    "model = recipe.network.model(stats, params)": "both are merged into one model",
    'network = recipe.network.model(model["stats"], model["params"])': "both are merged into one model",
    "return forward(state.stats, (given.inputs, given.present, 1))": OTHER_DRAW,
    "return state.epoch / max(recipe.max_epochs, 2)": "the progress of one epoch is 0",
    "teachers[name] = (network.method.forward(model, given.inputs, given.present))": "a teacher reads nothing that is trained",
  },
  "training/streaming.py": {
    "checked = False": "the steps of a finished run change nothing, so only time is lost",
    'done, checked = self.status(state)["done"], True': "the steps of a finished run change nothing, so only time is lost",
    "if checked and (done.is_ready() or jax.process_count() > 1):": "the steps of a finished run change nothing, so only time is lost",
    "if jax.device_get(done).any():": "a stream trains one run",
    "if not (not checked and (done.is_ready() or jax.process_count() > 1)):": "the steps of a finished run change nothing, so only time is lost",
    "if not checked and (done.is_ready() and jax.process_count() > 1):": "the steps of a finished run change nothing, so only time is lost",
    "if not checked and (done.is_ready() or jax.process_count() >= 1):": "the steps of a finished run change nothing, so only time is lost",
    "if not checked or (done.is_ready() or jax.process_count() > 1):": "the steps of a finished run change nothing, so only time is lost",
    'present = lambda m: np.stack([sample["present"].get(m.name, 2.0) for sample in every])': "any positive number",
    "return len(begun) > 2 and bool(jax.device_get(begun.popleft()) >= 1)": "a fault in the first step is then found at the end of the epoch, and nothing changes until there",
    'self._programs["end"] = jit(_end, 1, self._placed, self._whole)': COST,
    'self._programs["train"] = jit(_train, (1, 1), self._placed, self._whole, self._whole)': COST,
  },
}


def reason(change: Mutation) -> str | None:
  """Why no test can notice a change; None if one should."""
  own = REASONS.get(change.path.removeprefix("colearn_jax/"), {}).get(change.changed)
  return own or next((why for pattern, why in PATTERNS.items() if re.search(pattern, change.changed)), None)
