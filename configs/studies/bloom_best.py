"""The recipe `cropharvest_best` beside trees, on algal bloom severity; 5 folds and 5 seeds.

    python -m colearn_jax.study --config=bloom_best --workdir=runs/bloom_best --config.data.manual_dir=DIR

DIR is that of the study `bloom`. `individual` is the recipe without a teacher, so without the other sensors.
The trees are tuned on validation parts, and fitted again on all training samples. The settings of the recipe
are those of `lfmc_best`; the weight of the teacher was set by the folds of seed 77.
"""

from __future__ import annotations

from colearn_jax.plan import Arm, Cell, Comparison, Study

PROTOCOL = {"protocol.folds": 5, "protocol.seeds": (10, 11, 12, 13, 14)}
ARMS = (
  Arm("trees", "Trees", "trees", values={"protocol.validation_fraction": 0.1}),
  Arm("individual", "Individual", words="individual"),
  Arm("colearned", "Co-learned"),
)


def get_study() -> Study:
  """The plan."""
  cells = (
    Cell("binary", "Bloom, binary", "cropharvest_best:binary", ARMS, PROTOCOL),
    Cell("multi", "Bloom, five classes", "cropharvest_best:multi", ARMS, PROTOCOL),
  )
  others = ("individual", "trees")
  return Study("bloom_best", cells, tuple(Comparison(c.name, "colearned", o) for c in cells for o in others))
