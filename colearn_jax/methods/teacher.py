"""Teachers: learners of scikit-learn that read more than a student, and predict out of fold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from colearn_jax.methods.base import Batch, Method, Reads, Samples, Values, mean_over_sensors, over_members
from colearn_jax.methods.learners import Learner
from colearn_jax.methods.tabular import tabulated
from colearn_jax.objectives.distillation import distillation
from colearn_jax.rules import ON, POSITIVE, TEXT, WEIGHT, Rule, each, integer, setting
from colearn_jax.types import InputError, Task

LEARNERS = ("trees", "boosting", "svm")
TAUGHT = {"loss.distillation": ON}  # needed by its settings
_learns = lambda *names: Rule(lambda v: not set(names).isdisjoint(v), f"one of: {', '.join(names)}")
BOOSTING = {"learning_rate": 0.05, "max_leaf_nodes": 15}
Parts = dict[str, dict[str, jax.Array]]
_names = lambda allowed: each(TEXT.ok, f"different names, as in {allowed}, or () for none")


@dataclasses.dataclass(frozen=True)
class Taught(Method):
  """Settings of a method whose students may learn from a teacher, in addition to the target or in its place.

  The teacher is the mean of `learners`. Its output for a sample comes from learners that were fitted on other
  folds of the training part. The folds keep together what the protocol keeps together: the groups of all its
  features (of several features a fold is a block, as in `data.splits`), and nothing within its purge or
  buffer of a held-out sample is used. Rows outside of the training part have no teacher.
  """

  distillation: float = setting(
    0.0, WEIGHT, "Weight of L_dist, the distance of each sensor from the teacher."
  )
  learners: tuple[str, ...] = setting(
    ("trees",),
    each(LEARNERS.__contains__, f"one or more of: {', '.join(LEARNERS)}", distinct=True),
    "Learners of the teacher, whose predictions or probabilities are averaged: ExtraTrees (trees), gradient "
    "boosting (boosting), a kernel machine (svm).",
    needs=TAUGHT,
  )
  teacher_sensors: tuple[str, ...] = setting(
    (),
    _names("S1,S2"),
    "Sensors that the teacher reads, also others of the data set. (): data.modalities.",
    needs=TAUGHT,
  )
  teacher_context: tuple[str, ...] = setting(
    (),
    _names("date,location"),
    "Date, location, time and static views that the teacher reads, in addition to data.context. The model "
    "does not read them.",
    needs=TAUGHT,
  )
  teacher_folds: int = setting(
    5,
    integer(2),
    "Folds of the training part for the teacher's predictions, at most one for each group. With several "
    "features in protocol.group_by, parts of each.",
    needs=TAUGHT,
  )
  teacher_temperature: float = setting(
    1.0,
    POSITIVE,
    "Temperature T of the teacher's and the students' probabilities.",
    needs={"loss.distillation": ON, "classes or labels": ON},
  )
  trees: int = setting(
    200,
    integer(1, most=100_000),
    "Trees of a forest, and steps of boosting.",
    needs={"loss.distillation": ON, "loss.learners": _learns("trees", "boosting")},
  )
  tree_leaf: int = setting(
    2,
    integer(1),
    "Smallest number of samples in a leaf of a forest.",
    needs={"loss.distillation": ON, "loss.learners": _learns("trees")},
  )

  @property
  def reads(self):
    """See `Method`."""
    return Reads(self.teacher_sensors, self.teacher_context) if self.distillation > 0 else None

  def arrays(self, train, samples, seed):
    """See `Method`; `teacher` `[N C]` is its output before the activation, NaN outside of `train`."""
    balanced = samples.balanced and samples.task.one_class
    forest = {"n_estimators": self.trees, "min_samples_leaf": self.tree_leaf}
    known: dict[str, tuple[str, Mapping[str, Any]]] = {
      "trees": ("extra_trees", forest),
      "boosting": ("boosting", {"max_iter": self.trees} | BOOSTING),
      "svm": ("svm", {}),
    }
    learners = [Learner(*known[name], balanced=balanced) for name in self.learners]
    return {"teacher": out_of_fold(samples, train, learners, folds=self.teacher_folds, seed=seed)}

  def taught(
    self, outputs: Mapping[str, jax.Array], batch: Batch, values: Values
  ) -> tuple[Parts, dict[str, jax.Array]]:
    """The parts and the weighted totals of the terms `main` and `distillation`, see `base.summed`.

    With weight 0 of `main`, the teacher stands in the place of the target. Rows without a teacher, such as
    those of the validation part, then still count by their target with weight 1, so that the validation
    objective is L_main. The logged parts of `main` are always over all rows with a label.

    Args:
      outputs: ŷ_m by sensor.
      batch: see `Method.loss`.
      values: see `Method.loss`.
    """
    labelled = {m: batch.present[m] * batch.labelled for m in outputs}
    task = lambda m, rows: values.task_loss(outputs[m], batch.target, rows[m])
    parts: Parts = {"main": {m: task(m, labelled) for m in outputs}}
    weight = values.weights.get("main", jnp.zeros(()))
    if "distillation" not in values.weights:
      return parts, {"main": weight * mean_over_sensors(parts["main"], labelled)}
    teacher = values.arrays["teacher"][batch.row]
    known = jnp.isfinite(teacher).all(-1) & (batch.row >= 0)
    counted = {m: jnp.where((weight == 0) & known, 0.0, labelled[m]) for m in outputs}
    main = mean_over_sensors({m: task(m, counted) for m in outputs}, counted)
    rows = {m: jnp.where(known, batch.present[m] * batch.weight, 0.0) for m in outputs}
    rest = lambda m: (teacher, values.constants, rows[m], self.teacher_temperature)
    distance = lambda m: over_members(lambda y: distillation(values.task.kind, y, *rest(m)), outputs[m])
    parts["distillation"] = {m: distance(m) for m in outputs}
    return parts, {
      "main": jnp.where(weight == 0, 1.0, weight) * main,
      "distillation": values.weights["distillation"] * mean_over_sensors(parts["distillation"], rows),
    }


def out_of_fold(
  samples: Samples, train: np.ndarray, learners: Sequence[Learner], *, folds: int, seed: int
) -> np.ndarray:
  """The mean of what learners predict for the rows of `train`, each fitted on other folds.

  Args:
    samples: of the data set.
    train: rows of the training part, with or without a label.
    learners: of the teacher.
    folds: see `Samples.folds`.
    seed: of folds and learners.

  Returns:
    `[N C]` float32: targets in their unit, or the logarithms (for several labels the logits) of
    probabilities. NaN outside of `train`.

  Raises:
    InputError: too few samples or groups for folds, or a fold leaves no labelled sample.
  """
  if samples.folds is None:
    raise ValueError("these samples cannot be cut into folds")
  task, size = samples.task, len(samples.target)
  own = tabulated(samples, train)  # nothing outside of the training part is read
  features = np.full((size, own.shape[1]), np.nan, np.float32)
  features[train] = own
  out = np.full((size, len(task.outputs)), np.nan, np.float32)
  for number, (others, held) in enumerate(samples.folds(train, folds, seed)):
    fit = others[samples.labelled[others]]
    if not len(fit):
      raise InputError(
        f"loss.teacher_folds: no labelled sample is left for fold {number} of {folds} of the training part; "
        "more folds"
      )
    target = samples.target[fit]
    predicted = [one.predict(task, features[fit], target, features[held], seed) for one in learners]
    out[held] = _before_activation(task, np.mean(predicted, axis=0), len(fit))
  return out


def _before_activation(task: Task, mean: np.ndarray, fitted: int) -> np.ndarray:
  """Logarithms or logits of probabilities `[k C]`, smoothed as if by one more sample of unknown class."""
  if task.kind == "regression":
    return mean
  smoothed = lambda p, classes: (p * fitted + 1.0 / classes) / (fitted + 1.0)
  if task.kind == "multilabel":
    p = smoothed(mean, 2)
    return np.log(p) - np.log1p(-p)
  return np.log(smoothed(mean, mean.shape[1]))
