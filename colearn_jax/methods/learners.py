"""Learners of scikit-learn on tables of numbers, to teach networks or to be compared with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from colearn_jax.methods.tabular import imputed
from colearn_jax.parallel.cores import usable_cores
from colearn_jax.types import Task

COMPONENTS = 500  # of the kernel's approximation for classes, at most
QUANTILES = 1000  # of a column, at most


@dataclasses.dataclass(frozen=True)
class Learner:
  """A learner of scikit-learn, with keyword arguments of its class.

  - `extra_trees`: ExtraTrees (Geurts et al. 2006, Machine Learning 63).
  - `boosting`: HistGradientBoosting (Ke et al. 2017, NeurIPS), without early stopping.
  - `svm`: a kernel machine with a radial kernel: SVR; for classes logistic regression on COMPONENTS features
    of the kernel (Nyström), which has probabilities and is fast on many samples. Columns are mapped to a
    normal distribution by their quantiles, and a regression's target is standardised.

  All constants, such as means of columns, come from the samples that it is fitted on.

  Attributes:
    name: one of `plan.LEARNERS`.
    settings: keyword arguments; of `svm` those of SVR or of LogisticRegression.
    balanced: whether classes are weighted inversely to their frequency.
  """

  name: str
  settings: Mapping[str, Any]
  balanced: bool = False

  def predict(self, task: Task, x: np.ndarray, y: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Fits on `x` `[n F]` and `y`, and predicts for `rows` `[k F]`: values or probabilities `[k C]`.

    Values that are not finite are missing.
    """
    if self.name == "extra_trees":
      both = imputed(np.concatenate([x, rows]), np.arange(len(x)))
      x, rows = both[: len(x)], both[len(x) :]
    elif self.name == "svm":
      x, rows = normal_scores(x, rows)
    else:
      x, rows = _known(x, rows, np.isfinite(x).any(0))
    if task.kind == "regression":
      columns = [self._values(x, column, rows, seed) for column in y.T]
    elif task.kind == "multilabel":
      columns = [self._probabilities(x, label.astype(int), rows, 2, seed)[:, 1] for label in y.T]
    else:
      return self._probabilities(x, y, rows, len(task.outputs), seed)
    return np.stack(columns, axis=1).astype(np.float32)

  def _values(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Predictions `[k]` of one target."""
    if self.name != "svm":
      return self._new("Regressor", seed).fit(x, y).predict(rows)
    mean, std = y.mean(dtype=np.float64), y.std(dtype=np.float64) or 1.0
    return mean + std * self._new("Regressor", seed).fit(x, (y - mean) / std).predict(rows)

  def _probabilities(
    self, x: np.ndarray, y: np.ndarray, rows: np.ndarray, classes: int, seed: int
  ) -> np.ndarray:
    """Probabilities `[k classes]`; 0 of a class that does not occur in `y`."""
    seen = np.unique(y)
    out = np.zeros((len(rows), classes), np.float32)
    if len(seen) == 1:  # gradient boosting needs two classes
      out[:, seen] = 1.0
      return out
    weights = {"class_weight": "balanced"} if self.balanced else {}
    if self.name == "svm":
      from sklearn.kernel_approximation import Nystroem

      gamma = 1.0 / (x.shape[1] * x.var()) if x.size and x.var() > 0 else 1.0  # as SVR's default
      kernel = Nystroem(gamma=gamma, n_components=min(COMPONENTS, len(x)), random_state=seed).fit(x)
      x, rows = kernel.transform(x), kernel.transform(rows)
    out[:, seen] = self._new("Classifier", seed, **weights).fit(x, y).predict_proba(rows)
    return out

  def _new(self, what: str, seed: int, **more: Any) -> Any:
    from sklearn import ensemble, linear_model, svm  # slow to load

    if self.name == "svm":
      regression = what == "Regressor"
      return svm.SVR(**self.settings) if regression else _logistic(linear_model, self.settings, more)
    if self.name == "extra_trees":
      own = getattr(ensemble, f"ExtraTrees{what}")
      return own(random_state=seed, n_jobs=usable_cores(), **self.settings, **more)
    own = getattr(ensemble, f"HistGradientBoosting{what}")
    return own(**({"early_stopping": False, "random_state": seed} | dict(self.settings)), **more)


def _logistic(linear_model: Any, settings: Mapping[str, Any], more: Mapping[str, Any]) -> Any:
  return linear_model.LogisticRegression(**({"max_iter": 1000} | dict(settings)), **more)


def normal_scores(x: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Columns mapped to a normal distribution by the quantiles of `x`; missing values become 0, the median.

  Args:
    x: `[n F]`, the values that quantiles are computed from.
    rows: `[k F]`, further values.

  Returns:
    Both, `[n G]` and `[k G]` float64. Columns with one value in `x`, or none, are left out. If that leaves
    none, there is a column of zeros.
  """
  from sklearn.preprocessing import QuantileTransformer

  seen = np.isfinite(x)
  least, most = (f(np.where(seen, x, fill), axis=0) for f, fill in ((np.min, np.inf), (np.max, -np.inf)))
  x, rows = _known(x.astype(np.float64), rows.astype(np.float64), least < most)
  quantiles = min(QUANTILES, len(x))
  scaling = QuantileTransformer(n_quantiles=quantiles, output_distribution="normal", subsample=None).fit(x)
  return np.nan_to_num(scaling.transform(x)), np.nan_to_num(scaling.transform(rows))


def _known(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """These columns, `[F]` bool, NaN where a value is not finite. A column of zeros if there are none."""
  if not columns.any():
    return np.zeros((len(x), 1)), np.zeros((len(rows), 1))
  known = lambda a: np.where(np.isfinite(a), a, np.nan)[:, columns]
  return known(x), known(rows)
