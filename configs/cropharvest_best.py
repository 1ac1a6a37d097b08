"""CropHarvest with a recipe for the most accurate models of one sensor. Beside it stands `cropharvest`.

    python -m colearn_jax.main --config=cropharvest_best:binary --workdir=runs/best \
        --config.data.manual_dir=DIR

The recipe is that of `lfmc_best`, for classes: a Matérn kernel at 2048 training samples (ν = 3/2, with the
length scale as it is), linear heads that begin at the minimum of the objective (a kernel logistic
regression), no epochs and no validation part. The teacher of trees reads both sensors, the weather, the
terrain and the place.

Words: `binary` (crop or not) or `multi` (groups of crops). `individual` is the same recipe without a teacher,
so without the other sensors. `dataset` keeps the samples of each contributing data set in one fold.
"""

from __future__ import annotations

from colearn_jax.configs import lfmc_best, preset
from ml_collections import ConfigDict

from colearn_jax.types import InputError


def get_config(words: str = "") -> ConfigDict:
  """The configuration; `preset` describes the words."""
  config = preset(
    words,
    lfmc_best.CLOSED_FORM
    | {
      "data.modalities": ("S1", "S2_S2VI"),
      "model.encoder.smoothness": 1.5,
      "model.encoder.metric_rounds": 0,
      "train.ridge": 0.25,
    },
    encoder="kernel",
    method="distill",
    loss={
      "distillation": 1.0,
      "learners": ("trees",),
      "teacher_sensors": ("S1", "S2_S2VI", "weather"),
      "teacher_context": ("location", "DEM"),
      "trees": 200,
      "tree_leaf": 2,
    },
    binary={"data.name": "cropharvest/binary"},
    multi={"data.name": "cropharvest/multi"},
    dataset={"protocol.group_by": "dataset"},
  )
  if not config.data.name:
    raise InputError("a word is missing after the colon: binary or multi, as in cropharvest_best:multi")
  return config
