"""Simulated fields: crops from Sentinel-1 and Sentinel-2 with clouds; nothing to download, minutes to run.

    python -m colearn_jax.main --config=configs/synthetic.py --workdir=runs/synthetic

Expect macro F1 of about 0.73 (S1) and 0.76 (S2_S2VI), each beside the same sensor by itself (`:individual`
trains the latter alone), and 0.90 of their ensemble; two trainings, 1 minute on two cores.
"""

from __future__ import annotations

from colearn_jax.configs import common
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
  """The configuration, see `common.options` for the string."""
  on, encoder = common.options(arg, ("released", "individual"))
  config = common.defaults(encoder)
  config.baseline = True
  config.data.name = "synthetic"
  config.data.modalities = ("S1", "S2_S2VI")
  config.protocol.name = "clean"
  config.protocol.split = "official"
  config.protocol.seeds = (0,)
  config.train.batch_size = 128
  config.train.max_epochs = 25
  if encoder == "tempcnn":
    config.model.encoder.layer_size = 64
  if "released" in on:
    config.loss.variant = "released"
  if "individual" in on:
    config.method, config.baseline = "individual", False
  return config
