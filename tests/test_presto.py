"""Presto: the encoder beside NumPy, and files of its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import presto
from colearn_jax.types import InputError, Modality
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


def test_only_tokens_that_can_be_there_are_computed(monkeypatch):
  seen, whole = [], presto.Block.__call__
  monkeypatch.setattr(
    presto.Block, "__call__", lambda self, x, *a, **k: seen.append(x.shape[1]) or whole(self, x, *a, **k)
  )
  for bands, place in ((("VV", "VH"), True), (("VV", "VH"), False), (NUMBERS, True)):
    m = modality(bands, steps=12)
    x = jnp.zeros((2, *m.shape))
    jax.eval_shape(make(m, place), (x, jnp.zeros((2, 5))) if place else x)
  assert seen == [13, 13, 12, 12, 8 * 12 + 2, 8 * 12 + 2]


def test_months_and_places_reach_the_features_and_other_context_joins_them():
  m = modality()
  encoder = make(m)
  assert encoder.join.context.kernel.shape[0] == 2  # without the three of the place
  x, context = np.zeros((1, *m.shape), np.float32), np.ones((1, 5), np.float32)
  call = jax.jit(encoder)
  base = call((x, context))
  for change in (
    lambda x, c: x[..., -1].fill(6),
    lambda x, c: c[:, 2:].fill(0.1),
    lambda x, c: c[:, :2].fill(2),
  ):
    other = x.copy(), context.copy()
    change(*other)
    assert np.abs(call(other) - base).max() > 1e-4
  assert make(m, place=False).join is None


def test_samples_without_any_value_are_finite_and_change_nothing():
  m = modality()
  graphdef, params = nnx.split(make(m))
  x, months, _ = (a[:3] for a in series(("VV", "VH")))
  x = np.concatenate([x, months[..., None]], -1).astype(np.float32)
  context = np.full((3, 5), np.nan, np.float32)
  x[2] = np.nan

  @jax.jit
  def run(params, x):
    def loss(params):
      y = nnx.merge(graphdef, params)((x, context), train=True, rngs=nnx.Rngs(dropout=0))
      return jnp.square(y[:2]).sum(), y

    return jax.value_and_grad(loss, has_aux=True)(params)

  (_, y), grads = run(params, x)
  assert np.isfinite(y).all() and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  x[2] = 5
  np.testing.assert_allclose(run(params, x)[0][1][:2], y[:2], rtol=1e-5)


def test_static_values_are_a_token_and_half_precision_is_close():
  m = modality(("elevation", "slope"), steps=0, months=False)
  x = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
  assert jax.eval_shape(make(m, place=False), x).shape == (3, 4)
  m = modality(NUMBERS)
  x = np.random.default_rng(0).normal(size=(3, *m.shape)).astype(np.float32)
  x[..., -1] = 3
  one, half = (jax.jit(make(m, place=False, dtype=dtype))(x) for dtype in (jnp.float32, jnp.bfloat16))
  assert half.dtype == jnp.float32 and np.abs(one - half).max() < 0.05 * np.abs(one).max()


def test_power_is_converted_to_decibels():
  decibels, power = modality(units=("dB", "dB")), modality(units=("linear", "linear"))
  raw = np.array([[[-10.0, -20.0, 3.0]] * T], np.float32)
  results = []
  for m, x in ((decibels, raw), (power, np.where([True, True, False], 10 ** (raw / 10), raw))):
    constants = encoders.normalisation({"model_type": "presto"}, m)
    x = ((x - constants["offset"]) / constants["scale"]).astype(np.float32)
    results.append(jax.jit(make(m, place=False))(x))
  np.testing.assert_allclose(*results, rtol=1e-4)


@pytest.mark.parametrize(
  "settings, bands, message",
  [
    ({}, ("VV", "B9"), "presto does not know the bands B9; it knows VV, VH, B2, .*NDVI.*; leave_out names"),
    ({}, ("B11", "VV"), r"B11, VV complete none of its groups: S1 \(VV VH\); S2_RGB"),
    ({"max_steps": 4}, ("VV", "VH"), "5 steps are more than max_steps=4; data.series=month makes 12"),
    ({"num_heads": 3}, ("VV", "VH"), "layer_size=16 has to be divisible by 4 and by 3"),
    ({"leave_out": ("VH",)}, ("VV", "VH"), "VV complete none of its groups"),
  ],
)
def test_wrong_settings_are_one_line(settings, bands, message):
  with pytest.raises(InputError, match=message) as error:
    nnx.eval_shape(lambda: make(modality(bands), settings=settings))
  assert "\n" not in str(error.value)


def test_names_of_the_bands_have_to_be_known():
  with pytest.raises(InputError, match="encoder presto has to know the names of the bands it reads"):
    encoders.make_encoder({"model_type": "presto"}, (5, 2), 4, rngs=nnx.Rngs(0))


def test_safetensors_are_the_same_and_only_own_groups_are_read(file, tmp_path):
  numpy = pytest.importorskip("safetensors.numpy")
  other = tmp_path / "presto.safetensors"
  numpy.save_file(state_dict(), other)
  net = lambda: nnx.eval_shape(lambda: make(modality())).backbone
  one, two = (pretrained.load({"model_type": "presto", "weights": str(f)}, net()) for f in (file, other))
  jax.tree.map(np.testing.assert_array_equal, one, two)
  assert list(one["params"]["embed"]) == ["S1"] and one["params"]["vectors"].shape == (1, 4)
  everything = jax.tree.leaves(nnx.state(net(), nnx.Param))
  assert sum(a.size for a in jax.tree.leaves(one)) == sum(a.size for a in everything)


WRONG = {
  "partial": (
    lambda s: {k: v for k, v in s.items() if "eo_patch_embed.S2" not in k},
    r"do not fit Presto with n_layers=2: missing eo_patch_embed.S2_RGB.weight, .* \d+ more; not used none",
  ),
  "depth": (lambda s: state_dict(blocks=3), "n_layers=2: missing none; not used blocks.2.norm1.weight"),
  "other": (
    lambda s: {"conv1.weight": s["encoder.pos_embed"]},
    "missing pos_embed, .*; not used conv1.weight",
  ),
  "table": (
    lambda s: s | {"encoder.month_embed.weight": s["encoder.month_embed.weight"][::-1].copy()},
    "month_embed.weight is not the table of a Presto with this layer_size",
  ),
  "shape": (
    lambda s: s | {"encoder.blocks.1.mlp.fc1.bias": np.zeros(3, np.float32)},
    r"blocks.1.mlp.fc1.bias has shape \(3,\), inputs first; the encoder's is \(24,\)",
  ),
  "finite": (
    lambda s: s | {"encoder.norm.bias": s["encoder.norm.bias"] * np.nan},
    "norm.bias has values that are not finite",
  ),
}


@pytest.mark.parametrize("edit, message", WRONG.values(), ids=WRONG)
def test_files_that_do_not_fit_are_one_line(tmp_path, edit, message):
  file = save_torch_file(tmp_path / "presto.pt", edit(state_dict()))
  net = nnx.eval_shape(lambda: make(modality())).backbone
  with pytest.raises(InputError, match=message) as error:
    pretrained.load({"model_type": "presto", "weights": str(file)}, net)
  assert "\n" not in str(error.value) and str(file) in str(error.value)
