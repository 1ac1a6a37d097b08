"""The recipe `lfmc_best` beside trees: sites and years left out, with and without context.

    python -m colearn_jax.study --config=lfmc_best --workdir=runs/study_best --config.data.manual_dir=DIR

DIR contains training_features.csv. `individual` is the recipe of `colearned` without a teacher, so without
the other sensors. The trees are tuned on validation parts, and fitted again on all training samples. The kind
of kernel and its width were compared on the folds by site of seeds 10 and 11; the number of landmarks, the
ridge, the widths for a context and the weight of the teacher on those of seed 77.
"""

from __future__ import annotations

from collections.abc import Mapping

from colearn_jax.plan import Arm, Cell, Comparison, Study

TUNED = {"protocol.validation_fraction": 0.1}  # trees choose their settings on a validation part
CONTEXT = Arm("context", "Context alone", "context", values=TUNED)
ARMS = (
  Arm("trees", "Trees", "trees", values=TUNED),
  Arm("individual", "Individual", words="individual"),
  Arm("colearned", "Co-learned"),
)


def cell(name: str, title: str, words: str, values: Mapping[str, object]) -> Cell:
  """A cell with all arms, and with the context alone if the cell has a context."""
  has_context = "date" in words or "everything" in words
  return Cell(name, title, f"lfmc_best:{words}", (CONTEXT, *ARMS) if has_context else ARMS, values)


def get_study(words: str = "") -> Study:
  """The plan, with as many seeds as `words` says, 5 without: seeds 10, 11, and so on."""
  values = {"protocol.seeds": tuple(range(10, 10 + int(words or 5)))}
  cells = (
    cell("site/bands", "By site, bands", "", values),
    cell("year/bands", "By year, bands", "year", values),
    cell("site/date", "By site, bands and date", "date", values),
    cell("year/date", "By year, bands and date", "year,date", values),
    cell("site/everything", "By site, bands, date, place and static layers", "everything", values),
    cell("plain/bands", "Plain folds, bands", "plain", values),
  )
  comparisons = [
    Comparison(one.name, "colearned", other) for one in cells for other in ("individual", "trees")
  ]
  comparisons.append(Comparison("site/everything", "colearned", "context"))
  return Study("lfmc_best", cells, tuple(comparisons))
