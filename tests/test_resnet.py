import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from colearn_jax import config as config_lib
from colearn_jax import encoders
from colearn_jax.encoders import resnet
from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.mdico import MDiCo
from colearn_jax.training import setup
from colearn_jax.training import state as state_lib
from colearn_jax.training.state import Network
from colearn_jax.types import InputError, Task
from colearn_jax.weights import imagenet, pretrained
from tests.helpers import TINY_RESNETS, resnet_state_dict, save_torch_file, split

# torchvision's numbers without the classifier, for three bands.
PARAMETERS = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160, 152: 58_143_808}


@pytest.fixture
def tiny(monkeypatch):
  for depth, stages in TINY_RESNETS.items():
    monkeypatch.setitem(resnet.STAGES, depth, stages)


def make(depth, bands=3, **settings):
  settings = {"model_type": "resnet", "depth": depth, **settings}
  return lambda: encoders.make_encoder(settings, (32, 32, bands), 8, rngs=nnx.Rngs(0))


def load(settings, shape):
  settings = {"model_type": "resnet", **settings}
  return pretrained.load(
    settings, nnx.eval_shape(lambda: encoders.make_backbone(settings, shape, rngs=nnx.Rngs(0)))
  )


@pytest.mark.parametrize("depth", PARAMETERS)
def test_number_of_parameters(depth):
  backbone = nnx.eval_shape(make(depth)).backbone
  assert sum(p.size for p in jax.tree.leaves(nnx.state(backbone, nnx.Param))) == PARAMETERS[depth]
  assert backbone.width == (512 if depth < 50 else 2048)


def test_absent_images_change_nothing(tiny):
  """In training: outputs, gradients and running statistics, NaN against anything else."""
  graphdef, params, stats = split(nnx.eval_shape(make(14, bands=4)))
  rng = np.random.default_rng(0)
  # NumPy makes them at once; JAX would compile for each shape.
  params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32) * 0.1 + (p.ndim == 1), params)
  stats = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), stats)
  here = np.array([True, True, False, True])

  @jax.jit
  def train(params, stats, x):
    def loss(params):
      module = nnx.merge(graphdef, params, stats)
      y = module(x, train=True, present=jnp.asarray(here, jnp.float32))
      return jnp.square(y[here]).sum(), (y[here], nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))

    return jax.grad(loss, has_aux=True)(params)

  x = rng.normal(size=(4, 32, 32, 4)).astype(np.float32)
  x[0, 3, 4, 1] = np.nan
  absent = lambda value: np.where(here[:, None, None, None], x, np.float32(value))
  one, other = (train(params, stats, absent(value)) for value in (np.nan, 100.0))
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(a).max()))
  jax.tree.map(near, one, other)
  assert one[1][0].shape == (3, 8)
  assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(one))


def reference(state, x, train):
  """What these tensors make of images `[B C H W]`, in NumPy and float64; the running statistics after it."""
  after = {}

  def patches(x, size, stride, pad, value):
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=value)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
    return windows[:, :, ::stride, ::stride]

  def unit(conv, norm, x, stride=1):
    weight = state[f"{conv}.weight"].astype(np.float64)
    size = weight.shape[-1]
    x = np.einsum("bchwij,ocij->bohw", patches(x, size, stride, size // 2, 0.0), weight, optimize=True)
    old = [state[f"{norm}.running_{kind}"] for kind in ("mean", "var")]
    seen = x.mean((0, 2, 3)), x.var((0, 2, 3), ddof=1)
    after.update({f"{norm}.running_{k}": 0.9 * o + 0.1 * s for k, o, s in zip(("mean", "var"), old, seen)})
    mean, var = (seen[0], x.var((0, 2, 3))) if train else old
    scale = state[f"{norm}.weight"] / np.sqrt(var + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{norm}.bias"][:, None, None]

  relu = lambda x: np.maximum(x, 0.0)
  x = relu(unit("conv1", "bn1", x, 2))
  x = patches(x, 3, 2, 1, -np.inf).max((-1, -2))
  for where in dict.fromkeys(k.rsplit(".", 2)[0] for k in state if k.endswith(".conv1.weight")):
    stride = 2 if where.endswith(".0") and not where.startswith("layer1") else 1
    if f"{where}.conv3.weight" in state:
      y = relu(unit(f"{where}.conv1", f"{where}.bn1", x))
      y = unit(f"{where}.conv3", f"{where}.bn3", relu(unit(f"{where}.conv2", f"{where}.bn2", y, stride)))
    else:
      y = relu(unit(f"{where}.conv1", f"{where}.bn1", x, stride))
      y = unit(f"{where}.conv2", f"{where}.bn2", y)
    if f"{where}.downsample.0.weight" in state:
      x = unit(f"{where}.downsample.0", f"{where}.downsample.1", x, stride)
    x = relu(x + y)
  return x.mean((2, 3)), after


def ours(depth, loaded, x, train):
  """What the encoder's backbone makes of images `[B H W C]`, and its running statistics after it."""
  module = nnx.eval_shape(make(depth, bands=x.shape[-1])).backbone
  graphdef = nnx.graphdef(module)

  @jax.jit
  def call(params, stats, x):
    m = nnx.merge(graphdef, params, stats)
    return m(x, train=train), nnx.to_pure_dict(nnx.state(m, nnx.BatchStat))

  return call(loaded["params"], loaded["stats"], x)


def assert_same_statistics(depth, stats, expected):
  net = nnx.eval_shape(make(depth)).backbone
  nnx.update(net, stats)
  named = dict(imagenet._names(net))
  for name, value in expected.items():
    np.testing.assert_allclose(named[name][...], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", TINY_RESNETS)
@pytest.mark.parametrize("train", [False, True])
def test_imported_weights_give_what_numpy_gives(tiny, tmp_path, depth, train):
  state = resnet_state_dict(TINY_RESNETS[depth])
  file = save_torch_file(tmp_path / "weights.pth", state)
  loaded = load({"weights": str(file), "depth": depth}, (32, 32, 3))
  x = np.random.default_rng(2).normal(size=(3, 32, 32, 3)).astype(np.float32)
  y, stats = ours(depth, loaded, x, train)
  expected, after = reference(state, x.transpose(0, 3, 1, 2).astype(np.float64), train)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
  assert_same_statistics(depth, stats, after if train else {k: v for k, v in state.items() if "running" in k})
  assert int(stats["stem"]["norm"]["batches"]) == 7 + train


def test_safetensors_and_nested_state_dicts_are_the_same(tiny, tmp_path):
  numpy = pytest.importorskip("safetensors.numpy")
  state = resnet_state_dict(TINY_RESNETS[10])
  numpy.save_file(state, tmp_path / "a.safetensors")
  save_torch_file(tmp_path / "b.pth", {"epoch": 3, "state_dict": state})
  save_torch_file(
    tmp_path / "c.pth", {k: v for k, v in state.items() if not k.endswith("tracked")}
  )  # PyTorch 0.4
  one, two, old = (
    load({"weights": str(tmp_path / name), "depth": 10}, (8, 8, 3))
    for name in ("a.safetensors", "b.pth", "c.pth")
  )
  jax.tree.map(np.testing.assert_array_equal, one, two)
  assert "batches" in one["stats"]["stem"]["norm"] and "batches" not in old["stats"]["stem"]["norm"]
  (tmp_path / "a.safetensors").write_bytes(b"no tensors")
  with pytest.raises(InputError, match="a.safetensors cannot be read: ") as error:
    load({"weights": str(tmp_path / "a.safetensors"), "depth": 10}, (8, 8, 3))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("bands, kept", [(3, True), (4, False), (1, False)])
def test_the_first_convolution_is_kept_for_its_number_of_bands(tiny, tmp_path, bands, kept):
  file = save_torch_file(tmp_path / "weights.pth", resnet_state_dict(TINY_RESNETS[10]))
  loaded = load({"weights": str(file), "depth": 10}, (8, 8, bands))
  assert ("kernel" in loaded["params"]["stem"]) == kept
  assert "norm" in loaded["params"]["stem"]


def without(state, *names):
  return {k: v for k, v in state.items() if k not in names}


WRONG = {
  "bottlenecks": (
    lambda s: s,
    14,
    r"do not fit a ResNet-14: missing layer1.0.conv3.weight, .* and \d+ more; not",
  ),
  "missing": (
    lambda s: without(s, "bn1.bias") | {"layer9.0.weight": s["bn1.bias"]},
    10,
    r"do not fit a ResNet-10: missing bn1.bias; not used layer9.0.weight$",
  ),
  "other": (
    lambda s: {"a": s["bn1.bias"]},
    10,
    r"missing conv1.weight, bn1.weight, bn1.bias, .* and \d+ more; not used a",
  ),
  "shape": (
    lambda s: s | {"layer2.0.conv1.weight": s["layer1.0.conv1.weight"]},
    10,
    r"layer2.0.conv1.weight has shape \(3, 3, 64, 64\), inputs first; the encoder's is \(3, 3, 64, 128\)",
  ),
  "finite": (
    lambda s: s | {"bn1.bias": s["bn1.bias"] * np.nan},
    10,
    "bn1.bias has values that are not finite",
  ),
  "no tensor": (lambda s: {"epoch": 3}, 10, "hold no state dict: epoch is no tensor"),
  "list": (lambda s: ("a",), 10, "hold no state dict$"),
}


@pytest.mark.parametrize("edit, depth, message", WRONG.values(), ids=WRONG)
def test_weights_that_do_not_fit_are_one_line(tiny, tmp_path, edit, depth, message):
  file = save_torch_file(tmp_path / "weights.pth", edit(resnet_state_dict(TINY_RESNETS[10])))
  with pytest.raises(InputError, match=message) as error:
    load({"weights": str(file), "depth": depth}, (8, 8, 3))
  assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_another_depth_is_told(tmp_path):
  names = imagenet._names(nnx.eval_shape(make(34)).backbone)
  state = {name: np.zeros(1, np.float32) for name, _ in names}
  with pytest.raises(InputError, match="are those of a ResNet-34, the encoder has depth=50"):
    load({"weights": str(save_torch_file(tmp_path / "weights.pth", state))}, (8, 8, 3))


def test_without_a_file_there_is_nothing_to_load():
  assert load({"model_type": "resnet", "weights": ""}, (8, 8, 3)) == {}
  assert load({"model_type": "tempcnn"}, (8, 3)) == {}
  with pytest.raises(InputError, match="weights=/none.pth: there is no such file"):
    load({"model_type": "resnet", "weights": "/none.pth"}, (8, 8, 3))


def test_a_depth_that_there_is_not():
  with pytest.raises(InputError, match="encoder resnet: depth=20, have 18, 34, 50, 101, 152"):
    nnx.eval_shape(make(20))
  with pytest.raises(InputError, match=r"encoder resnet reads images of shape \(H, W, C\), got \(4, 8\)"):
    nnx.eval_shape(lambda: encoders.make_encoder({"model_type": "resnet"}, (4, 8), 8, rngs=nnx.Rngs(0)))


@pytest.mark.long
def test_both_encoders_of_a_sensor_begin_with_the_weights(tiny, tmp_path):
  """And nothing else does; they are given to the program, not written into it."""
  file, shapes = (
    save_torch_file(tmp_path / "weights.pth", resnet_state_dict(TINY_RESNETS[10])),
    {"nir": (8, 8, 1), "x": (3,)},
  )
  image = {"model_type": "resnet", "depth": 10, "weights": str(file)}
  settings = {"nir": image, "x": {"model_type": "mlp", "layer_sizes": (4,)}}
  network = Network(MDiCo(), Architecture(shapes, settings, Task("regression", ("y",)), emb_dim=4))
  loaded = setup.load_pretrained(network)
  recipe = types.SimpleNamespace(
    network=network,
    method=network.method,
    average=None,
    optimizer=types.SimpleNamespace(transform=optax.sgd(0.1)),
  )
  begin = lambda pretrained: state_lib.init(recipe, jax.random.key(3), {}, pretrained=pretrained)
  assert all(np.size(constant) < 1000 for constant in jax.make_jaxpr(begin)(loaded).consts)
  drawn, state = jax.jit(lambda loaded: (begin({}), begin(loaded)))(loaded)
  equal = lambda one, other: jax.tree.map(np.testing.assert_array_equal, one, other)
  for kind, of_file in load(image, shapes["nir"]).items():
    before, after = getattr(drawn, kind), getattr(state, kind)
    equal(after, getattr(state.best, kind))
    for branch in ("unique", "common"):
      old, new = before[branch]["nir"].pop("backbone"), after[branch]["nir"].pop("backbone")
      if kind == "params":  # for another number of bands it is drawn
        equal(new["stem"].pop("kernel"), old["stem"]["kernel"])
      equal(new, of_file)
    equal(after, before)


def test_weights_are_looked_for_before_anything_is_built(tiny, tmp_path):
  file = tmp_path / "weights.pth"
  configure = lambda **own: config_lib.load(
    "configs/lfmc.py",
    {
      "data.name": "treesat_ts",
      "data.modalities": "aerial",
      "model.encoders": {"aerial": {"model_type": "resnet", "depth": 10, "weights": str(file), **own}},
    },
  )
  with pytest.raises(
    InputError, match="^model.encoders, for modality aerial: weights=.*there is no such file$"
  ):
    configure()
  save_torch_file(file, resnet_state_dict(TINY_RESNETS[10]))
  config = configure()
  with pytest.raises(
    InputError, match="^model.encoders, for modality aerial: weights=.* missing layer1.0.conv3"
  ):
    configure(depth=14)
  file.unlink()
  config_lib.validate(config, begun=True)
  with pytest.raises(InputError, match="there is no such file"):
    config_lib.validate(config)


@pytest.mark.parametrize("depth", [18, 50])
def test_imported_weights_give_what_timm_gives(tmp_path, depth):
  torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
  torch.manual_seed(0)
  theirs = timm.create_model(f"resnet{depth}", num_classes=7)
  for module in theirs.modules():  # else they stand for very little
    if isinstance(module, torch.nn.BatchNorm2d):
      torch.nn.init.uniform_(module.weight, 0.5, 1.0)
      torch.nn.init.normal_(module.bias, 0.0, 0.1)
      torch.nn.init.normal_(module.running_mean, 0.0, 0.1)
      torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
  torch.save(theirs.state_dict(), tmp_path / "weights.pth")
  loaded = load({"weights": str(tmp_path / "weights.pth"), "depth": depth}, (64, 64, 3))
  x = np.random.default_rng(2).normal(size=(4, 64, 64, 3)).astype(np.float32)
  for training in (False, True):
    theirs.train(training)
    with torch.no_grad():
      features = theirs.forward_features(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
      expected = features.mean((2, 3)).numpy()
    y, stats = ours(depth, loaded, x, training)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert_same_statistics(
      depth, stats, {k: v.numpy() for k, v in theirs.state_dict().items() if "running" in k}
    )
