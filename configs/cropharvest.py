"""CropHarvest: crop classification (`:binary`, or ten groups `:multi`) from a year of Sentinel-1 and -2.

    python -m colearn_jax.main --config=cropharvest:multi --workdir=runs/cropharvest \
        --config.data.manual_dir=DIR

DIR contains labels.geojson, and features.tar.gz or features/arrays; see data_builders/cropharvest. The
default is the method of the paper. `:multi,released` is the variant of the authors' program.
`:multi,individual` trains each sensor alone. `:multi,clean` keeps the samples of each contributing data set
in one fold, and uses a validation part for early stopping. The NDVI in S2_S2VI is the published column, which
is slightly wrong. The NDVI in S2_S2NDVI is correct.
"""

from __future__ import annotations

from colearn_jax.configs import preset
from ml_collections import ConfigDict

from colearn_jax.types import InputError


def get_config(words: str = "") -> ConfigDict:
  """The configuration; `preset` describes the words."""
  config = preset(
    words,
    {"data.modalities": ("S1", "S2_S2VI"), "train.batch_size": 128},
    binary={"data.name": "cropharvest/binary"},
    multi={"data.name": "cropharvest/multi"},
    clean={"protocol.name": "clean", "protocol.group_by": "dataset"},
  )
  if not config.data.name:
    raise InputError("a word is missing after the colon: binary or multi, as in cropharvest:multi")
  return config
