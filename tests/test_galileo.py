"""Galileo: images and what is missing. What it has in common with Presto is in test_by_band.py."""

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


def test_patches_have_to_divide_the_image():
  with pytest.raises(InputError, match="patch_size=4 .* images of 6 x 12 pixels; one of: 1, 2, 3, 6"):
    make(modality(RADAR, (6, 12)), patch_size=4)


def test_names_with_an_extra_part_are_the_same_and_queries_keys_and_values_are_joined(file, tmp_path):
  state = state_dict()
  first = lambda name: "backbone." + name if name == "norm.weight" else name.replace(".", ".backbone.", 1)
  other = save_torch_file(tmp_path / "other.pt", {first(name): value for name, value in state.items()})
  net = lambda: nnx.eval_shape(lambda: make(modality())).backbone
  one, two = (pretrained.load({"model_type": "galileo", "weights": str(f)}, net()) for f in (file, other))
  jax.tree.map(np.testing.assert_array_equal, one, two)
  projected = one["params"]["blocks"][0]["project"]["kernel"]
  parts = [state[f"blocks.0.attn.{part}.weight"].T for part in "qkv"]
  np.testing.assert_array_equal(projected, np.concatenate(parts, axis=1))


def test_tensors_that_belong_together_have_to_fit(tmp_path):
  state = state_dict() | {"s_t_channel_embed": np.zeros((0, WIDTH // 4), np.float32)}
  wrong = save_torch_file(tmp_path / "encoder.pt", state)
  net = nnx.eval_shape(lambda: make(modality())).backbone
  with pytest.raises(InputError, match="tensors that belong together have other shapes: .*out of bounds"):
    pretrained.load({"model_type": "galileo", "weights": str(wrong)}, net)
