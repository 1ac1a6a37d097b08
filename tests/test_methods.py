"""What holds for every method."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from colearn_jax.datasets.lfmc.dummy import write_dummy
from flax import nnx

from colearn_jax import config, methods
from colearn_jax.data import dataset as data
from colearn_jax.data import reader as readers
from colearn_jax.deploy.load import load_model
from colearn_jax.evaluation.results import Results
from colearn_jax.methods.base import Batch
from colearn_jax.parallel import sharding
from colearn_jax.training import run
from colearn_jax.types import InputError
from tests.helpers import by_default
from tests.small_methods import (
  KINDS,
  SETTINGS,
  SHAPES,
  VARIANTS,
  B,
  a_batch,
  architecture,
  filled,
  forward,
  make,
  masks,
  random,
  targets,
  values,
)


def objective(method, kind):
  """A jitted function: gradient, objective and its terms in training, of arrays as in a batch."""
  arch = architecture(kind)
  build = lambda method: nnx.split(
    filled(lambda: method.build(arch, rngs=nnx.Rngs(0))), nnx.Param, nnx.BatchStat
  )
  graphdef, params, stats = build(method)
  teachers = {name: (make(name), *build(make(name))) for name in method.requires}
  given = values(method, kind, arrays={"teacher": jnp.asarray(random(B, len(arch.task.outputs), seed=7))})

  @jax.jit
  def call(inputs, present, target, labelled, row):
    said = {n: t[0].forward(nnx.merge(*t[1:], copy=True), inputs, present) for n, t in teachers.items()}
    batch = Batch(inputs, present, target, labelled, row, said)

    def loss(params):
      rngs = nnx.Rngs(dropout=1, sensors=2, method=3)
      model = nnx.merge(graphdef, params, stats, copy=True)
      outputs = method.forward(model, inputs, present, train=True, progress=0.5, rngs=rngs)
      return method.loss(outputs, batch, given)

    (_, terms), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return nnx.to_pure_dict(grads), terms

  return call


@pytest.mark.long
@pytest.mark.parametrize(
  ("name", "kind"),
  [*itertools.product(methods.METHODS, KINDS[1:]), *((name, "multiclass") for name in VARIANTS)],
)
def test_absent_sensors_missing_labels_and_padding_count_nowhere(name, kind):
  """In no term and in no gradient, with batch statistics."""
  method = make(name)
  call = objective(method, kind)
  inputs = {m: random(B, *shape, seed=k) for k, (m, shape) in enumerate(SHAPES.items())}
  present = masks(radar=(1, 2), optical=(2, 5), thermal=(0, 1))
  labelled = np.array([1, 1, 1, 0, 1, 1], np.float32)
  grads, terms = call(inputs, present, targets(kind), labelled, np.arange(B))
  assert set(method.terms) == {n.removeprefix("total/") for n in terms if n.startswith("total/")}
  np.testing.assert_allclose(sum(terms[f"total/{term}"] for term in method.terms), terms["objective"], 1e-6)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, terms)))
  for top, part in grads.items():
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(part)), f"{top} is not trained"

  # A batch without a sensor, and one without a label.
  for there, known in ((masks(thermal=range(B)), labelled), (present, 0 * labelled)):
    got = call(inputs, there, targets(kind), known, np.arange(B))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))

  # Other values where a sensor is absent, and other targets where there is no label.
  hidden = {m: np.where(np.asarray(present[m])[:, None] > 0, x, 1e3) for m, x in inputs.items()}
  other = targets(kind)
  other[3] = (other[3] + 1) % 2 if kind != "regression" else 1e3
  close = lambda got: jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, (grads, terms)
  )
  close(call(hidden, present, other, labelled, np.arange(B)))
  if kind != "multilabel":  # one kind is enough for what compiles anew
    return
  # More rows, which are padding.
  more = lambda a, value: np.concatenate([a, np.full((2, *a.shape[1:]), value, a.dtype)])
  padded = call(
    {m: more(x, 1e3) for m, x in inputs.items()},
    {m: more(np.asarray(mask), 0) for m, mask in present.items()},
    more(targets(kind), 0),
    more(labelled, 0),
    more(np.arange(B), -1),
  )
  close(padded)


@pytest.mark.parametrize("name", by_default(("mdico", "shaspec"), [*methods.METHODS, *VARIANTS]))
def test_a_predictor_alone_is_a_part_of_the_whole_model(name):
  """Its variables have the same paths and shapes, and it predicts the same; any number of sensors."""
  method = make(name)
  for names in (("radar",), tuple(SHAPES)):
    arch = architecture(names=names)
    inputs = {m: jnp.asarray(random(B, *SHAPES[m])) for m in names}
    whole = filled(lambda arch=arch: method.build(arch, rngs=nnx.Rngs(0)))
    want = method.predict(forward(method, whole, inputs))["prediction"]
    predictors = method.predictors(names)
    assert set(predictors) == set(want)
    state = dict(nnx.to_flat_state(nnx.state(whole)))
    for predictor, sensors in predictors.items():
      part = filled(lambda arch=arch, only=predictor: method.build(arch, only=only, rngs=nnx.Rngs(0)))
      paths = {path for path, _ in nnx.to_flat_state(nnx.state(part))}
      others = set(names) - set(sensors)
      assert paths <= set(state) and not any(others & set(path) for path in paths)
      nnx.update(part, nnx.from_flat_state([(path, state[path]) for path in paths]))
      got = method.predict(forward(method, part, {m: inputs[m] for m in sensors}))["prediction"]
      np.testing.assert_allclose(got[predictor], want[predictor], rtol=1e-5, atol=1e-6)
      assert got[predictor].shape == (B, 3)


@pytest.mark.parametrize("name", [*methods.METHODS, *VARIANTS])
def test_outputs_have_a_row_for_each_sample_and_predictions_are_float32(name):
  """Microbatches split and join outputs by their first axis; encoders may compute in bfloat16."""
  method = make(name)

  def run(train):
    model = method.build(architecture(dtype=jnp.bfloat16), rngs=nnx.Rngs(0))
    inputs = {m: jnp.ones((B, *shape)) for m, shape in SHAPES.items()}
    rngs = nnx.Rngs(dropout=1, sensors=2, method=3)
    outputs = method.forward(model, inputs, masks(), train=train, rngs=rngs)
    return outputs, method.predict(outputs)

  for train in (True, False):
    outputs, predicted = jax.eval_shape(lambda train=train: run(train))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(outputs)} == {B}
    assert {(leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(predicted)} == {((B, 3), "float32")}


@pytest.mark.long
@pytest.mark.parametrize("name", [*methods.METHODS, *VARIANTS])
def test_every_term_but_the_first_can_be_switched_off(name):
  """With what it alone needs of the model; nothing is computed here."""
  method = make(name)
  for term in method.terms[1:]:
    off = dataclasses.replace(method, **{term: 0.0})

    def loss(off=off):
      model = off.build(architecture(), rngs=nnx.Rngs(0))
      inputs = {m: jnp.ones((B, *shape)) for m, shape in SHAPES.items()}
      said = {"fusion": {"optical+radar+thermal": jnp.ones((B, 3))}} if method.requires else {}
      arrays = {"teacher": jnp.ones((B, 3))}
      batch = a_batch("multiclass", teachers=said)
      return off.loss(off.forward(model, inputs), batch, values(off, "multiclass", arrays=arrays))[1]

    totals = {key.removeprefix("total/") for key in jax.eval_shape(loss) if key.startswith("total/")}
    assert totals == set(method.terms) - {term}


@pytest.fixture(scope="module")
def lfmc(tmp_path_factory):
  """A small file in LFMC's layout, where it gets prepared, and one device."""
  manual, prepared = tmp_path_factory.mktemp("manual"), tmp_path_factory.mktemp("prepared")
  write_dummy(manual / "training_features.csv", rows=48, sites=12)
  with pytest.MonkeyPatch.context() as patch:
    one = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1])
    patch.setattr(sharding, "make_mesh", lambda *_: one)
    yield {"data.manual_dir": str(manual), "data.data_dir": str(prepared)}


@pytest.mark.long
@pytest.mark.parametrize("name", [*methods.METHODS, "fusion of all alone"])
def test_two_epochs_of_training_and_the_predictions_of_one_sensor(lfmc, tmp_path, name):
  name, *plain = name.split(maxsplit=1)
  settings = {} if plain else SETTINGS.get(name, {})
  small = {
    "protocol.folds": 2,
    "model.emb_dim": 8,
    "model.encoder.layer_sizes": (8,),
    "train.batch_size": 16,
    "train.max_epochs": 2,
  }
  own = {f"loss.{key}": value for key, value in settings.items()}
  run.run(config.load(f"configs/lfmc.py:method={name},encoder=mlp", small | lfmc | own), tmp_path)
  scores = Results.read(tmp_path / "results.json").scores
  method = methods.find(name)(**settings)
  sensors = ("S1_S1Ind", "S2_S2Ind")
  predictors = method.predictors(sensors)
  assert set(predictors) == {*scores.modalities, *scores.combinations}
  dataset = data.open_dataset(f"{lfmc['data.data_dir']}/lfmc/2.1.0")
  table = readers.read_table(readers.make_reader(dataset, [dataset.modality(m) for m in sensors]))
  ids = readers.read_index(dataset).ids
  for m in sensors:
    if m not in predictors:
      with pytest.raises(InputError, match="has no model of S.* alone: method fusion predicts with"):
        load_model(tmp_path, m)
      continue
    model = load_model(tmp_path, m, runs=["seed10_fold1"])
    got = dict(zip(ids, model.predict(table["inputs"][m])))
    lines = (tmp_path / "predictions" / f"{m}.csv").read_text().splitlines()
    head, *rows = [line.split(",") for line in lines]
    column = next(k for k, title in enumerate(head) if title.startswith("prediction"))
    rows = [row for row in rows if row[head.index("fold")] == "1"]
    assert len(rows) == 24
    for row in rows:
      np.testing.assert_allclose(got[row[head.index("id")]][0], float(row[column]), rtol=1e-4)
