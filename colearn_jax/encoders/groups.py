"""What encoders that read groups of bands have in common: checks of their settings, and encoded months."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from colearn_jax.types import InputError


def complete(encoder: str, groups: Mapping[str, Collection[str]], bands: Collection[str]) -> list[str]:
  """The groups of which a modality has all bands.

  Args:
    encoder: name of the encoder, for messages.
    groups: the names of the bands of each group.
    bands: those of the modality, by the encoder's names.

  Raises:
    InputError: there is none.
  """
  found = [group for group, names in groups.items() if set(names) <= set(bands)]
  if not found:
    known = "; ".join(f"{group} ({' '.join(names)})" for group, names in groups.items())
    raise InputError(f"encoder {encoder}: {', '.join(bands)} complete none of its groups: {known}")
  return found


def check_sizes(
  encoder: str, steps: int, max_steps: int, *, layer_size: int, parts: int, num_heads: int
) -> None:
  """Checks the number of steps of a series, and the width of the tokens.

  Args:
    encoder: name of the encoder, for messages.
    steps: of the series; 0 without steps.
    max_steps: the largest number allowed.
    layer_size: the width.
    parts: what it has to be divisible by, so that the encodings fill it.
    num_heads: of the attention, which divide it too.

  Raises:
    InputError: one of them is not allowed.
  """
  if steps > max_steps:
    raise InputError(
      f"encoder {encoder}: {steps} steps are more than max_steps={max_steps}; data.series=month makes 12, "
      "data.lengths keeps the last ones"
    )
  if layer_size % parts or layer_size % num_heads:
    raise InputError(
      f"encoder {encoder}: layer_size={layer_size} has to be divisible by {parts} and by "
      f"num_heads={num_heads}"
    )


def month_table(width: int) -> np.ndarray:
  """Encoded months `[13 width]`: sines, then cosines of 2 pi m / 12; zeros for an unknown month."""
  angle = np.repeat(2 * np.pi * np.arange(12)[:, None] / 12, width // 2, axis=1)
  table = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
  return np.concatenate([table, np.zeros((1, width))]).astype(np.float32)
