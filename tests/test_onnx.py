"""ONNX beside the exported function: the same predictions in onnxruntime, or one line that says why not."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import load_model, methods
from colearn_jax.deploy.export import save_model
from colearn_jax.deploy.model import Model
from colearn_jax.deploy.predictor import flat, one_sensor
from colearn_jax.methods.architecture import Architecture
from colearn_jax.types import InputError, Modality, Task
from tests.helpers import SMALL

SHAPE, RUNS = (6, 3), ("seed10_fold0", "seed10_fold1")
SERIES = Modality("S2", ("S2",), SHAPE, ("red", "nir", "swir"))
TASK = Task("multiclass", ("crop", "tree", "water"))


def make(encoder, context=()):
  """A model of two runs with random values."""
  architecture = Architecture(
    {"S2": SHAPE}, {"S2": {"model_type": encoder, **SMALL[encoder]}}, TASK, emb_dim=8, context=len(context)
  )
  method, weights = methods.METHODS["individual"](), {}
  for seed, run in enumerate(RUNS):
    _, params, stats = nnx.split(method.build(architecture, rngs=nnx.Rngs(seed)), nnx.Param, nnx.BatchStat)
    constants = lambda n: {"offset": np.full(n, 5, np.float32), "scale": np.full(n, 2, np.float32)}
    inputs = {"S2": constants(3)} | ({"context": constants(len(context))} if context else {})
    whole = {"params": nnx.to_pure_dict(params), "stats": nnx.to_pure_dict(stats)}
    weights[run] = flat(whole | {"values": {"inputs": inputs}})
  about = {"normalisation": {RUNS[0]: {"S2": {"offset": [5, 5, 5], "scale": [2, 2, 2]}}}}
  return Model(one_sensor(method, architecture, "S2")[0], weights, SERIES, TASK, context, about)


CASES = {name: () for name in ("convtran", "gru", "lstm", "ltae", "mlp", "tempcnn", "transformer")}


@pytest.mark.parametrize("encoder, context", [*CASES.items(), ("gru", ("sine", "cosine"))])
def test_onnxruntime_predicts_the_same(tmp_path, encoder, context):
  pytest.importorskip("jax2onnx")
  onnxruntime = pytest.importorskip("onnxruntime")
  model = load_model(save_model(make(encoder, context), tmp_path / "out", onnx=True))
  session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
  rng = np.random.default_rng(3)
  for rows in (1, 5):
    given = {"values": rng.normal(5, 2, (rows, *SHAPE)), "context": rng.normal(size=(rows, 2))}
    given = {k: v.astype(np.float32) for k, v in given.items() if k == "values" or context}
    given["values"][0, 0, 0], given["values"][-1, 1] = np.nan, np.nan
    (got,) = session.run(["prediction"], given)
    np.testing.assert_allclose(got, model.predict(*given.values()), atol=1e-5)
  assert model.about["files"].keys() == {"function.jax", "weights.safetensors", "model.onnx"}


def test_what_cannot_be_converted_is_told_and_leaves_nothing(tmp_path):
  pytest.importorskip("jax2onnx")
  odd = Model(
    lambda w, x: jnp.linalg.eigh(x @ x.mT)[0], {"a": {}}, SERIES, Task("multilabel", tuple("abcdef"))
  )
  with pytest.raises(InputError, match="--onnx: jax2onnx cannot convert the encoder of S2: ") as error:
    save_model(odd, tmp_path / "out", onnx=True)
  assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_another_result_is_noticed(tmp_path, monkeypatch):
  pytest.importorskip("jax2onnx")
  model, inner = make("mlp"), Model.predict
  monkeypatch.setattr(Model, "predict", lambda self, *given, **how: inner(self, *given, **how) + 1e-4)
  with pytest.raises(InputError, match="what jax2onnx made of S2 predicts something else"):
    save_model(model, tmp_path / "out", onnx=True)


def test_a_converter_that_is_missing_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "jax2onnx", None)
  with pytest.raises(InputError, match=r"--onnx needs jax2onnx: pip install 'colearn_jax\[onnx\]'"):
    save_model(make("mlp"), tmp_path / "out", onnx=True)
  assert not list(tmp_path.iterdir())
