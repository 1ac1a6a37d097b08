"""Your own data: a directory with a table of samples and their files. See data_builders/folder/README.md.

    python -m colearn_jax.main --config=folder --workdir=runs/own \
        --config.data.manual_dir=DIR --config.data.modalities=a,b

a and b are views in DIR. The default is cross-validation with 5 folds, and a validation part for early
stopping. `:official` uses the split in the table instead. `:released` is the variant of the authors' program.
`:individual` trains each sensor alone. The encoder of each sensor is selected by the shape of its samples
(`auto`). `:encoder=NAME` selects another one for all sensors, `--config.model.encoders.a=NAME` for one
sensor.
"""

from __future__ import annotations

from colearn_jax.configs import preset
from ml_collections import ConfigDict


def get_config(words: str = "") -> ConfigDict:
  """The configuration; `preset` describes the words."""
  return preset(
    words,
    {"data.name": "folder", "protocol.name": "clean", "protocol.folds": 5},
    encoder="auto",
    official={"protocol.split": "official"},
  )
