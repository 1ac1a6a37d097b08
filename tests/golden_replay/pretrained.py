"""Golden cases of pretrained encoders: `python -m tests.golden_replay FOLDER --pretrained=WEIGHTS`.

A case consists of `<encoder>_<name>.npz` and `.json`. WEIGHTS contains the published files, see `FILES`.
Arrays below `out/` and `grad/` are compared: outputs within `OUTPUTS`, gradients within `MARGIN` times the
difference between float32 and float64 that the case states.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import galileo, presto
from colearn_jax.types import InputError, Modality
from colearn_jax.weights import galileo as galileo_weights
from colearn_jax.weights import presto as presto_weights
from colearn_jax.weights import pretrained, tensors

OUTPUTS, MARGIN = 2e-5, 20.0  # absolute
# Of each encoder, in the folder of weights.
FILES = {"galileo": "galileo_nano/encoder.pt", "presto": "presto/default_model.pt"}
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
  place = _unit_vector(arrays["in/latlon"]) if "in/latlon" in arrays else None
  settings = {"model_type": "presto", "weights": str(file)}
  embed, net = _backbone(settings, raw, bands, arrays["in/month"], place)
  y, gradients = _gradients(embed, net, arrays["in/cotangent"])
  found = {"out/embedding": y, "out/embedding64": y}
  for name, variable, layout in presto_weights.places(gradients):
    gradient = np.asarray(variable[...])
    if name == presto_weights.GROUPS:  # the rows of groups that are not there have no gradient
      found[f"grad/{name}"] = _rows(gradient, net.groups, presto.GROUPS)
    else:
      found[f"grad/{name}"] = gradient.T if layout is tensors.transposed else gradient
  names = [key.removeprefix("grad/") for key in arrays if key.startswith("grad/")]
  for name in set(names) & set(presto_weights.names(net)):  # layers of groups that are not there
    found.setdefault(f"grad/{name}", np.zeros_like(arrays[f"grad/{name}"]))
  return found


def replay_galileo(spec: Mapping, arrays: Arrays, file: Path) -> dict[str, np.ndarray]:
  """Our embeddings, of the samples and of their patches, and gradients, by the names of the case."""
  raw, bands, place = _series_of_images(spec, arrays)
  settings = {"model_type": "galileo", "weights": str(file), "patch_size": spec["patch_size"]}
  settings["resolution"] = float(spec["input_resolution_m"])
  embed, net = _backbone(settings, raw, bands, arrays["in/months"], place)
  y, gradients = _gradients(embed, net, arrays["in/cotangent"])
  found = {"out/embedding": y, "out/per_patch": jax.jit(lambda: embed(net, per_patch=True))()}
  vectors = np.asarray(gradients.vectors[...])
  for kind, groups in galileo.KINDS.items():
    own = [group for group in net.groups if group in groups]
    gradient = vectors[[net.groups.index(group) for group in own]]
    found[f"grad/{galileo_weights.vectors(kind)}"] = _rows(gradient, own, groups)
  for name, variable, _ in galileo_weights.places(gradients):
    gradient = np.asarray(variable[...])
    if name.endswith("weight") and gradient.ndim > 1:  # the last two axes are inputs and outputs
      gradient = gradient.transpose(-1, -2, *range(gradient.ndim - 2))
    found.setdefault(f"grad/{name}", gradient)
  return found


REPLAYS: dict[str, Callable[[Mapping, Arrays, Path], dict[str, np.ndarray]]] = {
  "galileo": replay_galileo,
  "presto": replay_presto,
}


def _series_of_images(spec: Mapping, arrays: Arrays) -> tuple[np.ndarray, list[str], np.ndarray | None]:
  """The raw values of a case of Galileo, `[B T H W C]` or `[B T C]`, their bands, and the place."""
  patch, place, columns, bands = spec["patch_size"], None, [], []
  batch, rows, width, steps = arrays["in/space_time"].shape[:4]
  constants = {"space": "space_srtm", "static": "static_landscan"}
  for kind, groups in galileo.KINDS.items():
    values, begin = arrays[f"in/{kind}"].astype(np.float64), 0
    for name, own in (("scale", np.multiply), ("shift", np.add)):  # bands without constants are last
      of = spec[name][constants.get(kind, kind)]
      values[..., : len(of)] = own(values[..., : len(of)], of)
    for number, (group, names) in enumerate(groups.items()):
      absent = arrays[f"in/{kind}_mask"][..., number] > 0
      if "space" in kind:  # the first pixel decides for its patch
        absent = absent[:, ::patch, ::patch].repeat(patch, 1).repeat(patch, 2)
      part = np.where(absent[..., None], np.nan, values[..., begin : begin + len(names)])
      begin += len(names)
      if absent.all():
        continue
      if group == galileo.PLACE:
        place = part.astype(np.float32)
        continue
      if kind == "space_time":
        part = part.transpose(0, 3, 1, 2, 4)
      else:  # values without an axis are the same along it
        part = np.expand_dims(part, galileo.AVERAGED[kind])
      columns.append(np.broadcast_to(part, (batch, steps, rows, width, len(names))))
      bands += names
  raw = np.concatenate(columns, axis=-1)
  return (raw if rows * width > 1 else raw[:, :, 0, 0]), bands, place


def _backbone(
  settings: Mapping, raw: np.ndarray, bands: Sequence[str], months: np.ndarray, place: np.ndarray | None
) -> tuple[Callable, nnx.Module]:
  """The backbone with the values of its file, and the function from it to its embedding of raw values."""
  modality = Modality("case", ("case",), raw.shape[1:], tuple(bands))
  constants = encoders.normalisation(settings, modality)
  x = ((raw - constants["offset"]) / constants["scale"]).astype(np.float32)
  known = {"context": 3, "place": 0} if place is not None else {}
  build = lambda: encoders.make_encoder(
    settings, modality.shape, 4, modality=modality, rngs=nnx.Rngs(0), **known
  )
  net = nnx.eval_shape(build).backbone
  pretrained.load(settings, net)
  return lambda net, **more: net(x, months=jnp.asarray(months), place=place, **more), net


def _gradients(embed: Callable, net: nnx.Module, cotangent: np.ndarray) -> tuple[jax.Array, nnx.Module]:
  """The embedding, and the backbone with the gradients of its product with a cotangent."""
  graphdef, params = nnx.split(net)

  @jax.jit
  def run(params, cotangent):
    y, backward = jax.vjp(lambda params: embed(nnx.merge(graphdef, params)), params)
    return y, backward(cotangent)[0]

  y, gradients = run(params, jnp.asarray(cotangent))
  return y, nnx.merge(graphdef, gradients)


def _rows(gradient: np.ndarray, own: Sequence[str], groups: Sequence[str]) -> np.ndarray:
  """Gradients of a table with a row for each group, from the rows of some of them."""
  whole = np.zeros((len(groups), gradient.shape[1]), np.float32)
  whole[[list(groups).index(group) for group in own]] = gradient
  return whole


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
