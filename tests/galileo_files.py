"""Small files of Galileo's weights with random values."""

import numpy as np

WIDTH, HIDDEN, HEADS = 16, 24, 4
SIZES = {"layer_size": WIDTH, "feedforward_size": HIDDEN, "num_heads": HEADS}
# Number of bands of each group, by the layer that embeds the groups of a kind.
GROUPS = {
  "space_time_embed": {
    "S1": 2,
    "S2_RGB": 3,
    "S2_Red_Edge": 3,
    "S2_NIR_10m": 1,
    "S2_NIR_20m": 1,
    "S2_SWIR": 2,
    "NDVI": 1,
  },
  "space_embed": {"SRTM": 2, "DW": 9, "WC": 5},
  "time_embed": {"ERA5": 2, "TC": 3, "VIIRS": 1},
  "static_embed": {"LS": 1, "location": 3, "DW_static": 9, "WC_static": 5},
}
TABLES = {"s_t_channel_embed": 7, "sp_channel_embed": 3, "t_channel_embed": 3, "st_channel_embed": 4}


def state_dict(blocks=1, seed=0):
  """The names and layouts of the published file."""
  rng, out = np.random.default_rng(seed), {}

  def layer(name, *shape, mean=0.0):
    for kind, of in (("weight", shape), ("bias", shape[:1])):
      out[f"{name}.{kind}"] = (rng.normal(size=of) * 0.4 + mean * (kind == "weight")).astype(np.float32)

  angle = np.outer(np.arange(24), 10000.0 ** (-np.arange(WIDTH // 8) / (2 * WIDTH // 4)))
  out["pos_embed"] = np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
  angle = np.repeat(np.arange(12)[:, None] * np.pi / 6, WIDTH // 8, 1)
  out["month_embed.weight"] = np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
  for name, rows in TABLES.items():
    out[name] = (rng.normal(size=(rows, WIDTH // 4)) * 0.4).astype(np.float32)
  for kind, groups in GROUPS.items():
    for group, count in groups.items():
      if kind.startswith("space"):
        layer(f"{kind}.{group}.proj", WIDTH, count, 8, 8)
      else:
        layer(f"{kind}.{group}", WIDTH, count)
  for i in range(blocks):
    for name in ("norm1", "norm2"):
      layer(f"blocks.{i}.{name}", WIDTH, mean=1.0)
    for name in ("attn.q", "attn.k", "attn.v", "attn.proj"):
      layer(f"blocks.{i}.{name}", WIDTH, WIDTH)
    layer(f"blocks.{i}.mlp.fc1", HIDDEN, WIDTH)
    layer(f"blocks.{i}.mlp.fc2", WIDTH, HIDDEN)
  layer("norm", WIDTH, mean=1.0)
  return out
