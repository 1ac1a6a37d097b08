"""The comparison on LFMC: sites and years left out, with and without context, and plain folds.

    python -m colearn_jax.study --config=lfmc --workdir=runs/study_lfmc --config.data.manual_dir=DIR

DIR contains training_features.csv. Without data.manual_dir, the file is downloaded. There are 10 folds (4 by
year) and 5 seeds. All arms hold out a validation part of the training samples: whole sites or years where
folds are by site or by year.
"""

from __future__ import annotations

from collections.abc import Mapping

from colearn_jax.plan import Arm, Cell, Comparison, Study

NETWORK = "lfmc:clean"
SEEDS = {"protocol.seeds": (10, 11, 12, 13, 14), "protocol.folds": 10}
BY_SITE = SEEDS | {"protocol.group_by": "site"}
# Each of the years 2015 to 2018 is left out, with three months before and after it.
BY_YEAR = SEEDS | {
  "protocol.group_by": "year",
  "protocol.folds": "each",
  "protocol.purge": 93,
  "protocol.min_samples": 100,
}
PLAIN = SEEDS | {"protocol.group_by": ""}
DATE = {"data.context": ("date",)}
EVERYTHING = {"data.context": ("date", "location", "soil", "DEM", "LIDAR", "landcover")}

CONTEXT = Arm("context", "Context alone", "context")
ARMS = (
  Arm("trees", "Trees", "trees"),
  Arm("individual", "Individual", words="individual"),
  Arm("mdico", "MDiCo"),
)


def cell(name: str, title: str, values: Mapping[str, object]) -> Cell:
  """A cell with all arms, and with the context alone if the cell has a context."""
  return Cell(name, title, NETWORK, (CONTEXT, *ARMS) if "data.context" in values else ARMS, values)


def get_study() -> Study:
  """The plan."""
  cells = (
    cell("site/bands", "By site, bands", BY_SITE),
    cell("site/date", "By site, bands and date", BY_SITE | DATE),
    cell("site/all", "By site, bands, date, place and static layers", BY_SITE | EVERYTHING),
    cell("year/bands", "By year, bands", BY_YEAR),
    cell("year/date", "By year, bands and date", BY_YEAR | DATE),
    cell("plain/bands", "Plain folds, bands", PLAIN),
  )
  comparisons = [Comparison(one.name, "mdico", other) for one in cells for other in ("individual", "trees")]
  comparisons.append(Comparison("site/all", "mdico", "context"))
  return Study("lfmc", cells, tuple(comparisons))
