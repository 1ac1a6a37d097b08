"""The comparison on algal bloom severity, 1122 real series in the file layout of CropHarvest.

    python -m colearn_jax.study --config=bloom --workdir=runs/study_bloom --config.data.manual_dir=DIR

DIR contains labels.geojson and features/arrays from the tests of NASA Harvest's Presto repository. There are
5 folds and 5 seeds. All arms hold out a validation part of the training samples.
"""

from __future__ import annotations

from colearn_jax.plan import Arm, Cell, Comparison, Study

PROTOCOL = {"protocol.name": "clean", "protocol.folds": 5, "protocol.seeds": (10, 11, 12, 13, 14)}
ARMS = (
  Arm("trees", "Trees", "trees"),
  Arm("individual", "Individual", words="individual"),
  Arm("mdico", "MDiCo"),
)


def get_study() -> Study:
  """The plan."""
  cells = (
    Cell("binary", "Bloom, binary", "cropharvest:binary", ARMS, PROTOCOL),
    Cell("multi", "Bloom, five classes", "cropharvest:multi", ARMS, PROTOCOL),
  )
  compared = [Comparison(one.name, "mdico", other) for one in cells for other in ("individual", "trees")]
  return Study("bloom", cells, tuple(compared))
