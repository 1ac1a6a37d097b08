"""Multi-modal co-learning for Earth observation in JAX: train with several sensors, predict with one.

The names below are loaded when they are first used, so `import colearn_jax` loads neither JAX nor TFDS:

    import colearn_jax

    config = colearn_jax.load_config("configs/lfmc.py", {"data.manual_dir": "DIR"})
    results = colearn_jax.train(config, "runs/lfmc")
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from colearn_jax.config import load as load_config
  from colearn_jax.deploy.load import load_model
  from colearn_jax.training.run import run as train
  from colearn_jax.types import InputError, Modality, Task

__version__ = "0.1.0"  # pyproject.toml reads it from here
BEGAN = time.monotonic()  # when this process loaded the package

__all__ = ["InputError", "Modality", "Task", "__version__", "load_config", "load_model", "train"]

# Public name: the module that defines it, and its name there.
_PUBLIC = {
  "InputError": ("colearn_jax.types", "InputError"),
  "Modality": ("colearn_jax.types", "Modality"),
  "Task": ("colearn_jax.types", "Task"),
  "load_config": ("colearn_jax.config", "load"),
  "load_model": ("colearn_jax.deploy.load", "load_model"),
  "train": ("colearn_jax.training.run", "run"),
}


def __getattr__(name: str) -> object:
  if name not in _PUBLIC:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  module, original = _PUBLIC[name]
  return getattr(importlib.import_module(module), original)


def __dir__() -> list[str]:
  return sorted({*globals(), *_PUBLIC})
