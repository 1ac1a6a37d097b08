"""DSensD+: sensor dropout of decisions, and what each sensor learns from their mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax.methods.dsensd import Outputs, mean_of
from tests.small_methods import (
  KINDS,
  SHAPES,
  B,
  a_batch,
  architecture,
  distance,
  filled,
  forward,
  make,
  masks,
  outputs_of,
  random,
  values,
)

NAME = "optical+radar+thermal"


@pytest.mark.parametrize("kind", KINDS)
def test_the_four_terms(kind):
  method, alone = make("dsensd", temperature=0.5), outputs_of(kind, 0)
  present = masks(radar=(1, 2), optical=(2, 3), thermal=(2,))
  shown = {m: present[m] * (jnp.arange(B) % 2 if m != "thermal" else 1.0) for m in SHAPES}
  complete, some = mean_of(alone, present), mean_of(alone, shown)
  for mean, seen in ((complete, present), (some, shown)):  # row 2 has no sensor
    for row in (0, 1, 3, 4, 5):
      own = [np.asarray(alone[m])[row] for m in SHAPES if seen[m][row] > 0]
      np.testing.assert_allclose(mean[row], np.mean(own, 0), rtol=1e-5)
  labelled = np.array([1, 1, 1, 0, 1, 1], np.float32)
  batch = a_batch(kind, present=present, labelled=labelled)
  weights = {"main": 2.0, "complete": 3.0, "alone": 5.0, "distillation": 7.0}
  given = values(method, kind, **weights)
  loss, terms = method.loss(Outputs(alone, complete, some), batch, given)
  rows = jnp.asarray([1.0, 1, 0, 0, 1, 1])
  want = {"main": given.task_loss(some, batch.target, rows)}
  want["complete"] = given.task_loss(complete, batch.target, rows)
  want["alone"] = make("individual").loss(alone, batch, given)[0] / 2.0  # its weight is that of main
  apart = {m: distance(kind, alone[m], complete, np.flatnonzero(present[m]), 0.5) for m in SHAPES}
  want["distillation"] = np.mean(list(apart.values()))
  for term, value in want.items():
    np.testing.assert_allclose(terms[f"total/{term}"], weights[term] * value, rtol=1e-4, err_msg=term)
  np.testing.assert_allclose(terms["distillation/radar"], apart["radar"], rtol=1e-4)
  np.testing.assert_allclose(loss, sum(weights[t] * want[t] for t in want), rtol=1e-4)
  # The mean teaches, and does not learn.
  to_mean = jax.grad(lambda o: method.loss(Outputs(alone, o, some), batch, given)[1]["total/distillation"])(
    complete
  )
  assert not np.any(to_mean)


def test_sensors_are_hidden_in_training_alone():
  method = make("dsensd")
  model = filled(lambda: method.build(architecture(head_layers=()), rngs=nnx.Rngs(0)))
  inputs = {m: jnp.asarray(random(B, *shape)) for m, shape in SHAPES.items()}
  present = masks(radar=(0, 1))
  still = forward(method, model, inputs, present)
  np.testing.assert_array_equal(still.shown, still.complete)
  predicted = method.predict(still)["prediction"]
  assert set(predicted) == {NAME, *SHAPES}
  np.testing.assert_array_equal(predicted[NAME], still.complete)
  first, second = (forward(method, model, inputs, present, train=True, seed=seed) for seed in (0, 1))
  np.testing.assert_allclose(first.complete, mean_of(first.alone, present), rtol=1e-5)
  assert np.abs(first.shown - second.shown).max() > 1e-3
