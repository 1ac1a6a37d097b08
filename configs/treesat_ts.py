"""TreeSatAI-TS: which trees grow on a tile of forest, from a year of Sentinel-2 and from an aerial image.

    python -m colearn_jax.main --config=configs/treesat_ts.py --workdir=runs/treesat_ts \
        --config.data.manual_dir=DIR

where DIR holds aerial.zip, sentinel-ts.zip, labels.zip, split.zip and geojson.zip, unpacked or not, see
data_builders/treesat_ts. Official split; 50 000 samples of 0.6 MB are streamed from the disk. As it stands it
is the paper's form; `:released` is the authors' program, `:individual` trains with the main loss alone, and
`:clean` stops the training on whole blocks of 10 km, where the source files list no validation part.

Other sensors: `--config.data.modalities=S1asc,S1des,aerial`. By month instead of the last 146 dates, without
clouds: `--config.data.series=month --config.data.masked_above="{'cloud': 50}"`. Flips and quarter turns alike
for tile and image: `--config.augment.flip --config.augment.quarter_turns`.
"""

from __future__ import annotations

from colearn_jax.configs import common
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
  """The configuration, see `common.options` for the string."""
  on, encoder = common.options(arg, ("released", "individual", "clean"))
  config = common.defaults(encoder)
  config.data.name = "treesat_ts"
  config.data.modalities = ("S2_S2mask", "aerial")
  # The longest of the published series: a model's shape does not depend on which of them are there.
  config.data.lengths = ConfigDict({"S1asc": 151, "S1des": 257, "S2": 146})
  config.protocol.split = "official"
  config.model.encoders = ConfigDict({"aerial": {"model_type": "resnet", "depth": 50}})
  config.train.batch_size = 128
  config.checkpoint.every_epochs = 1
  if "released" in on:
    config.loss.variant = "released"
  if "individual" in on:
    config.method = "individual"
  if "clean" in on:
    config.protocol.name = "clean"
    config.protocol.group_by = "block"
  return config
