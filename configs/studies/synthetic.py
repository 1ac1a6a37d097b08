"""A small study on the simulated fields, to see what a study does. Nothing has to be downloaded.

    python -m colearn_jax.study --config=synthetic --workdir=runs/study

Regions are never divided between folds.
"""

from __future__ import annotations

from colearn_jax.plan import Arm, Cell, Comparison, Study, Trees

PROTOCOL = {"protocol.split": "kfold", "protocol.folds": 5, "protocol.group_by": "region"}
SHORT = {"train.max_epochs": 8, "model.encoder.layer_size": 32}
GRID = {
  "extra_trees": {"n_estimators": (100,), "min_samples_leaf": (2, 5)},
  "boosting": {"max_iter": (30,), "learning_rate": (0.1,), "max_leaf_nodes": (8,)},
}
TREES = Arm("trees", "Trees", "trees", trees=Trees(GRID))
CONTEXT = Arm("context", "Context alone", "context", trees=Trees(GRID))
INDIVIDUAL = Arm("individual", "Individual", words="individual", values=SHORT)
MDICO = Arm("mdico", "MDiCo", values=SHORT)


def get_study() -> Study:
  """The plan."""
  bands = Cell("bands", "Bands", "synthetic", (TREES, INDIVIDUAL, MDICO), PROTOCOL)
  terrain = Cell(
    "bands+terrain",
    "Bands and terrain",
    "synthetic",
    (CONTEXT, TREES, INDIVIDUAL, MDICO),
    PROTOCOL | {"data.context": ("terrain",)},
  )
  cells = (bands, terrain)
  return Study("synthetic", cells, tuple(Comparison(cell.name, "mdico", "individual") for cell in cells))
