"""Odd and damaged weights, checkpoints of the released program and files to predict: a result or one line."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st

from colearn_jax.deploy import predictions
from colearn_jax.deploy.load import load_model
from colearn_jax.interop import released
from colearn_jax.weights import pretrained, tensors
from tests.cases.exported import make_model
from tests.cases.odd_files import CHANGES, DTYPES, FILLED, SHAPES, array, change_file, in_one_line, repeat
from tests.cases.predict_files import FORMATS
from tests.helpers import golden, save_torch_file
from tests.presto_files import SIZES, architecture, state_dict

FEW = pytest.mark.parametrize("examples", [10, pytest.param(150, marks=pytest.mark.slow)])
MAYBE = st.one_of(st.none(), CHANGES)
ARRAYS = st.builds(array, SHAPES, st.sampled_from(["bool", "u1", "i2", "i8", "f2", "f4", "f8"]), FILLED)
CONTENT = st.recursive(
  st.one_of(ARRAYS, st.none(), st.booleans(), st.integers(-5, 2**40), st.floats(), st.text(max_size=5)),
  lambda inner: st.one_of(
    st.lists(inner, max_size=3),
    st.lists(inner, max_size=3).map(tuple),
    st.dictionaries(
      st.sampled_from(["state_dict", "encoder.norm.weight", "epoch", "a", ""]), inner, max_size=4
    ),
  ),
  max_leaves=6,
)
# Some tensors of a state dict that fits are left out, renamed or replaced.
ALTERED = st.lists(
  st.tuples(st.integers(0, 99), st.sampled_from(["drop", "rename", "replace", "more"]), ARRAYS), max_size=2
)


def altered(state, changes):
  state = dict(state)
  for at, what, value in changes:
    name = sorted(state)[at % len(state)]
    if what in ("drop", "rename"):
      value = state.pop(name)
    if what != "drop":
      state[{"rename": name + "x", "replace": name, "more": "more"}[what]] = value
  return state


@functools.cache
def net():
  make = functools.partial(architecture().encoder, "optical")
  return nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)).backbone)


def save(path, content):
  if path.suffix == ".safetensors":
    arrays = {name: np.asarray(value) for name, value in content.items()}  # NumPy's scalars are none
    pytest.importorskip("safetensors.numpy").save_file(arrays, path)
  else:
    save_torch_file(path, content)


def weights_of_any_content(there, content, changes):
  save_torch_file(there / "a.pt", content)
  if changes:
    change_file(there / "a.pt", 0, changes)
  return in_one_line(lambda: tensors.read(there / "a.pt"))


def weights_of_presto(there, suffix, changed, changes):
  path = there / f"a{suffix}"
  save(path, altered(state_dict(blocks=1), changed))
  if changes:
    change_file(path, 0, changes)
  settings = {"model_type": "presto", "weights": str(path)} | SIZES

  def load():
    pretrained.sized({"model_type": "presto", "weights": str(path), "num_heads": 2})
    pretrained.load(settings, net())

  return in_one_line(load)


JSON = st.recursive(
  st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=4)),
  lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=2)
  ),
  max_leaves=4,
)
PATHS = st.sampled_from(
  [("dataset",), ("training",), ("architecture",), ("architecture", "encoder"), ("dataset", "name")]
  + [("architecture", name) for name in ("emb_dim", "weights_loss", "views", "predictive_model", "more")]
  + [
    ("architecture", "encoder", name)
    for name in ("model_type", "layer_size", "n_layers", "dropout", "seq_len")
  ]
  + [("training", name) for name in ("batch_size", "lr", "loss", "early_stopping")]
)


def checkpoints_of_the_released_program(there, setting, value, changed, statistics, at, changes):
  constructor, state, inputs, *_ = golden("mdico_regression_released")
  tree = {"architecture": json.loads(json.dumps(constructor)), "dataset": "mine"}
  if setting is not None:
    place = tree
    for key in setting[:-1]:
      place = place.get(key) if isinstance(place, dict) else None
    if isinstance(place, dict):
      place[setting[-1]] = value
  (there / "a.yaml").write_text(json.dumps(tree))  # JSON is YAML
  whole = {m: {"mean": [0.0] * x.shape[-1], "std": [1.0] * x.shape[-1]} for m, x in inputs.items()}
  (there / "s.json").write_text(json.dumps(whole if statistics is None else statistics))
  save_torch_file(there / "a.ckpt", {"epoch": 3, "state_dict": altered(state, changed)})
  if changes:
    change_file(there / ("a.ckpt", "a.yaml", "s.json")[at], 0, changes)
  files = there / "a.yaml", there / "a.ckpt", there / "run", there / "s.json"
  good = in_one_line(lambda: released.import_checkpoint(*files))
  assert good == (there / "run").exists(), "something was left behind, or nothing was written"
  return good


@pytest.mark.long
@FEW
@pytest.mark.parametrize(
  ("check", "drawn"),
  [
    (weights_of_any_content, {"content": CONTENT, "changes": MAYBE}),
    (
      weights_of_presto,
      {"suffix": st.sampled_from([".pt", ".safetensors"]), "changed": ALTERED, "changes": MAYBE},
    ),
    (
      checkpoints_of_the_released_program,
      {
        "setting": st.one_of(st.none(), PATHS),
        "value": JSON,
        "changed": ALTERED,
        "statistics": st.one_of(st.none(), st.none(), JSON),
        "at": st.integers(0, 2),
        "changes": MAYBE,
      },
    ),
  ],
)
def test_weights_and_checkpoints(check, drawn, examples, tmp_path):
  if check is not weights_of_any_content:
    whole = {name: [] if name == "changed" else None for name in drawn} | {"at": 0, "suffix": ".pt"}
    assert check(tmp_path, **{name: whole[name] for name in drawn}), "whole files are not read"
  repeat(drawn, check, examples)


# Files to predict.


@functools.cache
def model():
  return load_model(make_model(Path(tempfile.mkdtemp()) / "m", (3, 2)))


def predicted(there, source):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(predictions, "load_model", lambda _: model())
    return in_one_line(lambda: predictions.write("m", source, there / "out.csv", any_values=True))


def damaged_files_to_predict(there, kind, choice, changes):
  source = FORMATS[kind](there)
  if changes:
    change_file(source, choice, changes)
  return predicted(there, source)


def arrays_to_predict(there, arrays):
  np.savez(there / "a.npz", **arrays)
  return predicted(there, there / "a.npz")


NAMES = st.sampled_from(
  ["values", "bands", "red", "nir", "id", "dates", "date", "red_1", "nir_1", "red_2018-01-01"]
)


@FEW
@pytest.mark.filterwarnings("ignore:The data type")  # of Zarr, whose texts have no specification yet
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of h5netcdf, as it closes
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_to_predict(kind, examples, tmp_path):
  check = functools.wraps(damaged_files_to_predict)(functools.partial(damaged_files_to_predict, kind=kind))
  assert check(tmp_path, choice=0, changes=[]), "whole files are not read"
  repeat({"choice": st.integers(0, 9), "changes": CHANGES}, check, examples)


@FEW
def test_arrays_of_any_type_and_shape_to_predict(examples):
  arrays = st.builds(array, SHAPES, DTYPES.filter(lambda name: name != "O"), FILLED)
  repeat({"arrays": st.dictionaries(NAMES, arrays, max_size=4)}, arrays_to_predict, examples)
