"""Small encoders, data and files for several test modules."""

import json
import struct
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import encoders

SERIES = sorted(set(encoders.ENCODERS) - set(encoders.SPATIAL) - set(encoders.BY_BAND))
SMALL_SHAPES = dict.fromkeys(SERIES, (6, 3)) | {"pse_ltae": (4, 2, 2, 3)}
SMALL = {
  "convtran": {"layer_size": 8, "feedforward_size": 8},
  "gru": {"layer_size": 8},
  "kernel": {"landmarks": 16, "layer_sizes": (8,)},
  "lstm": {"layer_size": 8},
  "ltae": {"d_model": 16, "num_heads": 4, "d_k": 4, "n_neurons": (16, 8)},
  "mlp": {"layer_sizes": (8, 8)},
  "pse_ltae": {
    "pixel_sizes": (8,),
    "step_sizes": (16,),
    "d_model": 16,
    "num_heads": 4,
    "d_k": 4,
    "n_neurons": (16, 8),
  },
  "resnet": {},
  "rnn": {"layer_size": 8},
  "tae": {"d_model": 8, "num_heads": 2, "d_k": 4, "n_neurons": (16, 8)},
  "table": {"layer_sizes": (8, 8), "embedding_width": 2, "bins": 4},
  "tempcnn": {"layer_size": 8},
  "transformer": {"layer_size": 8, "num_heads": 2, "feedforward_size": 8},
}
# ResNets of one block a stage: basic blocks and bottlenecks, with and without projection.
TINY_RESNETS = {10: ((1, 1), 2), 14: ((1, 1), 3)}


def by_default(chosen, values):
  """Parameters of a test: all `values`; those that are not in `chosen` have the marker `long`."""
  return [pytest.param(v, marks=() if v in chosen else pytest.mark.long) for v in values]


def series(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def make(name, shape=None, width=4, context=0, dtype=jnp.float32, dropout=0.0, **settings):
  """Builds a small encoder with random values, made by NumPy: JAX would compile a program for each shape."""
  rates = {"dropout", "attention_dropout"} & encoders.arguments(name).keys()
  settings = {"model_type": name, **dict.fromkeys(rates, dropout), **SMALL[name], **settings}
  build = lambda: encoders.make_encoder(
    settings, shape or SMALL_SHAPES[name], width, context=context, rngs=nnx.Rngs(0), dtype=dtype
  )
  module, rng = nnx.eval_shape(build), np.random.default_rng(0)
  for path, variable in nnx.iter_graph(module):
    if isinstance(variable, nnx.Variable):
      spread = 0.05 if path[-1] == "metric" else 0.4  # by which distances of the kernel are near 1
      value = rng.normal(size=variable.shape) * spread + (path[-1] in ("scale", "var"))
      variable.set_value(jnp.asarray(np.abs(value) if path[-1] == "var" else value, variable.dtype))
  return module


def program(module, **kwargs):
  """Compiles a module to a function from inputs to outputs and the batch statistics after them."""
  graphdef, params, stats = split(module)

  @jax.jit
  def call(x):
    m = nnx.merge(graphdef, params, stats)
    return m(x, **kwargs), nnx.to_pure_dict(nnx.state(m, nnx.BatchStat))

  return call


def split(module):
  graphdef, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
  return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def resnet_state_dict(stages, bands=3, seed=0):
  """Makes a state dict of a ResNet with random values, with torchvision's names and PyTorch's layouts."""
  rng, out = np.random.default_rng(seed), {}
  blocks, convs = stages

  def unit(conv, norm, i, o, k):
    out[f"{conv}.weight"] = rng.normal(size=(o, i, k, k)) * (2.0 / (i * k * k)) ** 0.5
    out[f"{norm}.weight"], out[f"{norm}.bias"] = rng.uniform(0.5, 1.5, o), rng.normal(size=o) * 0.1
    out[f"{norm}.running_mean"], out[f"{norm}.running_var"] = rng.normal(size=o), rng.uniform(0.5, 2.0, o)
    out[f"{norm}.num_batches_tracked"] = np.array(7)

  unit("conv1", "bn1", bands, 64, 7)
  features = 64
  for number, count in enumerate(blocks):
    width = 64 * 2**number
    for b in range(count):
      where, last = f"layer{number + 1}.{b}", width * (4 if convs == 3 else 1)
      if convs == 3:
        unit(f"{where}.conv1", f"{where}.bn1", features, width, 1)
        unit(f"{where}.conv2", f"{where}.bn2", width, width, 3)
        unit(f"{where}.conv3", f"{where}.bn3", width, last, 1)
      else:
        unit(f"{where}.conv1", f"{where}.bn1", features, width, 3)
        unit(f"{where}.conv2", f"{where}.bn2", width, width, 3)
      if b == 0 and (number > 0 or features != last):
        unit(f"{where}.downsample.0", f"{where}.downsample.1", features, last, 1)
      features = last
  out["fc.weight"], out["fc.bias"] = rng.normal(size=(10, features)), rng.normal(size=10)
  return {k: v.astype(np.int64 if k.endswith("tracked") else np.float32) for k, v in out.items()}


TORCH = {"float16": "Half", "float32": "Float", "float64": "Double", "bool": "Bool"}  # names of storages
TORCH |= {"uint8": "Byte", "int16": "Short", "int64": "Long"}


def _pickled(value, storages, keys=None):
  """Encodes a value by pickle's second protocol, arrays as the tensors of torch.save."""
  emit = lambda v: _pickled(v, storages)
  if value is None:
    return b"N"
  if isinstance(value, bool):
    return b"\x88" if value else b"\x89"
  if isinstance(value, int):
    number = value.to_bytes(9, "little", signed=True)
    return b"J" + struct.pack("<i", value) if abs(value) < 2**31 else b"\x8a\x09" + number
  if isinstance(value, float):
    return b"G" + struct.pack(">d", value)
  if isinstance(value, str):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
  if isinstance(value, tuple):
    return b"(" + b"".join(map(emit, value)) + b"t"
  if isinstance(value, list):
    return b"](" + b"".join(map(emit, value)) + b"e"
  if isinstance(value, dict):
    return b"}(" + b"".join(emit(k) + emit(v) for k, v in value.items()) + b"u"
  if isinstance(value, bytes):
    return value  # pickle operations, written as they are
  key, kind = str(len(storages)), TORCH[str(value.dtype)]
  storages[key] = value.tobytes()
  storage = b"(" + emit("storage") + f"ctorch\n{kind}Storage\n".encode() + emit(key) + emit("cpu")
  storage += emit(value.size) + b"tQ"
  strides = tuple(s // value.itemsize for s in value.strides)
  args = (
    storage + emit(0) + emit(value.shape) + emit(strides) + emit(False) + b"ccollections\nOrderedDict\n)R"
  )
  return b"ctorch._utils\n_rebuild_tensor_v2\n(" + args + b"tR"


def save_torch_file(path, content, *, storages=None, compression=zipfile.ZIP_STORED, **more):
  """Writes a file as torch.save does, and returns its path."""
  storages_found = {}
  pickled = b"\x80\x02" + _pickled(content, storages_found) + b"."
  entries = {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"} | more
  entries |= {f"data/{k}": v for k, v in (storages_found | (storages or {})).items()}
  with zipfile.ZipFile(path, "w", compression) as archive:
    for name, data in entries.items():
      if data is not None:
        archive.writestr(f"archive/{name}", data)
  return path


def sites(seed, samples=240):
  """Samples of 20 sites in 5 years, some without a label: their groups, dates, places and labels."""
  rng = np.random.default_rng(seed)
  site = rng.integers(0, 20, samples)
  dates = np.datetime64("2015-01-01") + rng.integers(0, 5 * 365, samples).astype("timedelta64[D]")
  places = np.stack([rng.uniform(-40, 60, 20), rng.uniform(-180, 180, 20)], axis=1)[site]
  return np.array([f"site{k}" for k in site]), dates, places, rng.random(samples) < 0.8


def kilometres(a, b):
  """Haversine distances between all places of two sets."""
  a, b = np.radians(a)[:, None], np.radians(b)[None]
  h = np.sin((a - b)[..., 0] / 2) ** 2
  h += np.cos(a[..., 0]) * np.cos(b[..., 0]) * np.sin((a - b)[..., 1] / 2) ** 2
  return 2 * 6371.0088 * np.arcsin(np.sqrt(h))


GOLDEN = Path(__file__).parent / "golden"


def golden(name):
  """A golden case's settings as YAML would have them, its arrays, and where its model's outputs are."""
  spec, arrays = (
    json.loads((GOLDEN / f"{name}.json").read_text()),
    dict(np.load(GOLDEN / f"{name}.npz")),
  )
  family = lambda prefix: {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
  return spec["constructor"], family("param/"), family("in/x/"), family("out/prediction/"), arrays
