"""What frozen features hold: linear probes, and the similarity of the sensors' features.

A probe is a linear model that is fitted on features of the training part and scored on those of the test
part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeCV

from colearn_jax.evaluation import metrics
from colearn_jax.reporting.features import KINDS, Frozen
from colearn_jax.reporting.tables import Table, number, spread, table
from colearn_jax.types import Task

ALPHAS = 10.0 ** np.arange(-2, 5)
Found = dict[tuple[str, ...], float]  # by probe, kind of features and sensor


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
  """Linear centred kernel alignment of features `[n D]` and `[n E]` of the same samples.

  It is ‖Xᵀ Y‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖) of centred features, from 0 to 1 (Kornblith et al. 2019, ICML). NaN if
  features are constant.
  """
  x, y = x - x.mean(0), y - y.mean(0)
  norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
  return float(np.linalg.norm(x.T @ y) ** 2 / norms) if norms > 0 else float("nan")


def probe(task: Task, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
  """The main score of a linear model of the target, from pairs of features `[n D]` and targets.

  Classes are predicted by linear discriminant analysis with equal priors and the shrinkage of Ledoit & Wolf
  (2004); values and labels by ridge regression, whose penalty is chosen on the training part.
  """
  x, unseen = _scaled(train[0], test[0])
  score = metrics.HEADLINE[task.kind][0]
  if task.one_class:
    predicted = np.zeros((len(unseen), len(task.outputs)))
    seen = np.unique(train[1])
    predicted[:, seen] = _classifier(x, train[1]).predict_proba(unseen) if len(seen) > 1 else 1.0
  else:
    predicted = RidgeCV(ALPHAS).fit(x, train[1]).predict(unseen).reshape(len(unseen), -1)
    predicted = predicted if task.kind == "regression" else predicted.clip(0, 1)
  return metrics.scores(task, predicted, test[1])[score]


def _scaled(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Features with mean 0 and deviation 1 over the training part."""
  deviation = train.std(0)
  scale = np.where(deviation > 1e-12, deviation, 1.0)
  return (train - train.mean(0)) / scale, (test - train.mean(0)) / scale


def _classifier(x: np.ndarray, y: np.ndarray) -> LinearDiscriminantAnalysis:
  classes = len(np.unique(y))
  priors = np.full(classes, 1 / classes)
  return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors).fit(x, y)


def _stacked(of: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """The features of all sensors below each other, and the number of the sensor of each row."""
  return np.concatenate(list(of.values())), np.repeat(np.arange(len(of)), [len(x) for x in of.values()])


def measure(frozen: Frozen, task: Task, target: np.ndarray, latents: Mapping[str, np.ndarray]) -> Found:
  """All figures of one run.

  Args:
    frozen: the features.
    task: task of the data set.
    target: of all samples `[N]` or `[N K]`.
    latents: the factors `[N]` that simulated samples were drawn from.

  Returns:
    `("target", kind, sensor)`: score of the target's probe; `("sensor", kind)`: accuracy of the probe that
    tells the sensor from the features; `("cka", kind)`: mean similarity of two sensors' features;
    `(factor, kind, sensor)`: R² of the factor's probe.
  """
  out: Found = {}
  at_train, at_test = (
    np.stack([of[rows] for of in latents.values()], 1) if latents else np.empty((0, 0))
    for rows in (frozen.train, frozen.test)
  )
  for kind, own in frozen.of_train.items():
    new, sensors = frozen.of_test[kind], list(own)
    for sensor in sensors:
      pair = (own[sensor], target[frozen.train]), (new[sensor], target[frozen.test])
      out["target", kind, sensor] = probe(task, *pair)
      if latents:
        x, unseen = _scaled(own[sensor], new[sensor])
        error = np.square(at_test - RidgeCV(ALPHAS).fit(x, at_train).predict(unseen)).sum(0)
        spread_of = np.square(at_test - at_test.mean(0)).sum(0)
        for name, r2 in zip(latents, 1 - error / np.maximum(spread_of, 1e-12)):
          out[name, kind, sensor] = float(r2)
    if len(sensors) > 1:
      (x, which), (y, which_test) = _stacked(own), _stacked(new)
      x, unseen = _scaled(x, y)
      out["sensor", kind] = float(_classifier(x, which).score(unseen, which_test))
      pairs = itertools.combinations(sensors, 2)
      out["cka", kind] = float(np.mean([linear_cka(new[a], new[b]) for a, b in pairs]))
  return out


def tables(
  found: Sequence[Found], task: Task, sensors: Sequence[str], observed: Mapping[str, Sequence[str]]
) -> list[Table]:
  """The figures over the runs, and the sentences that they support or contradict.

  Args:
    found: what `measure` returned for each run.
    task: task of the data set.
    sensors: names of the sensors.
    observed: for each factor the sensors whose values depend on it.
  """
  kinds = [kind for kind in KINDS if ("target", kind, sensors[0]) in found[0]]
  cell = lambda *key: _over_runs([one.get(key, np.nan) for one in found])
  score = metrics.HEADLINE[task.kind][0]
  header = ["features", *(f"target, {m} ({score})" for m in sensors), "sensor (accuracy)", "similarity (CKA)"]
  rows = [[k, *(cell("target", k, m) for m in sensors), cell("sensor", k), cell("cka", k)] for k in kinds]
  notes = [
    "Linear probes, fitted on features of the training part and scored on the test part: the target from the "
    f"features of one sensor, and which of the {len(sensors)} sensors the features come from (by chance "
    f"{number(1 / len(sensors))}). CKA: linear centred kernel alignment of two sensors, from 0 to 1."
  ]
  out = [table("What the features hold", header, rows, notes)]
  if factors := [name for name in observed if (name, kinds[0], sensors[0]) in found[0]]:
    header = ["factor", "observed by", *(f"{kind}, {m}" for kind in kinds for m in sensors)]
    rows = [[f, _who(observed[f]), *(cell(f, k, m) for k in kinds for m in sensors)] for f in factors]
    notes = ["R² of a linear probe. 0: not better than the mean. The factors are those of the simulation."]
    out.append(table("True factors in the features", header, rows, notes))
  if said := _sentences(found, sensors, {name: observed[name] for name in factors}):
    out.append(
      table("Do the features hold what they should?", ["sentence", "figures", "verdict"], said, [VERDICT])
    )
  return out


VERDICT = (
  "Supported or contradicted: the difference has this sign in every run that was measured. Otherwise "
  "undecided. This is no test of significance."
)


def _over_runs(values: Sequence[float]) -> str:
  known = np.array([v for v in values if v == v])
  if not len(known):
    return "-"
  return spread(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else None)


def _who(sensors: Sequence[str]) -> str:
  return " and ".join(sensors) or "none"


def _sentences(
  found: Sequence[Found], sensors: Sequence[str], observed: Mapping[str, Sequence[str]]
) -> list[list[str]]:
  """Each claim about the features, the two figures that decide it, and the verdict."""
  mean = lambda one, what, kind, names: np.mean([one.get((what, kind, m), np.nan) for m in names])
  target = lambda kind: lambda one: mean(one, "target", kind, sensors)
  get = lambda *key: lambda one: one.get(key, np.nan)
  both = [name for name, of in observed.items() if len(of) > 1]
  alone = [(name, of[0]) for name, of in observed.items() if len(of) == 1]

  def of_both(kind):
    return lambda one: np.mean([mean(one, name, kind, observed[name]) for name in both]) if both else np.nan

  def of_alone(*kinds):
    best = lambda one, name, m: max(one.get((name, kind, m), np.nan) for kind in kinds)
    return lambda one: np.mean([best(one, name, m) for name, m in alone]) if alone else np.nan

  claims: list[tuple[str, Callable, Callable]] = [
    (
      "Shared features of two sensors are more similar than specific ones",
      get("cka", "shared"),
      get("cka", "specific"),
    ),
    (
      "Specific features tell the sensor better than shared ones",
      get("sensor", "specific"),
      get("sensor", "shared"),
    ),
    ("Specific features tell the target better than unused ones", target("specific"), target("unused")),
    ("Shared features tell the target better than unused ones", target("shared"), target("unused")),
    (
      "Factors that several sensors observe are rather in shared than in specific features",
      of_both("shared"),
      of_both("specific"),
    ),
    (
      "Factors that one sensor observes are rather in its specific or unused than in its shared features",
      of_alone("specific", "unused"),
      of_alone("shared"),
    ),
  ]
  out = []
  for sentence, first, second in claims:
    pairs = [(float(first(one)), float(second(one))) for one in found]
    pairs = [pair for pair in pairs if np.isfinite(pair).all()]
    if pairs:
      a, b = np.mean(pairs, axis=0)
      signs = {bool(x > y) for x, y in pairs}
      verdict = "undecided" if len(signs) > 1 else "supported" if signs == {True} else "contradicted"
      out.append([sentence, f"{number(a)} against {number(b)}", verdict])
  return out
