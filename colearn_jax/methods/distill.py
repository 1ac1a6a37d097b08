"""Distillation from extremely randomised trees on all sensors to a model of each sensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from colearn_jax.methods.base import Samples, mean_over_sensors, over_members, summed
from colearn_jax.methods.individual import Individual
from colearn_jax.methods.tabular import imputed, tabulated
from colearn_jax.objectives.distillation import distillation
from colearn_jax.parallel.cores import usable_cores
from colearn_jax.rules import POSITIVE, WEIGHT, integer, setting
from colearn_jax.types import InputError, Task


@dataclasses.dataclass(frozen=True)
class TreeDistillation(Individual):
  """L = w_main (1/M) Σ_m ℓ(ŷ_m, y) + w_dist (1/M) Σ_m D(t ‖ ŷ_m), the students being those of `individual`.

  The teacher t is made of ExtraTrees that read all sensors (Geurts et al. 2006, Machine Learning 63). Its
  output for a sample comes from trees that were not fitted on it: the training part is cut into folds, which
  keep groups together, and the trees for a fold are fitted on the other folds. Rows outside of the training
  part have no teacher, so the validation objective is L_main. D is `objectives.distillation`.
  """

  distillation: float = setting(1.0, WEIGHT, "Weight of L_dist, the distance of each sensor from the trees.")
  temperature: float = setting(
    1.0, POSITIVE, "Temperature T of the trees' and the students' probabilities; unused for a regression."
  )
  trees: int = setting(200, integer(1), "Trees in each forest.")
  tree_folds: int = setting(5, integer(2), "Folds of the training part for predictions out of fold.")

  terms = ("main", "distillation")

  @property
  def uses_unlabelled(self):
    """See `Method`."""
    return self.distillation > 0

  def arrays(self, train, samples, seed):
    """See `Method`; `trees` `[N C]` is the teacher's output before the activation, NaN outside of `train`."""
    if self.distillation == 0:
      return {}
    return {"trees": out_of_fold(samples, train, folds=self.tree_folds, trees=self.trees, seed=seed)}

  def loss(self, outputs, batch, values):
    """See `Method`."""
    rows = {m: batch.present[m] * batch.labelled for m in outputs}
    parts = {"main": {m: values.task_loss(y, batch.target, rows[m]) for m, y in outputs.items()}}
    totals = {"main": values.weights["main"] * mean_over_sensors(parts["main"], rows)}
    if "distillation" in values.weights:
      teacher = values.arrays["trees"][batch.row]
      known = jnp.isfinite(teacher).all(-1)
      rows = {m: jnp.where(known, batch.present[m], 0.0) for m in outputs}
      rest = lambda m: (teacher, values.constants, rows[m], self.temperature)
      distance = lambda m: over_members(lambda y: distillation(values.task.kind, y, *rest(m)), outputs[m])
      parts["distillation"] = {m: distance(m) for m in outputs}
      totals["distillation"] = values.weights["distillation"] * mean_over_sensors(parts["distillation"], rows)
    return summed(parts, totals)


def out_of_fold(samples: Samples, train: np.ndarray, *, folds: int, trees: int, seed: int) -> np.ndarray:
  """What ExtraTrees predict for the rows of `train`, each from trees of the other folds.

  Args:
    samples: of the data set.
    train: rows of the training part, with or without a label.
    folds: number of folds; groups are not divided.
    trees: in the forest of each fold.
    seed: of folds and trees.

  Returns:
    `[N C]` float32: targets in their unit, or the logarithms (for several labels the logits) of
    probabilities, smoothed as if one more tree found all classes equally likely. NaN outside of `train`.

  Raises:
    InputError: too few samples or groups for the folds, or a fold leaves no labelled sample.
  """
  groups = None if samples.groups is None else samples.groups[train]
  units, unit = (len(train), "samples") if groups is None else (len(np.unique(groups)), "groups")
  if folds > units:
    raise InputError(
      f"loss.tree_folds: {folds} folds cannot be cut from the {units} {unit} of a training part"
    )
  out = np.full((len(samples.target), len(samples.task.outputs)), np.nan, np.float32)
  features = tabulated(samples, train)
  labelled = samples.labelled[train]
  for number, held in enumerate(_parts(len(train), groups, folds, seed)):
    fit = labelled & ~held
    if not fit.any():
      raise InputError(f"loss.tree_folds: no labelled sample outside of fold {number}; fewer folds")
    filled = imputed(features, fit)
    rows = samples.target[train[fit]]
    out[train[held]] = _predicted(samples.task, filled[fit], rows, filled[held], trees, seed)
  return out


def _parts(count: int, groups: np.ndarray | None, folds: int, seed: int) -> list[np.ndarray]:
  """Which of `count` rows are in each fold, `[count]` bool; with `groups` `[count]` none is divided."""
  units = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
  order = np.random.RandomState(seed).permutation(units.max() + 1)
  return [np.isin(units, part) for part in np.array_split(order, folds)]


def _predicted(
  task: Task, x: np.ndarray, y: np.ndarray, held: np.ndarray, trees: int, seed: int
) -> np.ndarray:
  """Fits a forest on `x` `[n F]` and `y`, and returns its outputs for `held` `[k F]`, `[k C]`."""
  from sklearn.ensemble import ExtraTreesRegressor  # slow to load

  options: Mapping[str, Any] = {"n_estimators": trees, "random_state": seed, "n_jobs": usable_cores()}
  if task.kind == "regression":
    forest = ExtraTreesRegressor(**options).fit(x, y[:, 0] if y.shape[1] == 1 else y)
    return forest.predict(held).reshape(len(held), -1)
  smoothed = lambda share, of: (share * trees + 1.0 / of) / (trees + 1.0)
  if task.kind == "multilabel":
    share = np.stack([_shares(options, x, label, held, 2)[:, 1] for label in y.T.astype(int)], axis=1)
    p = smoothed(share, 2)
    return np.log(p) - np.log1p(-p)
  return np.log(smoothed(_shares(options, x, y, held, len(task.outputs)), len(task.outputs)))


def _shares(
  options: Mapping[str, Any], x: np.ndarray, y: np.ndarray, held: np.ndarray, classes: int
) -> np.ndarray:
  """The mean probabilities of each class from the trees of a forest, `[k classes]`; 0 of an unseen class."""
  from sklearn.ensemble import ExtraTreesClassifier

  forest = ExtraTreesClassifier(**options).fit(x, y)
  out = np.zeros((len(held), classes))
  out[:, forest.classes_] = forest.predict_proba(held)
  return out
