"""LFMC: live fuel moisture in the western United States from Sentinel-1 and Landsat-8 time series, 10 folds.

    python -m colearn_jax.main --config=lfmc --workdir=runs/lfmc --config.data.manual_dir=DIR

DIR contains training_features.csv. Without data.manual_dir, the file is downloaded. The default is the method
of the paper. `lfmc:released` is the variant of the authors' program. `:individual` trains each sensor alone.
`:clean` keeps the samples of a site in one fold, and uses a validation part for early stopping. `:year` holds
out each of the years 2015 to 2018 in turn. The three months before and after it are left out of training.

Expect an R² of about 0.24 (Sentinel-1) and 0.45 (Landsat-8) with the default, 0.23 and 0.41 with
`:individual`, 0.14 and 0.30 with `:clean`. The 10 runs of about 40 epochs take 8 minutes on two busy cores.
"""

from __future__ import annotations

from colearn_jax.configs import preset
from ml_collections import ConfigDict

YEAR = {
  "protocol.name": "clean",
  "protocol.group_by": "year",
  "protocol.folds": "each",
  "protocol.purge": 93,  # three months: a series has four
  "protocol.min_samples": 100,  # 2019 has only 26, all of January
}


def get_config(words: str = "") -> ConfigDict:
  """The configuration; `preset` describes the words."""
  return preset(
    words,
    {
      "data.name": "lfmc",
      "data.modalities": ("S1_S1Ind", "S2_S2Ind"),
      "model.encoder.use_norm": "layer",
      "checkpoint.every_epochs": 10,  # an epoch takes only half a second
    },
    clean={"protocol.name": "clean", "protocol.group_by": "site"},
    year=YEAR,
  )
