"""Whether pretrained encoders pay: Presto frozen, fine-tuned and co-learned, beside TempCNN and trees.

    python -m colearn_jax.study --config=pretrained:lfmc,WEIGHTS --workdir=RUN --config.data.manual_dir=DIR
    python -m colearn_jax.study --config=pretrained:bloom,WEIGHTS --workdir=RUN --config.data.manual_dir=DIR

WEIGHTS is Presto's file, default_model.pt. DIR is that of the studies lfmc and bloom. Folds of LFMC are by
site. Each data set has three cells: bands; also the month; also the place. With the month, all arms read the
date, and Presto the months of the steps too. All arms hold out a validation part of the training samples for
early stopping, or to choose the ridge of heads in closed form by. There are 5 folds and one seed.
`--only='*/trees*','*/solved*'` leaves out what is trained in epochs, which takes hours on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping

from colearn_jax.plan import Arm, Cell, Choice, Comparison, Study, Trees
from colearn_jax.types import InputError

GRID = {"extra_trees": {"n_estimators": (100,), "min_samples_leaf": (2, 10)}}
FOLDS = {"protocol.name": "clean", "protocol.folds": 5, "protocol.seeds": (10,)}
LFMC = ("lfmc:clean", {"data.modalities": ("S1", "S2_S2Ind"), "protocol.group_by": "site"})
BLOOM = {"data.modalities": ("S1", "S2_S2NDVI", "weather")}
# By name the data set's cells: title, preset and values.
DATA: dict[str, dict[str, tuple[str, str, Mapping]]] = {
  "lfmc": {"site": ("LFMC by site", *LFMC)},
  "bloom": {
    "binary": ("Bloom, binary", "cropharvest:binary", BLOOM),
    "multi": ("Bloom, five classes", "cropharvest:multi", BLOOM),
  },
}
KNOWN: dict[str, tuple[str, Mapping]] = {
  "bands": ("bands", {}),
  "month": ("bands and month", {"data.context": ("date",)}),
  "place": ("bands, month and place", {"data.context": ("date", "location")}),
}
NOT_KNOWN = ("ndwi", "nirv", "B9")  # bands that Presto does not know
BUDGET = {
  "model.standardised": True,
  "train.max_epochs": 20,
  "train.batch_size": 64,
  "train.patience": 4,
  "train.min_delta": 0.0,
}
FROZEN = {"train.rates": {"backbone": 0.0}, "train.learning_rate": 3e-3}
TUNED = {
  "train.rates": {"backbone": 0.1},
  "train.learning_rate": 3e-3,
  "train.warmup": 2.0,
  "train.layer_decay": 0.75,
}
ONE = {"loss.backbones": "one"}
# A frozen encoder with linear heads in closed form.
SOLVED = {
  "model.standardised": True,
  "model.projection": False,
  "model.emb_dim": 128,  # Presto's
  "train.max_epochs": 0,
  "train.patience": 0,
  "train.keep": "last",
  "train.batch_size": 128,
}
RIDGE = Choice({"train.ridge": (0.01, 0.1, 1.0)}, per="run")
# A teacher that reads all sensors, the date and the place.
TAUGHT = {
  "loss.distillation": 3.0,
  "loss.learners": ("trees",),
  "loss.teacher_context": ("date", "location"),
  "loss.trees": 100,
  "loss.tree_leaf": 4,
}


def arms(weights: str, months: bool) -> tuple[Arm, ...]:
  """What is compared in a cell."""
  presto = {
    "model.encoder.weights": weights,
    "model.encoder.use_months": months,
    "model.encoder.leave_out": NOT_KNOWN,
  }
  words = "encoder=presto"
  read = lambda *inputs: Trees(GRID, inputs=inputs)
  return (
    Arm("trees", "Trees on bands", "trees", trees=read("bands")),
    Arm("trees_embedding", "Trees on embedding", "trees", "", words, presto, trees=read("embedding")),
    Arm("trees_both", "Trees on both", "trees", "", words, presto, trees=read("bands", "embedding")),
    Arm("tempcnn", "TempCNN alone", words="individual", values=BUDGET),
    Arm(
      "solved",
      "Presto frozen, closed form",
      words=f"individual,{words}",
      values=presto | SOLVED,
      choose=RIDGE,
    ),
    Arm(
      "solved_taught",
      "Presto frozen, closed form, co-learned",
      words=f"method=distill,{words}",
      values=presto | SOLVED | TAUGHT,
      choose=RIDGE,
    ),
    Arm("frozen", "Presto frozen, alone", words=f"individual,{words}", values=presto | BUDGET | FROZEN),
    Arm("tuned", "Presto tuned, alone", words=f"individual,{words}", values=presto | BUDGET | TUNED),
    Arm("tuned_mdico", "Presto tuned, MDiCo", words=words, values=presto | BUDGET | TUNED | ONE),
  )


def get_study(words: str = "") -> Study:
  """The plan for a data set and a file of weights: `lfmc,WEIGHTS` or `bloom,WEIGHTS`."""
  data, _, weights = words.partition(",")
  if data not in DATA or not weights:
    raise InputError(f"words are missing: pretrained:DATA,WEIGHTS, with DATA one of {', '.join(DATA)}")
  cells = tuple(
    Cell(
      f"{name}/{known}", f"{title}, {what}", config, arms(weights, known != "bands"), {**FOLDS, **own, **more}
    )
    for name, (title, config, own) in DATA[data].items()
    for known, (what, more) in KNOWN.items()
  )
  pairs = (
    ("solved_taught", "solved"),
    ("solved_taught", "trees"),
    ("tuned_mdico", "tuned"),
    ("tuned_mdico", "tempcnn"),
    ("tuned_mdico", "trees"),
  )
  compared = [Comparison(cell.name, one, other) for cell in cells for one, other in pairs]
  compared += [Comparison(cell.name, "trees_both", "trees") for cell in cells]
  return Study(f"pretrained_{data}", cells, tuple(compared))
