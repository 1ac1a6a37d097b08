"""Your own data: a directory with a table of samples and their files, see data_builders/folder/README.md.

    python -m colearn_jax.main --config=configs/folder.py --workdir=runs/own \
        --config.data.manual_dir=DIR --config.data.modalities=a,b

a and b are views of DIR. The default is 5 folds of all samples, with a validation part that stops the
training. `:official` takes the table's split instead, `:released` is the variant of the authors' program, and
`:individual` trains each sensor alone. Each sensor's encoder is chosen by the shape of its samples (`auto`).
`:encoder=NAME` chooses another one for all sensors, `--config.model.encoders.a=NAME` for one.
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
