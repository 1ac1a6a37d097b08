"""Your own data: a directory with a table of samples and their files, see data_builders/folder/README.md.

    python -m colearn_jax.main --config=configs/folder.py --workdir=runs/own \
        --config.data.manual_dir=DIR --config.data.modalities=a,b

where a and b are views of DIR. It begins with 5 folds of all samples and a validation part of its own for
stopping; `:official` takes the table's split instead, `:released` the second modality head of the authors'
program, and `:individual` trains with the main loss alone. `:encoder=NAME` chooses the encoder of all
sensors, `--config.model.encoders` that of one: an image wants `{'aerial': {'model_type': 'resnet'}}`.
"""

from __future__ import annotations

from colearn_jax.configs import common
from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
  """The configuration, see `common.options` for the string."""
  on, encoder = common.options(arg, ("official", "released", "individual"))
  config = common.defaults(encoder)
  config.data.name = "folder"
  config.protocol.name = "clean"
  config.protocol.split = "official" if "official" in on else "kfold"
  config.protocol.folds = 5
  if "released" in on:
    config.loss.variant = "released"
  if "individual" in on:
    config.method = "individual"
  return config
