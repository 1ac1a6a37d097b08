"""Galileo: its tokens, what is missing, and files of its weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import encoders
from colearn_jax.encoders import galileo
from colearn_jax.types import InputError, Modality
from colearn_jax.weights import pretrained
from tests.galileo_files import SIZES, WIDTH, state_dict
from tests.helpers import save_torch_file
from tests.small_methods import filled

RADAR, RGB, WEATHER = ("VV", "VH"), ("B2", "B3", "B4"), ("temperature_2m", "total_precipitation")
T = 3


def modality(bands=RADAR, space=(), steps=T, months=False):
  shape = (*((steps,) if steps else ()), *space, len(bands) + months)
  return Modality("S", ("S",), shape, (*bands, *(["month"] if months else [])), (), months)


def make(m, place=False, **settings):
  settings = {"model_type": "galileo", **SIZES, "n_layers": 1, **settings}
  known = {"context": 5, "place": 2} if place else {}
  return filled(lambda: encoders.make_encoder(settings, m.shape, 4, modality=m, rngs=nnx.Rngs(0), **known))


def values(m, batch=2, seed=0):
  return np.random.default_rng(seed).normal(size=(batch, *m.shape)).astype(np.float32)


def loaded(m, file, place=False, **settings):
  """The function of a backbone with the values of a file."""
  net = make(m, place, **settings).backbone
  nnx.update(net, pretrained.load({"model_type": "galileo", "weights": str(file)}, net)["params"])
  return jax.jit(net)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  return save_torch_file(tmp_path_factory.mktemp("weights") / "encoder.pt", state_dict())


@pytest.mark.parametrize(
  "bands, space, place, tokens",
  [
    (RADAR, (), False, T),
    (RADAR, (), True, T + 1),
    ((*RADAR, *RGB), (4, 4), False, 2 * T * 4),
    ((*RADAR, "elevation", "slope"), (4, 4), False, T * 4 + 4),
    ((*RADAR, *WEATHER, "population"), (4, 4), False, T * 4 + T + 1),
    ((*RADAR, "B2"), (), False, T),  # B2 alone completes no group
  ],
)
def test_only_groups_of_the_modality_make_tokens(monkeypatch, bands, space, place, tokens):
  seen, whole = [], galileo.Block.__call__
  monkeypatch.setattr(
    galileo.Block, "__call__", lambda self, x, *a, **k: seen.append(x.shape) or whole(self, x, *a, **k)
  )
  m = modality(bands, space)
  x = jnp.zeros((2, *m.shape))
  jax.eval_shape(make(m, place, patch_size=2), (x, jnp.zeros((2, 5))) if place else x)
  assert seen == [(2, tokens, WIDTH)]


def test_a_group_that_is_missing_is_as_if_the_modality_lacked_it(file):
  both, one = modality((*RADAR, *RGB)), modality(RADAR)
  x = values(both)
  x[..., 2] = np.nan  # one missing band of a group is enough
  found = loaded(both, file)(x)
  np.testing.assert_allclose(found, loaded(one, file)(x[..., :2]), atol=1e-5)
  x[..., 3:] = 9
  np.testing.assert_array_equal(loaded(both, file)(x), found)


def test_steps_that_are_missing_are_as_if_the_series_were_shorter(file):
  long, short = modality(steps=4), modality(steps=3)
  x, months = values(long), jnp.array([[3, 4, 5, 6]] * 2, jnp.int32)
  x[:, 3] = np.nan
  expected = loaded(short, file)(x[:, :3], months=months[:, :3])
  np.testing.assert_allclose(loaded(long, file)(x, months=months), expected, atol=1e-5)


def test_samples_without_any_value_are_finite_and_change_nothing():
  m = modality((*RADAR, *WEATHER), (4, 4))
  graphdef, params = nnx.split(make(m, patch_size=2).backbone)
  x = values(m, batch=3)
  x[2] = np.nan

  @jax.jit
  def run(params, x):
    def loss(params):
      y = nnx.merge(graphdef, params)(x, train=True, rngs=nnx.Rngs(dropout=0))
      return jnp.square(y[:2]).sum(), y

    return jax.value_and_grad(loss, has_aux=True)(params)

  (_, y), grads = run(params, x)
  assert np.isfinite(y).all() and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  x[2] = 5
  np.testing.assert_allclose(run(params, x)[0][1][:2], y[:2], rtol=1e-5)


def test_the_first_pixel_decides_for_its_patch_and_others_get_the_mean():
  m = modality(RADAR, (4, 4), steps=0)
  x, net = values(m), make(m, patch_size=2).backbone
  run, patches = jax.jit(net), jax.jit(lambda x: net(x, per_patch=True))
  first, other = x.copy(), x.copy()
  first[:, 0, 0] = np.nan
  other[:, 0, 1] = np.nan
  filled_in = other.copy()
  filled_in[:, 0, 1] = x[:, [0, 1, 1], [0, 0, 1]].mean(1)
  np.testing.assert_allclose(run(other), run(filled_in), atol=1e-5)
  assert np.abs(run(other) - run(x)).max() > 1e-4
  found = np.asarray(patches(first))
  assert found.shape == (2, 4, WIDTH) and not found[:, 0].any()  # without its token the patch has no mean


@pytest.mark.parametrize("size", range(1, 9))
def test_kernels_are_resized_by_the_inverse_of_the_resize_of_images(size):
  images = jax.image.resize(np.eye(8, dtype=np.float32), (size, 8), "cubic", antialias=True)
  np.testing.assert_allclose(galileo.kernel_resize(size), np.linalg.pinv(images), atol=1e-5)


def test_patches_of_eight_pixels_are_embedded_by_the_kernel_itself(file):
  m = modality(RADAR, (8, 8), steps=0)
  x = values(m)
  results = [loaded(m, file, patch_size=size)(x) for size in (2, 8)]
  assert np.abs(results[0] - results[1]).max() > 1e-3
  kernel = state_dict()["space_time_embed.S1.proj.weight"]
  net = galileo.Embed("S1", WIDTH, rngs=nnx.Rngs(0), dtype=jnp.float32)
  net.kernel.set_value(jnp.asarray(kernel.transpose(2, 3, 1, 0)))
  found = net(x.reshape(2, 1, 1, -1), 8)[:, 0, 0]
  np.testing.assert_allclose(found, np.einsum("dchw,bhwc->bd", kernel, x), rtol=1e-4, atol=1e-4)


def test_months_places_and_steps_reach_the_features():
  m = modality(months=True)
  encoder = make(m, place=True)
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
  for name, change in changes.items():
    other = x.copy(), context.copy()
    change(*other)
    assert np.abs(call(*other) - base).max() > 1e-4, name
  assert make(m).join is None


def test_a_place_that_is_not_known_is_as_if_there_were_none(file):
  m = modality()
  x = values(m)
  nowhere = loaded(m, file, place=True)(x, place=np.full((2, 3), np.nan, np.float32))
  np.testing.assert_allclose(nowhere, loaded(m, file)(x), atol=1e-5)


def test_order_and_spelling_of_the_bands_do_not_matter(file):
  plain = modality(("VV", "VH", "B2", "B3", "B4"))
  mixed = modality(("red", "vh", "B02", "VV", "green"))
  x = values(plain)
  found = loaded(mixed, file)(x[..., [4, 1, 2, 0, 3]])
  np.testing.assert_allclose(found, loaded(plain, file)(x), atol=1e-6)


def test_half_precision_is_close():
  m = modality((*RADAR, *RGB), (4, 4))
  x, settings = values(m), {"model_type": "galileo", **SIZES, "n_layers": 1}
  build = lambda dtype: filled(
    lambda: encoders.make_encoder(settings, m.shape, 4, modality=m, rngs=nnx.Rngs(0), dtype=dtype)
  )
  one, half = (jax.jit(build(dtype))(x) for dtype in (jnp.float32, jnp.bfloat16))
  assert half.dtype == jnp.float32 and np.abs(one - half).max() < 0.1 * np.abs(one).max()


@pytest.mark.parametrize(
  "settings, bands, space, message",
  [
    ({}, ("VV", "B9"), (), "galileo does not know the bands B9; it knows VV, VH, B2"),
    ({}, ("B11", "VV"), (), r"B11, VV complete none of its groups: S1 \(VV VH\); S2_RGB"),
    ({"max_steps": 2}, RADAR, (), "3 steps are more than max_steps=2; data.series=month makes 12"),
    ({"num_heads": 3}, RADAR, (), "layer_size=16 has to be divisible by 16 and by num_heads=3"),
    ({"patch_size": 4}, RADAR, (6, 12), "patch_size=4 .* images of 6 x 12 pixels; one of: 1, 2, 3, 6"),
  ],
)
def test_wrong_settings_are_one_line(settings, bands, space, message):
  with pytest.raises(InputError, match=message) as error:
    make(modality(bands, space), **settings)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", ["backbone", "safetensors"])
def test_other_names_and_formats_are_the_same_and_only_own_groups_are_read(file, tmp_path, layout):
  state = state_dict()
  if layout == "backbone":
    first = lambda name: "backbone." + name if name == "norm.weight" else name.replace(".", ".backbone.", 1)
    other = save_torch_file(tmp_path / "other.pt", {first(name): value for name, value in state.items()})
  else:
    numpy = pytest.importorskip("safetensors.numpy")
    other = tmp_path / "other.safetensors"
    numpy.save_file(state, other)
  net = lambda: nnx.eval_shape(lambda: make(modality())).backbone
  one, two = (pretrained.load({"model_type": "galileo", "weights": str(f)}, net()) for f in (file, other))
  jax.tree.map(np.testing.assert_array_equal, one, two)
  assert list(one["params"]["embed"]) == ["S1"] and one["params"]["vectors"].shape == (1, WIDTH // 4)
  everything = jax.tree.leaves(nnx.state(net(), nnx.Param))
  assert sum(a.size for a in jax.tree.leaves(one)) == sum(a.size for a in everything)
  projected = one["params"]["blocks"][0]["project"]["kernel"]
  parts = [state[f"blocks.0.attn.{part}.weight"].T for part in "qkv"]
  np.testing.assert_array_equal(projected, np.concatenate(parts, axis=1))


WRONG = {
  "partial": (
    lambda s: {k: v for k, v in s.items() if "S2_RGB" not in k},
    "do not fit Galileo: missing space_time_embed.S2_RGB.proj.weight, .*S2_RGB.proj.bias; not used none",
  ),
  "other": (
    lambda s: {"conv1.weight": s["norm.weight"]},
    r"do not fit Galileo: missing pos_embed, .* \d+ more; not used conv1.weight",
  ),
  "depth": (
    lambda s: state_dict(blocks=2),
    "Galileo with layer_size=16, n_layers=2, feedforward_size=24; the encoder has layer_size=16, n_layers=1",
  ),
  "table": (
    lambda s: s | {"month_embed.weight": s["month_embed.weight"][::-1].copy()},
    "month_embed.weight is not the table of a Galileo",
  ),
  "rows": (
    lambda s: s | {"s_t_channel_embed": np.zeros((0, WIDTH // 4), np.float32)},
    "tensors that belong together have other shapes: .*out of bounds",
  ),
  "shape": (
    lambda s: s | {"space_time_embed.S1.proj.weight": np.zeros(3, np.float32)},
    r"S1.proj.weight has shape \(3,\), inputs first; the encoder's is \(8, 8, 2, 16\)",
  ),
  "finite": (
    lambda s: s | {"norm.bias": s["norm.bias"] * np.nan},
    "norm.bias has values that are not finite",
  ),
}


@pytest.mark.parametrize("edit, message", WRONG.values(), ids=WRONG)
def test_files_that_do_not_fit_are_one_line(tmp_path, edit, message):
  wrong = save_torch_file(tmp_path / "encoder.pt", edit(state_dict()))
  net = nnx.eval_shape(lambda: make(modality())).backbone
  with pytest.raises(InputError, match=message) as error:
    pretrained.load({"model_type": "galileo", "weights": str(wrong)}, net)
  assert "\n" not in str(error.value) and str(wrong) in str(error.value)


@pytest.mark.parametrize(
  "content, message",
  [
    (
      {"model": {"encoder": {"embedding_size": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 1.5}}},
      "a Galileo with .*num_heads=2.*; the encoder has .*num_heads=4",
    ),
    ({"model": {}}, "config.json has no sizes of a Galileo: no entry 'encoder'"),
  ],
)
def test_the_sizes_beside_a_file_have_to_be_the_encoders(tmp_path, content, message):
  beside = save_torch_file(tmp_path / "encoder.pt", state_dict())
  (tmp_path / "config.json").write_text(json.dumps(content))
  net = nnx.eval_shape(lambda: make(modality())).backbone
  with pytest.raises(InputError, match=message) as error:
    pretrained.load({"model_type": "galileo", "weights": str(beside)}, net)
  assert "\n" not in str(error.value)
