"""Notices values that are in other units than those of the training."""

from __future__ import annotations

import numpy as np

from colearn_jax.deploy.model import Model
from colearn_jax.types import InputError

FAR = 100  # times the scale by which training normalised


def check(model: Model, values: np.ndarray, hint: str) -> None:
  """Raises InputError if half of the values of a band are farther from those of the training than `FAR`.

  Reflectances from 0 to 1 and from 0 to 10000 differ so much. A model that was made without the constants of
  its normalisation is not checked.

  Args:
    model: the model.
    values: `[... C]`, the bands in the order of the model.
    hint: what the message says in the end.
  """
  every: dict[str, dict] = model.about.get("normalisation") or {}
  constants = next(iter(every.values()), {}).get(model.modality.name)
  if not constants:
    return
  for k in range(values.shape[-1]):
    own = values[..., k]
    own = own[np.isfinite(own)]
    offset, scale = float(constants["offset"][k]), float(constants["scale"][k])
    if own.size and (far := float(np.median(np.abs(own - offset)))) > FAR * abs(scale):
      raise InputError(
        f"band {model.bands[k]} has values around {np.median(own):.4g}, training had {offset:.4g} with a "
        f"deviation of {scale:.4g}, {far / abs(scale):.0f} times less far: other units?{hint}"
      )
