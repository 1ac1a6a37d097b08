"""Small files of Presto's weights with random values, and Presto in NumPy to compare with."""

import math

import numpy as np

from colearn_jax.encoders import presto
from colearn_jax.methods.architecture import Architecture
from colearn_jax.types import Modality
from tests import small_methods

WIDTH, HIDDEN, HEADS = 16, 24, 4
SIZES = {"layer_size": WIDTH, "feedforward_size": HIDDEN, "num_heads": HEADS}
BANDS = {name: names for name, names in presto.GROUPS.items() if name != presto.CLASSES}


def state_dict(blocks=2, seed=0):
  """The names and layouts of the published file, with a decoder that is not needed."""
  rng, out = np.random.default_rng(seed), {}

  def add(name, *shape):
    out[f"encoder.{name}"] = (rng.normal(size=shape) * 0.4).astype(np.float32)

  def linear(name, i, o):
    add(f"{name}.weight", o, i)
    add(f"{name}.bias", o)

  def norm(name):
    add(f"{name}.weight", WIDTH)
    add(f"{name}.bias", WIDTH)
    out[f"encoder.{name}.weight"] += 1

  for group, names in BANDS.items():
    linear(f"eo_patch_embed.{group}", len(names), WIDTH)
  add("dw_embed.weight", 10, WIDTH)
  linear("latlon_embed", 3, WIDTH)
  add("channel_embed.weight", 10, WIDTH // 4)
  for i in range(blocks):
    norm(f"blocks.{i}.norm1")
    linear(f"blocks.{i}.attn.qkv", WIDTH, 3 * WIDTH)
    linear(f"blocks.{i}.attn.proj", WIDTH, WIDTH)
    norm(f"blocks.{i}.norm2")
    linear(f"blocks.{i}.mlp.fc1", WIDTH, HIDDEN)
    linear(f"blocks.{i}.mlp.fc2", HIDDEN, WIDTH)
  norm("norm")
  position = np.outer(np.arange(24), 1000.0 ** (-2 * (np.arange(WIDTH // 2) // 2) / (WIDTH // 2)))
  even = np.arange(WIDTH // 2) % 2 == 0
  out["encoder.pos_embed"] = np.where(even, np.sin(position), np.cos(position)).astype(np.float32)[None]
  angle = np.repeat(np.arange(12)[:, None] * np.pi / 6, WIDTH // 8, 1)
  out["encoder.month_embed.weight"] = np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
  return out | {"decoder.norm.weight": np.ones(3, np.float32)}


def reference(state, x, bands, months, place):
  """Embeddings `[B D]` in float64, sample by sample; x `[B T C]` is normalised, NaN where missing."""
  weights = {name.removeprefix("encoder."): value.astype(np.float64) for name, value in state.items()}
  dense = lambda a, name: a @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
  quarter, zero = WIDTH // 4, np.zeros(WIDTH // 4)
  out = []

  def norm(a, name):
    a = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)
    return a * weights[f"{name}.weight"] + weights[f"{name}.bias"]

  for b in range(len(x)):
    tokens = [] if place is None or np.isnan(place[b]).any() else [dense(place[b], "latlon_embed")]
    for number, (group, names) in enumerate(presto.GROUPS.items()):
      if not set(names) <= set(bands):
        continue
      vector = weights["channel_embed.weight"][number]
      for t, step in enumerate(x[b][:, [bands.index(name) for name in names]]):
        static = group == "SRTM"
        if np.isnan(step).any() or (static and t):
          continue
        if group == presto.CLASSES:
          token = weights["dw_embed.weight"][int(step[0])]
        else:
          token = dense(step, f"eo_patch_embed.{group}")
        month = zero if months[b, t] < 0 else weights["month_embed.weight"][months[b, t]]
        code = (
          [zero, vector, np.zeros(2 * quarter)] if static else [month, vector, weights["pos_embed"][0, t]]
        )
        tokens.append(token + np.concatenate(code))
    y = np.array(tokens)
    for i in range(sum(name.endswith("norm1.weight") for name in state)):
      heads = lambda a: a.reshape(len(a), HEADS, -1).transpose(1, 0, 2)
      query, key, value = map(
        heads, np.split(dense(norm(y, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv"), 3, -1)
      )
      scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
      attention = np.exp(scores - scores.max(-1, keepdims=True))
      attention /= attention.sum(-1, keepdims=True)
      y = y + dense((attention @ value).transpose(1, 0, 2).reshape(y.shape), f"blocks.{i}.attn.proj")
      hidden = dense(norm(y, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
      hidden = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
      y = y + dense(hidden, f"blocks.{i}.mlp.fc2")
    out.append(norm(y.mean(0), "norm"))
  return np.array(out)


def architecture(encoder="presto", **more):
  modality = lambda name, own: Modality(name, (name,), (4, len(own) + 1), (*own, "month"), (), True)
  sensors = {
    "radar": modality("radar", ("VV", "VH")),
    "optical": modality("optical", ("B2", "B3", "B4")),
    "thermal": modality("thermal", ("t2m", "rain")),
  }
  settings = dict.fromkeys(sensors, {"model_type": encoder, **SIZES, "n_layers": 1})
  shapes, task = {name: m.shape for name, m in sensors.items()}, small_methods.task("multiclass")
  known = {"context": 5, "place": 2, "modalities": sensors}
  return Architecture(shapes, settings, task, emb_dim=4, **(known | more))
