"""LFMC with a recipe for the most accurate models of one sensor. Beside it stands `lfmc`, the paper's.

    python -m colearn_jax.main --config=lfmc_best --workdir=runs/best --config.data.manual_dir=DIR

What differs from `lfmc`, and why:

- Encoder `kernel`: a Matérn kernel at 2048 training samples, on values that are normalised by their
  quantiles. Networks whose layers are trained overfit on the 2 300 samples of 135 sites. The kernel is rough
  (ν = 1/2), and its distance is learnt once from the gradients of the heads.
- Heads that are linear in these features, in closed form (`train.ridge`), without any epoch: a model of one
  sensor is the posterior mean of a Gaussian process.
- Method `distill`: a teacher of trees reads both sensors, the date, the place and the static layers, and
  predicts each site from the others. The students learn its predictions beside the measurements, with three
  times their weight. Each of them reads one sensor alone.
- `individual`, the same recipe without a teacher, gives each site a random intercept (`train.group_effect`),
  which is left out of the model: else the model learns what is peculiar to the training sites. The teacher's
  predictions have no such part, for each site is predicted from the others. Nor does an intercept change
  anything where the place is known.
- Nothing is chosen by held-out samples, so no validation part is held out: all sites outside of the fold
  train.

Words: `individual` is without the teacher, so without the other sensors. `date` reads the day of the year
beside the sensor, `everything` also the time, the place and the static layers. A part of its kernel is of
place and time alone, so that it also reads measurements nearby. Folds are by site. `year` holds out years,
with three months around them, and reads no time; `plain` holds out single samples, and then measures how well
a site is recognised (docs/guides/training.md).
"""

from __future__ import annotations

from colearn_jax.configs import lfmc, preset
from ml_collections import ConfigDict

STATIC = ("soil", "DEM", "LIDAR", "landcover")
# Heads in closed form on a kernel at training samples; no epochs, and no validation part.
CLOSED_FORM = {
  "data.normalisation": "quantile",
  "protocol.name": "clean",
  "protocol.validation_fraction": 0.0,
  "model.encoder.landmarks": 2048,
  "model.encoder.smoothness": 0.5,
  "model.encoder.metric_rounds": 1,
  "model.encoder.layer_sizes": (),
  "model.emb_dim": 2048,
  "model.projection": False,
  "model.standardised": True,
  "train.batch_size": 128,
  "train.ridge": 0.5,
  "train.max_epochs": 0,
  "train.patience": 0,
  "train.keep": "last",
  "baseline": False,
}


def get_config(words: str = "") -> ConfigDict:
  """The configuration; `preset` describes the words."""
  config = preset(
    words,
    CLOSED_FORM
    | {"data.name": "lfmc", "data.modalities": ("S1_S1Ind", "S2_S2Ind"), "protocol.group_by": "site"},
    encoder="kernel",
    method="distill",
    loss={
      "distillation": 3.0,
      "learners": ("trees",),
      "teacher_context": ("date", "location", *STATIC),
      "trees": 100,
      "tree_leaf": 4,
    },
    date={"data.context": ("date",), "model.encoder.context_lengthscale": 0.7},
    everything={
      "data.context": ("date", "location", "time", *STATIC),
      "data.fourier": 4,
      "model.encoder.lengthscale": 3.0,
      "model.encoder.context_lengthscale": 1.0,
      "model.encoder.context_share": 0.3,
    },
    plain={"protocol.group_by": "", "train.ridge": 0.1},
    year=lfmc.YEAR,
  )
  if config.protocol.group_by == "year":  # of a year that is held out, the time says nothing
    config.data.context = tuple(name for name in config.data.context if name != "time")
  placed = "location" in config.data.context
  if config.method == "individual" and config.protocol.group_by == "site" and not placed:
    config.train.group_effect, config.train.group_effect_of = 0.05, "site"
  return config
