"""LFMC: live fuel moisture in the western United States from Sentinel-1 and optical series, 10 folds.

    python -m colearn_jax.main --config=configs/lfmc.py --workdir=runs/lfmc --config.data.manual_dir=DIR

where DIR holds training_features.csv; without it the file is downloaded. As it stands it is the paper's form;
`configs/lfmc.py:released` is the authors' program, `:individual` trains with the main loss alone, and
`:clean` keeps the folds' sites apart and stops the training on a validation part of its own.

Expect R² of about 0.24 (Sentinel-1) and 0.45 (Landsat-8) in the paper's protocol, 0.23 and 0.41 with the main
loss alone, 0.14 and 0.30 with `:clean`; 10 trainings of about 40 epochs, 8 minutes on two busy cores.
"""

from __future__ import annotations

from colearn_jax.configs import common
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
  """The configuration, see `common.options` for the string."""
  on, encoder = common.options(arg, ("released", "individual", "clean"))
  config = common.defaults(encoder)
  config.data.name = "lfmc"
  config.data.modalities = ("S1_S1Ind", "S2_S2Ind")
  config.model.encoder.use_norm = "layer"
  config.checkpoint.every_epochs = 10  # an epoch takes half a second, a checkpoint a fifth of one
  if "released" in on:
    config.loss.variant = "released"
  if "individual" in on:
    config.method = "individual"
  if "clean" in on:
    config.protocol.name = "clean"
    config.protocol.group_by = "site"
  return config
