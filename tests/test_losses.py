import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from colearn_jax.objectives.contrastive import contrastive
from colearn_jax.objectives.discriminative import modality_loss
from colearn_jax.objectives.task import (
  LossOptions,
  binary_cross_entropy,
  cross_entropy,
  squared_error,
  task_loss,
)

RNG = np.random.default_rng(0)


def arrays(*shapes):
  return [jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in shapes]


def ntxent_by_hand(za, zb, temperature, negatives="both"):
  """The formula, anchor by anchor, in float64."""
  z = np.concatenate([za, zb]).astype(np.float64)
  z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
  batch, terms = len(za), []
  for i in range(2 * batch):
    positive = (i + batch) % (2 * batch)
    others = [j for j in range(2 * batch) if j != i and (negatives == "both" or (j < batch) != (i < batch))]
    similarity = np.exp(z[others] @ z[i] / temperature)
    terms.append(-np.log(np.exp(z[positive] @ z[i] / temperature) / similarity.sum()))
  return np.mean(terms)


@pytest.mark.parametrize("negatives", ["both", "cross"])
def test_contrastive_is_the_formula(negatives):
  za, zb = arrays((7, 5), (7, 5))
  got = jax.jit(contrastive, static_argnames="negatives")(za, zb, 0.1, jnp.ones(7), negatives=negatives)
  np.testing.assert_allclose(got, ntxent_by_hand(za, zb, 0.1, negatives), rtol=1e-5)


def test_contrastive_is_optax_ntxent_where_that_fits():
  za, zb = arrays((6, 4), (6, 4))
  labels = jnp.tile(jnp.arange(6), 2)
  want = optax.ntxent(jnp.concatenate([za, zb]), labels, temperature=0.1)
  np.testing.assert_allclose(contrastive(za, zb, 0.1, jnp.ones(6)), want, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("negatives", ["both", "cross"])
def test_contrastive_leaves_absent_rows_out(negatives):
  za, zb = arrays((7, 5), (7, 5))
  mask = jnp.array([1, 1, 0, 1, 0, 1, 1.0])
  rows = np.flatnonzero(mask)
  value = lambda a, b: contrastive(a, b, 0.1, mask, negatives=negatives)
  subset = lambda a, b: contrastive(a[rows], b[rows], 0.1, jnp.ones(5), negatives=negatives)
  np.testing.assert_allclose(value(za, zb), subset(za, zb), rtol=1e-6)
  for got, want in zip(jax.grad(value, (0, 1))(za, zb), jax.grad(subset, (0, 1))(za, zb)):
    np.testing.assert_allclose(got, want, atol=1e-6)
  assert np.isfinite(contrastive(za, zb, 0.1, jnp.zeros(7), negatives=negatives))


def test_contrastive_of_zero_rows_has_finite_gradients():
  za, zb = arrays((4, 3), (4, 3))
  za = za.at[1].set(0.0)
  value, grad = jax.value_and_grad(contrastive)(za, zb, 0.1, jnp.ones(4))
  np.testing.assert_allclose(value, ntxent_by_hand(za, zb, 0.1), rtol=1e-5)
  assert np.isfinite(grad).all()


def test_squared_error_by_hand():
  prediction, target = jnp.array([[110.0], [90.0], [1e9]]), jnp.array([[100.0], [100.0], [0.0]])
  got = squared_error(prediction, target, jnp.array([104.0]), jnp.array([40.0]), jnp.array([1.0, 1.0, 0.0]))
  np.testing.assert_allclose(got, (10 / 40) ** 2, rtol=1e-6)


def test_cross_entropy_by_hand():
  logits, label = jnp.log(jnp.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])), jnp.array([0, 0, 1])
  weights, mask = jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0, 1.0])
  want = -(np.log(0.7) + np.log(0.2) + 3 * np.log(0.5)) / 5
  np.testing.assert_allclose(cross_entropy(logits, label, weights, mask), want, rtol=1e-6)
  without = -(np.log(0.7) + 3 * np.log(0.5)) / 4
  got = cross_entropy(logits, label, weights, jnp.array([1.0, 0.0, 1.0]))
  np.testing.assert_allclose(got, without, rtol=1e-6)


def test_binary_cross_entropy_by_hand():
  logits, target = jnp.array([[0.0, 2.0], [-1.0, 50.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
  terms = np.array([[np.log(2), 2 + np.log1p(np.exp(-2))], [np.log1p(np.exp(-1)), 0.0]])
  np.testing.assert_allclose(binary_cross_entropy(logits, target, jnp.ones(2)), terms.mean(), rtol=1e-6)
  got = binary_cross_entropy(logits, target, jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(got, terms[1].mean(), rtol=1e-6)


def test_huber_by_hand():
  """Errors of 0.5 and -3 standard deviations with δ = 1: 0.25 and 2·3 - 1."""
  prediction, target = jnp.array([[120.0], [-20.0]]), jnp.array([[100.0], [100.0]])
  loss = lambda p, huber: squared_error(p, target, jnp.array([9.0]), jnp.array([40.0]), jnp.ones(2), huber)
  np.testing.assert_allclose(loss(prediction, 1.0), (0.25 + 5.0) / 2, rtol=1e-6)
  np.testing.assert_allclose(loss(prediction, 0.0), (0.25 + 9.0) / 2, rtol=1e-6)
  np.testing.assert_allclose(loss(prediction, 3.5), loss(prediction, 0.0), rtol=1e-6)
  grads = jax.grad(loss)(prediction, 1.0)[:, 0] * 2 * 40
  np.testing.assert_allclose(grads, [2 * 0.5, -2 * 1.0], rtol=1e-6)


def test_label_smoothing_by_hand():
  """ε = 0.1 of two classes: 0.95 of the target's and 0.05 of the other's, by the target's class weight."""
  p, label = np.array([[0.7, 0.3], [0.2, 0.8]]), jnp.array([0, 1])
  got = cross_entropy(jnp.log(jnp.asarray(p)), label, jnp.array([1.0, 3.0]), jnp.ones(2), 0.1)
  first, second = (-0.95 * np.log(a) - 0.05 * np.log(b) for a, b in ((0.7, 0.3), (0.8, 0.2)))
  np.testing.assert_allclose(got, (first + 3 * second) / 4, rtol=1e-6)
  logits, target = jnp.log(jnp.array([[0.7 / 0.3, 0.2 / 0.8]])), jnp.array([[1.0, 0.0]])
  got = binary_cross_entropy(logits, target, jnp.ones(1), 0.1)
  np.testing.assert_allclose(got, (first - 0.95 * np.log(0.8) - 0.05 * np.log(0.2)) / 2, rtol=1e-6)


@pytest.mark.parametrize("kind", ["regression", "multilabel", "multiclass"])
def test_options_reach_the_loss_of_every_kind(kind):
  output, options = jnp.array([[5.0, -3.0], [0.5, 0.0]]), LossOptions(huber=1.0, label_smoothing=0.2)
  target = jnp.array([0, 1]) if kind == "multiclass" else jnp.zeros((2, 2))
  constants = {"mean": jnp.zeros(2), "std": jnp.ones(2), "class_weights": jnp.ones(2)}
  rest = kind, output, target, constants, jnp.ones(2)
  assert task_loss(*rest, LossOptions()) == task_loss(*rest) != task_loss(*rest, options)


def test_modality_loss_by_hand():
  logits = jnp.log(jnp.array([[0.1, 0.9], [0.6, 0.4]]))
  np.testing.assert_allclose(modality_loss(logits, 1, jnp.ones(2)), -np.log([0.9, 0.4]).mean(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["regression", "multilabel", "multiclass"])
def test_no_row_no_loss_no_nan(kind):
  output = jnp.array([[1.0, 2.0], [jnp.nan, 0.0]])
  target = jnp.array([0, 1]) if kind == "multiclass" else jnp.zeros((2, 2))
  constants = {"mean": jnp.zeros(2), "std": jnp.ones(2), "class_weights": jnp.ones(2)}
  value, grad = jax.value_and_grad(task_loss, 1)(kind, output, target, constants, jnp.zeros(2))
  assert value == 0.0
  np.testing.assert_array_equal(np.nan_to_num(grad), 0.0)
