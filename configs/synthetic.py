"""Simulated crop fields, seen by Sentinel-1 and by Sentinel-2 with clouds. Nothing has to be downloaded.

    python -m colearn_jax.main --config=synthetic --workdir=runs/synthetic

Expect a macro F1 of about 0.73 (S1), 0.76 (S2_S2VI) and 0.90 (their ensemble). The baseline, each sensor
trained alone, is printed next to them. Both runs together take 1 minute on two cores. `:individual` trains
only the baseline.
"""

from __future__ import annotations

from colearn_jax.configs import preset
from ml_collections import ConfigDict


def get_config(words: str = "") -> ConfigDict:
  """The configuration; `preset` describes the words."""
  config = preset(
    words,
    {
      "baseline": True,
      "data.name": "synthetic",
      "data.modalities": ("S1", "S2_S2VI"),
      "protocol.name": "clean",
      "protocol.split": "official",
      "protocol.seeds": (0,),
      "train.batch_size": 128,
      "train.max_epochs": 25,
    },
  )
  if config.model.encoder.model_type == "tempcnn":
    config.model.encoder.layer_size = 64
  return config
