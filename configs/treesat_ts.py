"""TreeSatAI-TS: tree species of forest tiles, from a year of Sentinel-2 and from an aerial image.

    python -m colearn_jax.main --config=treesat_ts --workdir=runs/treesat_ts \
        --config.data.manual_dir=DIR

DIR contains aerial.zip, sentinel-ts.zip, labels.zip, split.zip and geojson.zip, or their unpacked content;
see data_builders/treesat_ts. The official split is used. The 50 000 samples of 0.6 MB are streamed from disk.
The default is the method of the paper. `:released` is the variant of the authors' program. `:individual`
trains each sensor alone. `:clean` uses a validation part for early stopping; if the source files have none,
it consists of whole blocks of 10 km.

Other sensors: `--config.data.modalities=S1asc,S1des,aerial`. Cloud-free monthly means instead of the last 146
dates: `--config.data.series=month --config.data.masked_above="{'cloud': 50}"`. Random flips and rotations,
the same for tile and image: `--config.augment.flip --config.augment.quarter_turns`.
"""

from __future__ import annotations

from colearn_jax.configs import preset
from ml_collections import ConfigDict


def get_config(words: str = "") -> ConfigDict:
  """The configuration; `preset` describes the words."""
  return preset(
    words,
    {
      "data.name": "treesat_ts",
      "data.modalities": ("S2_S2mask", "aerial"),
      # Lengths of the longest published series. Models then have the same shape for any subset of the data.
      "data.lengths": {"S1asc": 151, "S1des": 257, "S2": 146},
      "protocol.split": "official",
      "model.encoders": {"aerial": {"model_type": "resnet", "depth": 50}},
      "train.batch_size": 128,
      "checkpoint.every_epochs": 1,
    },
    clean={"protocol.name": "clean", "protocol.group_by": "block"},
  )
