"""LFMC: live fuel moisture in the western United States from Sentinel-1 and optical series, 10 folds.

    python -m colearn_jax.main --config=configs/lfmc.py --workdir=runs/lfmc --config.data.manual_dir=DIR

DIR holds training_features.csv; without DIR the file is downloaded. The default is the method of the paper.
`lfmc:released` is the variant of the authors' program, `:individual` trains each sensor alone, and `:clean`
keeps the samples of a site in one fold and stops the training on a validation part.

Expect R² of about 0.24 (Sentinel-1) and 0.45 (Landsat-8) in the paper's protocol, 0.23 and 0.41 with
`:individual`, 0.14 and 0.30 with `:clean`. There are 10 trainings of about 40 epochs; they take 8 minutes on
two busy cores.
"""

from __future__ import annotations

from colearn_jax.configs import preset
from ml_collections import ConfigDict


def get_config(words: str = "") -> ConfigDict:
  """The configuration; `preset` describes the words."""
  return preset(
    words,
    {
      "data.name": "lfmc",
      "data.modalities": ("S1_S1Ind", "S2_S2Ind"),
      "model.encoder.use_norm": "layer",
      "checkpoint.every_epochs": 10,  # an epoch takes half a second, a checkpoint a fifth of one
    },
    clean={"protocol.name": "clean", "protocol.group_by": "site"},
  )
