"""Samples in NPZ, NetCDF and Zarr: an array for each band, `[N ...]`, or one named `values`, bands last."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from colearn_jax.datasets.folder import cubes
from colearn_jax.datasets.folder.decoding import Decoding
from colearn_jax.datasets.folder.optional import no_warnings
from colearn_jax.deploy import names as names_lib
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.pixels import Pixels
from colearn_jax.deploy.samples import Chunk, Samples, Wanted, chunk_of, wanted_of
from colearn_jax.types import InputError


def open_npz(path: Path, model: Model, need: Pixels, rows: int, decoding: Decoding) -> Samples:
  """See `predictions.open_samples`."""
  with np.load(path, allow_pickle=False) as file:
    arrays = {name: file[name] for name in file.files}
  wanted = wanted_of(model, need, list(arrays), path)
  number, stored, days = _of_arrays(path, model, need, arrays, arrays.get(cubes.DATES))
  for name in wanted.columns:
    if np.shape(arrays[name])[:1] != (number,):
      raise InputError(
        f"{path}: {name} has shape {np.shape(arrays[name])}, its values are of {number} samples"
      )
  take = lambda rows: decoding.unpack(decoding.hide(own := stored(rows), own))
  return Samples(number, _of_rows(path, need, rows, number, take, wanted, days, lambda name: arrays[name]))


def _of_arrays(path: Path, model: Model, need: Pixels, arrays: Mapping, days):
  """The number of samples, what takes the stored values of some of them, and the dates of their steps."""
  steps = None
  if cubes.VALUES in arrays:
    named = list(map(_text, arrays["bands"])) if "bands" in arrays else list(need.bands)
    values = arrays[cubes.VALUES]
    if values.ndim == 0 or values.shape[-1] != len(named):
      raise InputError(
        f"{path}: values have shape {values.shape}; the last axis is the bands {', '.join(need.bands)}, or "
        "those that an array named bands has"
      )
    names_lib.missing(named, need.bands, str(path))
    if twice := next((name for name in need.bands if named.count(name) > 1), None):
      raise InputError(f"{path} has two bands named {twice}")
    places = [named.index(name) for name in need.bands]
    number, take = len(values), lambda rows: values[rows][..., places]
  else:
    if not set(need.bands) <= set(arrays) and len(model.modality.shape) in (2, 4):
      steps = names_lib.steps(list(arrays), need.bands, str(path))
    if steps is None:
      names_lib.missing(list(arrays), need.bands, str(path))
    used = need.bands if steps is None else [name for step in steps.names for name in step]
    number = len(arrays[used[0]])
    for name in used:
      if arrays[name].shape != arrays[used[0]].shape:
        raise InputError(f"{path}: {used[0]} has shape {arrays[used[0]].shape}, {name} {arrays[name].shape}")
    if steps is None:
      take = lambda rows: np.stack([arrays[name][rows] for name in need.bands], -1)
    else:
      one = lambda step, rows: np.stack([arrays[name][rows] for name in step], -1)
      take = lambda rows: np.stack([one(step, rows) for step in steps.names], 1)
      days = steps.dates
  return number, take, days


def _text(name) -> str:
  return name.decode() if isinstance(name, bytes) else str(name)


def _of_rows(
  path: Path, need: Pixels, rows: int, number: int, take, wanted: Wanted, days, column
) -> Iterator[Chunk]:
  each = days is not None and np.ndim(days) == 2
  for start in range(0, number, rows):
    some = slice(start, min(start + rows, number))
    values = take(some)
    masks = {name: values[..., need.bands.index(name)] for name in need.mask_bands} or None
    own = list(days[some]) if each else days
    beside = functools.partial(lambda some, name: column(name)[some], some)
    yield chunk_of(
      wanted, beside, some.stop - start, start, str(path), values[..., : need.sensors], masks, own
    )


def open_cube(path: Path, model: Model, need: Pixels, rows: int, decoding: Decoding) -> Samples:
  """See `predictions.open_samples`."""
  with no_warnings():
    cube = cubes.open_cube(path, decoding, stack=True, wanted=need.bands)
  have = list(cube.bands) if cube.bands else [f"b{k + 1}" for k in range(cube.shape[-1])]
  names_lib.missing(have, need.bands, str(path))
  wanted = wanted_of(model, need, cube.others, path)
  ids = cube.ids() if cube.ids is not None else None
  places = [have.index(name) for name in need.bands]
  column = lambda name: cube.other(name)
  if ids is not None:
    wanted = dataclasses.replace(wanted, id="id")
    column = lambda name: np.array(ids, object) if name == "id" else cube.other(name)
  days = None if cube.dates is None else cube.dates().astype("datetime64[D]")
  take = lambda some: decoding.unpack(cube.take(some))[..., places]
  return Samples(cube.shape[0], _of_rows(path, need, rows, cube.shape[0], take, wanted, days, column))
