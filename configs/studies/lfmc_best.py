"""The recipe `lfmc_best` beside trees: sites and years left out, with and without context.

    python -m colearn_jax.study --config=lfmc_best --workdir=runs/study_best --config.data.manual_dir=DIR

DIR contains training_features.csv. `individual` is the recipe of `colearned` without a teacher, so without
the other sensors. The trees are tuned on validation parts, and fitted again on all training samples.

By site, the settings are those of the preset, which were compared on the folds of seeds 10, 11 (kind and
width of the kernel) and 77 (all others). By year, every seed has the same folds, so each run chooses by a
validation part of its own, one of its training years: both arms try four settings, and are trained again on
all training years.
"""

from __future__ import annotations

import dataclasses

from colearn_jax.plan import Arm, Cell, Choice, Comparison, Study

TUNED = {"protocol.validation_fraction": 0.1}  # trees choose their settings on a validation part
CONTEXT = Arm("context", "Context alone", "context", values=TUNED)
ARMS = (
  Arm("trees", "Trees", "trees", values=TUNED),
  Arm("individual", "Individual", words="individual"),
  Arm("colearned", "Co-learned"),
)
# By year the networks choose as well.
CHOICES = {
  "individual": Choice({"train.ridge": (0.1, 0.25, 0.5, 1.0)}, per="run", validation_fraction=0.1),
  "colearned": Choice(
    {"train.ridge": (0.25, 0.5), "loss.distillation": (0.5, 3.0)}, per="run", validation_fraction=0.1
  ),
}
NESTED = tuple(dataclasses.replace(arm, choose=CHOICES.get(arm.name)) for arm in ARMS)


def cell(name: str, title: str, words: str, seeds: int) -> Cell:
  """A cell with all arms, and with the context alone if the cell has a context."""
  arms = NESTED if "year" in words else ARMS
  if "date" in words or "everything" in words:
    arms = (CONTEXT, *arms)
  return Cell(name, title, f"lfmc_best:{words}", arms, {"protocol.seeds": tuple(range(10, 10 + seeds))})


def get_study(words: str = "") -> Study:
  """The plan, with as many seeds as `words` says, 5 without: seeds 10, 11, and so on."""
  seeds = int(words or 5)
  of_years = min(seeds, 2)  # every seed has the same folds
  cells = (
    cell("site/bands", "By site, bands", "", seeds),
    cell("year/bands", "By year, bands", "year", of_years),
    cell("site/date", "By site, bands and date", "date", seeds),
    cell("year/date", "By year, bands and date", "year,date", of_years),
    cell("site/everything", "By site, bands, date, place and static layers", "everything", seeds),
    cell("plain/bands", "Plain folds, bands", "plain", seeds),
  )
  comparisons = [
    Comparison(one.name, "colearned", other) for one in cells for other in ("individual", "trees")
  ]
  comparisons.append(Comparison("site/everything", "colearned", "context"))
  return Study("lfmc_best", cells, tuple(comparisons))
