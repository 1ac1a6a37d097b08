"""The section about the features of an arm: probes, similarity, and plots of two dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from colearn_jax.reporting import charts, chosen, features, probes
from colearn_jax.reporting.document import Figure, Section
from colearn_jax.reporting.features import Frozen
from colearn_jax.reporting.samples import Data, open_data
from colearn_jax.reporting.study import Arm
from colearn_jax.types import CONTEXT, InputError

RUNS = 3  # of the first seed, that are measured
POINTS = 600  # samples in a plot


def sections(plt: Any, arm: Arm) -> list[Section]:
  """What the features of an arm hold; nothing if its method has no shared features, or no model is kept."""
  if arm.ablation or arm.kind != "network":
    return []
  if (choice := chosen.content(arm)) is not None and choice["per"] == "run":
    text = "Not measured: every run has chosen settings of its own."
    return [Section(f"{arm.title}: features", (text,))]
  try:
    data = open_data(arm)  # its own configuration and runs
  except (InputError, OSError, KeyError):
    return []
  sensors = [m.name for m in data.modalities if m.name != CONTEXT]
  runs = [run for run in data.runs if run.seed == data.runs[0].seed][:RUNS]
  frozen: list[Frozen] = []
  for run in runs:
    if (one := features.read(arm, data, run)) is None:
      return []
    frozen.append(one)
  task, target = data.dataset.task, data.index.target
  found = [probes.measure(one, task, target, data.latents) for one in frozen]
  views = {m.name: m.views for m in data.modalities}
  observed = {
    name: tuple(m for m in sensors if set(views[m]) & set(of)) for name, of in data.described_latents.items()
  }
  tables = probes.tables(found, task, sensors, observed)
  drawn = tuple(_figures(plt, frozen[0], data)) if plt is not None else ()
  text = f"Features of the kept models of {', '.join(one.run.name for one in frozen)}, not trained further."
  plots = Section(f"{arm.title}: features in two dimensions", figures=drawn, folded=True)
  title = f"{arm.title}: features"
  return [Section(title, (text,), tuple(tables)), *([plots] if drawn else [])]


def _figures(plt: Any, frozen: Frozen, data: Data) -> Iterator[Figure]:
  """The first two principal components of the test part, by sensor and by target."""
  task = data.dataset.task
  pick = np.linspace(0, len(frozen.test) - 1, min(POINTS, len(frozen.test))).astype(int)
  target = data.index.target[frozen.test[pick]]
  if task.one_class:
    labels, order = np.array(task.outputs, object)[target], list(task.outputs)
  elif task.kind == "multilabel":
    names = np.array([*task.outputs, "none"], object)
    labels = names[np.where(target.any(1), target.argmax(1), len(task.outputs))]
    order = [name for name in names if (labels == name).any()]
  else:
    labels, order = target[:, 0], []
  for kind, of in frozen.of_test.items():
    stacked = np.concatenate([own[pick] for own in of.values()])
    model = PCA(2).fit(stacked)
    points, shares = model.transform(stacked), model.explained_variance_ratio_
    sensors = np.repeat(np.array(list(of), object), len(pick))
    what = f"{kind} features, test part of {frozen.run.name}, two principal components"
    what += f" ({shares.sum():.0%} of the variance)"
    yield charts.embedding(plt, points, sensors, list(of), f"{kind}, by sensor", f"By sensor: {what}")
    by = "class" if order else task.outputs[0]
    every = np.tile(labels, len(of))
    yield charts.embedding(plt, points, every, order, f"{kind}, by {by}", f"By {by}: {what}")
