"""Simulated fields: crops from Sentinel-1 and Sentinel-2 with clouds; nothing to download, minutes to run.

    python -m colearn_jax.main --config=configs/synthetic.py --workdir=runs/synthetic

Expect a macro F1 of about 0.73 (S1) and 0.76 (S2_S2VI), each beside the same sensor trained alone, and 0.90
of their ensemble. There are two trainings; they take 1 minute on two cores. `:individual` trains each sensor
alone and nothing else.
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
