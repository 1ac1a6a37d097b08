"""Presto beside NumPy. What it has in common with Galileo is in test_by_band.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import presto
from colearn_jax.types import Modality
from colearn_jax.weights import pretrained
from tests.helpers import save_torch_file
from tests.presto_files import SIZES, reference, state_dict
from tests.small_methods import filled

NUMBERS = tuple(name for name in presto.Presto.BANDS if name != presto.CLASSES)
T = 5


def modality(bands=("VV", "VH"), steps=T, months=True, units=()):
  shape = (steps, len(bands) + months) if steps else (len(bands),)
  return Modality("S", ("S",), shape, (*bands, *(["month"] if months else [])), units, months)


def make(m, place=True, settings=None, width=4, **options):
  settings = {"model_type": "presto", **SIZES, **(settings or {})}
  context = {"context": 5, "place": 2} if place else {}
  options |= context | {"modality": m}
  return filled(lambda: encoders.make_encoder(settings, m.shape, width, rngs=nnx.Rngs(0), **options))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  return str(save_torch_file(tmp_path_factory.mktemp("weights") / "presto.pt", state_dict()))


def loaded(m, file, place=True):
  encoder = make(m, place)
  params = pretrained.load({"model_type": "presto", "weights": file}, encoder.backbone)["params"]
  nnx.update(encoder.backbone, params)
  return encoder


def series(bands, batch=4, steps=T, seed=0):
  """Normalised values with gaps, months of which some are unknown, and places."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(batch, steps, len(bands))).astype(np.float32)
  if presto.CLASSES in bands:
    x[..., bands.index(presto.CLASSES)] = rng.integers(0, 9, (batch, steps))
  x[1, 2], x[2, 1, 0], x[3, :, -1] = np.nan, np.nan, np.nan
  months = rng.integers(0, 12, (batch, steps))
  months[0, 1] = -1
  place = rng.normal(size=(batch, 3)).astype(np.float32)
  return x, months, place / np.linalg.norm(place, axis=1, keepdims=True)


@pytest.mark.parametrize("bands", [("VV", "VH"), (*NUMBERS, presto.CLASSES), ("B11", "NDVI", "B12")])
@pytest.mark.parametrize("place", [True, False])
def test_it_is_what_numpy_gives(file, bands, place):
  """Gaps of single samples, groups that the modality lacks, and places that are not known."""
  backbone = loaded(modality(bands), file, place).backbone
  x, months, where = series(bands)
  where[1] = np.nan
  if bands == ("VV", "VH"):
    x[3] = 1.0  # else it had no token
  got = jax.jit(backbone)(x, months=jnp.asarray(months, jnp.int32), place=where if place else None)
  expected = reference(state_dict(), x, bands, months, where if place else None)
  np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


def test_static_values_are_a_token():
  m = modality(("elevation", "slope"), steps=0, months=False)
  x = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
  assert jax.eval_shape(make(m, place=False), x).shape == (3, 4)


def test_power_is_converted_to_decibels():
  decibels, power = modality(units=("dB", "dB")), modality(units=("linear", "linear"))
  raw = np.array([[[-10.0, -20.0, 3.0]] * T], np.float32)
  results = []
  for m, x in ((decibels, raw), (power, np.where([True, True, False], 10 ** (raw / 10), raw))):
    constants = encoders.normalisation({"model_type": "presto"}, m)
    x = ((x - constants["offset"]) / constants["scale"]).astype(np.float32)
    results.append(jax.jit(make(m, place=False))(x))
  np.testing.assert_allclose(*results, rtol=1e-4)
