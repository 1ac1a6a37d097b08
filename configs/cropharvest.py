"""CropHarvest: crop or not (`:binary`), or ten crop groups (`:multi`), from a year of Sentinel-1 and -2.

    python -m colearn_jax.main --config=configs/cropharvest.py:multi --workdir=runs/cropharvest \
        --config.data.manual_dir=DIR

where DIR holds labels.geojson and features.tar.gz or features/arrays, see data_builders/cropharvest. As it
stands it is the paper's form; `:multi,released` is the authors' program, `:multi,individual` trains with the
main loss alone, and `:multi,clean` keeps the contributing data sets apart and stops the training on a
validation part of its own. The NDVI of S2_S2VI is the published column, which is not quite NDVI; S2_S2NDVI is
right.
"""

from __future__ import annotations

from colearn_jax.configs import common
from ml_collections import ConfigDict

from colearn_jax.types import InputError


def get_config(arg: str = "") -> ConfigDict:
  """The configuration, see `common.options` for the string."""
  on, encoder = common.options(arg, ("binary", "multi", "released", "individual", "clean"))
  if len(on & {"binary", "multi"}) != 1:
    raise InputError("--config=configs/cropharvest.py needs one of two words behind a colon: binary, multi")
  config = common.defaults(encoder)
  config.data.name = "cropharvest/multi" if "multi" in on else "cropharvest/binary"
  config.data.modalities = ("S1", "S2_S2VI")
  config.train.batch_size = 128
  if "released" in on:
    config.loss.variant = "released"
  if "individual" in on:
    config.method = "individual"
  if "clean" in on:
    config.protocol.name = "clean"
    config.protocol.group_by = "dataset"
  return config
