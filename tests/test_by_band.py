"""Encoders that know bands: what Presto and Galileo have in common, on random weights in small files."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import presto
from colearn_jax.encoders.bands import QUANTITIES, UNITS, match
from colearn_jax.nn.attention import Block
from colearn_jax.types import InputError, Modality
from colearn_jax.weights import pretrained
from tests import galileo_files, presto_files
from tests.helpers import save_torch_file
from tests.small_methods import filled

RADAR, RGB, WEATHER = ("VV", "VH"), ("B2", "B3", "B4"), ("temperature_2m", "total_precipitation")
TERRAIN = ("elevation", "slope")
NUMBERS = tuple(name for name in presto.Presto.BANDS if name != presto.CLASSES)
T = 5
PREFIX = "encoder."  # of the names in Presto's files
# Of each encoder: the file of its weights, and the names in it that tests change or look at.
FILES = {
  "presto": SimpleNamespace(
    files=presto_files,
    what="Presto",
    group="encoder.eo_patch_embed.S2_RGB",
    months="encoder.month_embed.weight",
    vector="encoder.norm.bias",
    odd=("encoder.blocks.0.mlp.fc2.bias", r"\(3,\), inputs first; the encoder's is \(16,\)"),
  ),
  "galileo": SimpleNamespace(
    files=galileo_files,
    what="Galileo",
    group="space_time_embed.S2_RGB.proj",
    months="month_embed.weight",
    vector="norm.bias",
    odd=("space_time_embed.S1.proj.weight", r"\(3,\), inputs first; the encoder's is \(8, 8, 2, 16\)"),
  ),
}
both = pytest.mark.parametrize("name", FILES)


def modality(bands=RADAR, space=(), steps=T, months=True):
  shape = (*((steps,) if steps else ()), *space, len(bands) + months)
  return Modality("S", ("S",), shape, (*bands, *(["month"] if months else [])), (), months)


def make(name, m, place=True, dtype=jnp.float32, **settings):
  settings = {"model_type": name, **FILES[name].files.SIZES, "n_layers": 1, **settings}
  known = {"context": 5, "place": 2} if place else {}
  build = lambda: encoders.make_encoder(
    settings, m.shape, 4, modality=m, rngs=nnx.Rngs(0), dtype=dtype, **known
  )
  return filled(build)


def save(name, path, **tensors):
  return save_torch_file(path, FILES[name].files.state_dict(blocks=1) | tensors)


def load(name, file, m=None):
  net = nnx.eval_shape(lambda: make(name, m or modality())).backbone
  return pretrained.load({"model_type": name, "weights": str(file)}, net)


@pytest.mark.parametrize(
  "name, bands, space, place, tokens",
  [
    ("presto", RADAR, (), True, T + 1),
    ("presto", RADAR, (), False, T),
    ("presto", NUMBERS, (), True, 8 * T + 2),
    ("galileo", RADAR, (), False, T),
    ("galileo", RADAR, (), True, T + 1),
    ("galileo", (*RADAR, *RGB), (4, 4), False, 2 * T * 4),
    ("galileo", (*RADAR, *TERRAIN), (4, 4), False, T * 4 + 4),
    ("galileo", (*RADAR, *WEATHER, "population"), (4, 4), False, T * 4 + T + 1),
    ("galileo", (*RADAR, "B2"), (), False, T),  # B2 alone completes no group
  ],
)
def test_only_groups_of_the_modality_make_tokens(monkeypatch, name, bands, space, place, tokens):
  seen, whole = [], Block._hidden
  monkeypatch.setattr(
    Block, "_hidden", lambda self, x, *a, **k: seen.append(x.shape) or whole(self, x, *a, **k)
  )
  m, more = modality(bands, space), {"patch_size": 2} if space else {}
  x = jnp.zeros((2, *m.shape))
  jax.eval_shape(make(name, m, place, **more), (x, jnp.zeros((2, 5))) if place else x)
  assert seen == [(2, tokens, 16)]


@both
def test_months_and_places_reach_the_features_and_other_context_joins_them(name):
  m = modality()
  encoder = make(name, m)
  assert encoder.join.context.kernel.shape[0] == 2  # without the three of the place
  x, context = np.ones((1, *m.shape), np.float32), np.ones((1, 5), np.float32)
  x[..., -1] = 3
  call = jax.jit(lambda *inputs: encoder(inputs))
  base = call(x, context)
  changes = {
    "month": lambda x, c: x[..., -1].fill(6),
    "unknown": lambda x, c: x[..., -1].fill(np.nan),
    "place": lambda x, c: c[:, 2:].fill(0.1),
    "no place": lambda x, c: c[:, 2:].fill(np.nan),
    "other context": lambda x, c: c[:, :2].fill(2),
  }
  for change, apply in changes.items():
    other = x.copy(), context.copy()
    apply(*other)
    assert np.abs(call(*other) - base).max() > 1e-4, change
  assert make(name, m, place=False).join is None


@pytest.mark.parametrize("name, space", [("presto", ()), ("galileo", (4, 4))])
def test_samples_without_any_value_are_finite_and_change_nothing(name, space):
  m, more = modality((*RADAR, *WEATHER), space), {"patch_size": 2} if space else {}
  graphdef, params = nnx.split(make(name, m, **more))
  x = np.random.default_rng(0).normal(size=(3, *m.shape)).astype(np.float32)
  x[..., -1] = 4
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


@pytest.mark.parametrize("name, bands, space", [("presto", NUMBERS, ()), ("galileo", (*RADAR, *RGB), (4, 4))])
def test_half_precision_is_close(name, bands, space):
  m = modality(bands, space)
  x = np.random.default_rng(0).normal(size=(3, *m.shape)).astype(np.float32)
  x[..., -1] = 3
  one, half = (jax.jit(make(name, m, False, dtype))(x) for dtype in (jnp.float32, jnp.bfloat16))
  assert half.dtype == jnp.float32 and np.abs(one - half).max() < 0.1 * np.abs(one).max()


@both
def test_paths_are_dropped_in_training_alone(name):
  """Copies of one sample get different features in training, other ones with another key."""
  m = modality()
  x = np.random.default_rng(0).normal(size=m.shape).astype(np.float32)
  x[..., -1] = 3
  x = np.repeat(x[None], 16, 0)
  encoder = make(name, m, place=False, drop_path=0.5)
  run = jax.jit(lambda x, key: encoder(x, train=True, rngs=nnx.Rngs(dropout=key)))
  apart = lambda y: np.ptp(y, axis=0).max() > 1e-3
  first, second = (run(x, jax.random.key(seed)) for seed in (0, 1))
  assert apart(first) and apart(second) and apart([first, second])
  assert not apart(jax.jit(encoder)(x))


@both
@pytest.mark.parametrize(
  "settings, bands, message",
  [
    ({}, ("VV", "B9"), "NAME does not know the bands B9; it knows VV, VH, B2, .*NDVI.*; leave_out names"),
    ({}, ("B11", "VV"), r"B11, VV complete none of its groups: S1 \(VV VH\); S2_RGB"),
    ({"max_steps": 4}, RADAR, "5 steps are more than max_steps=4; data.series=month makes 12"),
    ({"num_heads": 3}, RADAR, r"NAME: layer_size=16 has to be divisible by \d+ and by num_heads=3"),
    ({"leave_out": ("VH",)}, RADAR, "VV complete none of its groups"),
  ],
)
def test_wrong_settings_are_one_line(name, settings, bands, message):
  with pytest.raises(InputError, match=message.replace("NAME", name)) as error:
    nnx.eval_shape(lambda: make(name, modality(bands), **settings))
  assert "\n" not in str(error.value)


@both
def test_names_of_the_bands_have_to_be_known(name):
  with pytest.raises(InputError, match=f"encoder {name} has to know the names of the bands it reads"):
    encoders.make_encoder({"model_type": name}, (5, 2), 4, rngs=nnx.Rngs(0))


@both
def test_safetensors_are_the_same_and_only_own_groups_are_read(name, tmp_path):
  numpy = pytest.importorskip("safetensors.numpy")
  numpy.save_file(FILES[name].files.state_dict(blocks=1), tmp_path / "other.safetensors")
  one, two = (load(name, f) for f in (save(name, tmp_path / "one.pt"), tmp_path / "other.safetensors"))
  jax.tree.map(np.testing.assert_array_equal, one, two)
  place = {"location"} if name == "galileo" else set()
  assert set(one["params"]["embed"]) == {"S1"} | place
  net = nnx.eval_shape(lambda: make(name, modality())).backbone
  assert jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(net, nnx.Param))) == jax.tree.map(
    jnp.shape, one["params"]
  )


def edits(case):
  """Changes of a file that make it wrong, each with what is said about it."""
  plain = lambda text: text.removeprefix(PREFIX)
  odd, shape = case.odd
  return {
    "partial": (
      lambda s: {k: v for k, v in s.items() if case.group not in k},
      f"do not fit {case.what}: missing {plain(case.group)}.weight, {plain(case.group)}.bias; not used none",
    ),
    "other": (
      lambda s: {"conv1.weight": s[case.vector]},
      rf"do not fit {case.what}: missing pos_embed, .* \d+ more; not used conv1.weight",
    ),
    "table": (
      lambda s: s | {case.months: s[case.months][::-1].copy()},
      f"month_embed.weight is not the table of a {case.what}",
    ),
    "shape": (lambda s: s | {odd: np.zeros(3, np.float32)}, f"{plain(odd)} has shape {shape}"),
    "finite": (
      lambda s: s | {case.vector: s[case.vector] * np.nan},
      f"{plain(case.vector)} has values that are not finite",
    ),
  }


@both
@pytest.mark.parametrize("edit", edits(FILES["presto"]))
def test_files_that_do_not_fit_are_one_line(tmp_path, name, edit):
  change, message = edits(FILES[name])[edit]
  wrong = save_torch_file(tmp_path / "wrong.pt", change(FILES[name].files.state_dict(blocks=1)))
  with pytest.raises(InputError, match=message) as error:
    load(name, wrong)
  assert "\n" not in str(error.value) and str(wrong) in str(error.value)


def beside(path, **changes):
  """Writes Galileo's `config.json` for the small file, with changes."""
  own = {"embedding_size": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 1.5} | changes
  (path / "config.json").write_text(json.dumps({"model": {"encoder": own}}))


SIZES = {"layer_size": 16, "n_layers": 2, "num_heads": 2, "feedforward_size": 24}


@both
def test_sizes_that_are_not_set_are_those_of_the_file(name, tmp_path):
  file = save_torch_file(tmp_path / "weights.pt", FILES[name].files.state_dict(blocks=2))
  own = {"num_heads": 2} if name == "presto" else {}
  if name == "galileo":
    beside(tmp_path)
  settings = pretrained.sized({"model_type": name, "weights": str(file), "layer_size": None, **own})
  assert {size: settings[size] for size in SIZES} == SIZES
  net = nnx.eval_shape(lambda: make(name, modality(), **settings)).backbone
  assert len(net.blocks) == 2 and net.blocks[0].num_heads == 2
  pretrained.load(settings, net)


@both
def test_sizes_that_the_file_does_not_tell_have_to_be_set(name, tmp_path):
  file = str(save(name, tmp_path / "weights.pt"))
  with pytest.raises(InputError, match="layer_size=16, n_layers=1, .*do not tell their number of heads; set"):
    pretrained.sized({"model_type": name, "weights": file})
  assert pretrained.sized({"model_type": name, "weights": ""}) == {"model_type": name, "weights": ""}
  published = encoders.published_sizes(name)
  like = lambda _: {key: size for key, size in published.items() if key != "num_heads"}
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(pretrained.SIZES, name, like)
    assert pretrained.sized({"model_type": name, "weights": file})["num_heads"] == published["num_heads"]


@both
@pytest.mark.parametrize("size, wrong", [("n_layers", 1), ("layer_size", 32), ("feedforward_size", 8)])
def test_sizes_that_are_set_otherwise_are_one_line(name, size, wrong, tmp_path):
  file = save_torch_file(tmp_path / "weights.pt", FILES[name].files.state_dict(blocks=2))
  settings = {"model_type": name, "weights": str(file), "num_heads": 4, size: wrong}
  settings = pretrained.sized(settings)
  assert settings[size] == wrong
  net = nnx.eval_shape(lambda: make(name, modality(), **settings)).backbone
  with pytest.raises(
    InputError, match=f"those of a {FILES[name].what} with .*; the encoder has .*{size}={wrong}"
  ):
    pretrained.load(settings, net)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"num_heads": 4}, "a Galileo with .*num_heads=4.*; the encoder has .*num_heads=2"),
    (
      {"depth": 3},
      "have n_layers=2, but config.json beside them says 3; the two files of one model are needed",
    ),
    ({"embedding_size": "wide"}, "config.json has no sizes of a Galileo"),
  ],
)
def test_the_sizes_beside_a_file_of_galileo_have_to_be_its_own(changes, message, tmp_path):
  file = save_torch_file(tmp_path / "weights.pt", galileo_files.state_dict(blocks=2))
  beside(tmp_path, **changes)
  net = nnx.eval_shape(lambda: make("galileo", modality(), num_heads=2, n_layers=2)).backbone
  with pytest.raises(InputError, match=message) as error:
    pretrained.load({"model_type": "galileo", "weights": str(file)}, net)
  assert "\n" not in str(error.value)


def test_months_can_be_left_out():
  settings = {"model_type": "presto"}
  assert encoders.reads_months(settings) and not encoders.reads_months(settings | {"use_months": False})
  assert not encoders.reads_months({"model_type": "tempcnn"})


def test_every_band_has_a_quantity_and_units():
  for name in FILES:
    for band in encoders.ENCODERS[name].BANDS:
      assert UNITS[QUANTITIES[band]]
      with pytest.raises(InputError, match=f"{band} has the unit 'furlong', it reads: "):
        match(name, [band], [band], ["furlong"])
