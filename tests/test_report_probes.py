"""Probes and similarities of features whose content is known."""

import numpy as np
import pytest

from colearn_jax.data.splits import Run
from colearn_jax.reporting import probes
from colearn_jax.reporting.features import Frozen
from colearn_jax.types import Task

RNG = np.random.default_rng(0)
N = 300


def test_cka_by_hand():
  """Features (1, -1, 0) and (1, 0, -1): of one feature each it is the squared cosine, (1/2)²."""
  x, y = np.array([[1.0], [-1.0], [0.0]]), np.array([[1.0], [0.0], [-1.0]])
  assert probes.linear_cka(x, y) == pytest.approx(0.25)
  assert np.isnan(probes.linear_cka(x, np.ones((3, 2))))


def test_cka_sees_no_rotation_scale_or_shift():
  x = RNG.normal(size=(50, 4))
  turn, _ = np.linalg.qr(RNG.normal(size=(4, 4)))
  assert probes.linear_cka(x, 3.0 * x @ turn + 7.0) == pytest.approx(1.0)
  assert probes.linear_cka(x, x[:, :1]) < 0.9
  assert probes.linear_cka(RNG.normal(size=(2000, 3)), RNG.normal(size=(2000, 3))) < 0.01


def halves(x):
  return x[: N // 2], x[N // 2 :]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_a_probe_finds_what_is_in_the_features_and_nothing_else(kind):
  outputs = ("a", "b") if kind == "binary" else ("a", "b", "c")
  task = Task(kind, outputs if kind != "regression" else ("y",))
  noise = RNG.normal(size=(N, 5))
  if kind in ("binary", "multiclass"):
    target = RNG.integers(len(outputs), size=N)
    signal, chance = np.eye(len(outputs))[target], 1 / len(outputs)
  elif kind == "multilabel":
    target = (RNG.random((N, 3)) > 0.5).astype(np.float32)
    signal, chance = target, 0.5
  else:
    target = RNG.normal(50.0, 10.0, (N, 1))
    signal, chance = target, 0.0
  mixed = np.column_stack([signal, noise]) @ RNG.normal(size=(signal.shape[1] + 5, signal.shape[1] + 5))
  score = lambda x: probes.probe(task, (halves(x)[0], halves(target)[0]), (halves(x)[1], halves(target)[1]))
  assert score(mixed) > 0.97
  assert score(noise) < chance + 0.15
  train, test = halves(mixed)
  shuffled = RNG.permutation(halves(target)[0])
  assert probes.probe(task, (train, shuffled), (test, halves(target)[1])) < chance + 0.25


def frozen():
  """Shared features hold a common factor, specific ones the sensor and its own factor, unused ones noise."""
  common, own = RNG.normal(size=N), {"S1": RNG.normal(size=N), "S2": RNG.normal(size=N)}
  noise = lambda columns: RNG.normal(size=(N, columns))
  features = {
    "shared": {m: np.column_stack([common, 2 * common, 0.05 * noise(1)]) for m in own},
    "specific": {m: np.column_stack([own[m], noise(1) + (6.0 if m == "S1" else -6.0)]) for m in own},
    "unused": {m: noise(2) for m in own},
  }
  part = lambda rows: {kind: {m: x[rows] for m, x in of.items()} for kind, of in features.items()}
  train, test = np.arange(N // 2), np.arange(N // 2, N)
  run = Run(seed=1, fold=0, train=train, validation=test, test=test)
  latents = {"both": common, "radar": own["S1"], "optical": own["S2"]}
  return Frozen(run, train, test, part(train), part(test)), (common + own["S1"])[:, None], latents


OBSERVED = {"both": ("S1", "S2"), "radar": ("S1",), "optical": ("S2",)}


def test_all_figures_of_a_run():
  one, target, latents = frozen()
  task = Task("regression", ("y",))
  found = probes.measure(one, task, target, latents)
  assert found["both", "shared", "S1"] > 0.97 > 0.2 > found["both", "specific", "S1"]
  assert found["radar", "specific", "S1"] > 0.97 > 0.2 > found["radar", "specific", "S2"]
  assert found["sensor", "specific"] == 1.0 and abs(found["sensor", "shared"] - 0.5) < 0.2
  assert found["cka", "shared"] > 0.95 > 0.2 > found["cka", "specific"]
  # Half of the target's variance is in the shared features of S1, the other half in its specific ones.
  assert found["target", "shared", "S1"] == pytest.approx(0.5, abs=0.15)
  assert found["target", "specific", "S1"] == pytest.approx(0.5, abs=0.15)
  what, factors, claims = probes.tables([found], task, ("S1", "S2"), OBSERVED)
  assert [row[0].text for row in what.rows] == ["shared", "specific", "unused"]
  assert what.rows[1][3].text == "1.000" and "by chance 0.500" in what.notes[0]
  assert [row[1].text for row in factors.rows] == ["S1 and S2", "S1", "S2"]
  assert [row[2].text for row in claims.rows] == ["supported"] * 6


def test_verdicts():
  """Contradicted if the features are exchanged, undecided if two runs do not agree."""
  one, target, latents = frozen()
  task, turn = Task("regression", ("y",)), {"shared": "specific", "specific": "shared", "unused": "unused"}
  swapped = lambda of: {turn[kind]: x for kind, x in of.items()}
  other = Frozen(one.run, one.train, one.test, swapped(one.of_train), swapped(one.of_test))
  found = [probes.measure(x, task, target, latents) for x in (one, other)]
  verdicts = lambda runs: [row[2].text for row in probes.tables(runs, task, ("S1", "S2"), OBSERVED)[-1].rows]
  assert verdicts(found[1:])[:2] == ["contradicted"] * 2 and verdicts(found[1:])[4] == "contradicted"
  assert verdicts(found)[:2] == ["undecided"] * 2
