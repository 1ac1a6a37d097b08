"""Golden cases of pretrained encoders: `python -m tests.golden_replay FOLDER --pretrained=WEIGHTS`.

A case consists of `<encoder>_<name>.npz` and `.json`. WEIGHTS contains the published files, see `FILES`.
Arrays below `out/` and `grad/` are compared: outputs within `OUTPUTS`, gradients within `MARGIN` times the
difference between float32 and float64 that the case states.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import presto
from colearn_jax.types import InputError, Modality
from colearn_jax.weights import presto as presto_weights
from colearn_jax.weights import pretrained, tensors

OUTPUTS, MARGIN = 2e-5, 20.0  # absolute
FILES = {"presto": "presto/default_model.pt"}  # of each encoder, in the folder of weights
Arrays = Mapping[str, np.ndarray]


def replay_presto(spec: Mapping, arrays: Arrays, file: Path) -> dict[str, np.ndarray]:
  """Our embedding and gradients, by the names of the case."""
  absent = arrays["in/mask"] > 0
  kept = [i for i in range(len(spec["bands"])) if not absent[..., i].all()]
  raw = np.where(absent, np.nan, arrays["in/raw"])[..., kept]
  bands = [spec["bands"][i] for i in kept]
  classes = arrays.get("in/dynamic_world", np.full(raw.shape[:2], presto.ABSENT_CLASS))
  if (classes < presto.ABSENT_CLASS).any():
    bands, raw = [*bands, presto.CLASSES], np.append(raw, classes[..., None], axis=-1)
  modality = Modality("case", ("case",), raw.shape[1:], tuple(bands))
  settings = {"model_type": "presto", "weights": str(file)}
  constants = encoders.normalisation(settings, modality)
  x = ((raw - constants["offset"]) / constants["scale"]).astype(np.float32)
  place = _unit_vector(arrays["in/latlon"]) if "in/latlon" in arrays else None
  known = {"context": 3, "place": 0} if place is not None else {}
  build = lambda: encoders.make_encoder(
    settings, modality.shape, 4, modality=modality, rngs=nnx.Rngs(0), **known
  )
  net = nnx.eval_shape(build).backbone
  pretrained.load(settings, net)
  graphdef, params = nnx.split(net)

  @jax.jit
  def run(params, cotangent):
    embed = lambda params: nnx.merge(graphdef, params)(x, months=jnp.asarray(arrays["in/month"]), place=place)
    y, backward = jax.vjp(embed, params)
    return y, backward(cotangent)[0]

  y, gradients = run(params, jnp.asarray(arrays["in/cotangent"]))
  found = {"out/embedding": y, "out/embedding64": y}
  for name, variable, layout in presto_weights.places(nnx.merge(graphdef, gradients)):
    gradient = np.asarray(variable[...])
    if name == presto_weights.GROUPS:  # the rows of groups that are not there have no gradient
      whole = np.zeros((len(presto.GROUPS), gradient.shape[1]), np.float32)
      whole[[list(presto.GROUPS).index(group) for group in net.groups]] = gradient
      found[f"grad/{name}"] = whole
    else:
      found[f"grad/{name}"] = gradient.T if layout is tensors.transposed else gradient
  names = [key.removeprefix("grad/") for key in arrays if key.startswith("grad/")]
  for name in set(names) & set(presto_weights.names(net)):  # layers of groups that are not there
    found.setdefault(f"grad/{name}", np.zeros_like(arrays[f"grad/{name}"]))
  return found


REPLAYS: dict[str, Callable[[Mapping, Arrays, Path], dict[str, np.ndarray]]] = {"presto": replay_presto}


def _unit_vector(degrees: np.ndarray) -> np.ndarray:
  latitude, longitude = np.radians(degrees.astype(np.float64)).T
  parts = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)
  return np.stack(parts, -1).astype(np.float32)


def compare(folder: Path, name: str, weights: Path) -> tuple[bool, str]:
  """Replays a case. Returns whether it passed, and a line about it."""
  spec = json.loads((folder / f"{name}.json").read_text())
  arrays = dict(np.load(folder / f"{name}.npz"))
  encoder = name.split("_")[0]
  if encoder not in REPLAYS:
    return False, f"no encoder {encoder!r}, have: {', '.join(REPLAYS)}"
  found = REPLAYS[encoder](spec, arrays, weights / FILES[encoder])
  allowed = {"out": OUTPUTS, "grad": MARGIN * spec["float64_max_abs_diff"]["grads"]}
  ok, parts = True, []
  for family, limit in allowed.items():
    keys = [key for key in arrays if key.split("/")[0] == family]
    missing = [key for key in keys if key not in found or found[key].shape != arrays[key].shape]
    sizes = {key: float(np.abs(found[key] - arrays[key]).max()) for key in keys if key not in missing}
    worst = max(sizes, key=lambda key: sizes[key] if sizes[key] == sizes[key] else np.inf, default="nothing")
    size = sizes.get(worst, np.inf)
    good = size <= limit and not missing
    ok &= good
    parts.append(f"{family} {size:.1e} {'ok' if good else 'OVER'}, allowed {limit:.1e}, {len(sizes)} arrays")
    parts[-1] += f", not compared: {', '.join(missing)}" if missing else "" if good else f" ({worst})"
  return ok, "; ".join(parts)


def main(folder: Path, weights: Path) -> int:
  """Replays every case of a folder; returns the exit status."""
  names = sorted({path.stem for path in folder.iterdir() if path.suffix in (".json", ".npz")})
  failed = 0
  for name in names:
    try:
      ok, line = compare(folder, name, weights)
    except (InputError, OSError, KeyError) as error:
      ok, line = False, f"{type(error).__name__}: {error}"
    failed += not ok
    print(f"{'passed' if ok else 'FAILED'} {name}: {line}", flush=True)
  if not names:
    print(f"{folder} holds no case: no .json and .npz files", file=sys.stderr)
  print(f"{len(names)} cases, {failed} failed")
  return 1 if failed or not names else 0
