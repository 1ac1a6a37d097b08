"""What is said when the memory of a device or of the machine is full."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from colearn_jax.types import InputError

SIGNS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")  # in the errors of XLA
OF_TRAINING = "a smaller train.batch_size or model, train.microbatches or data.placement=stream"


@contextlib.contextmanager
def telling(smaller: str = OF_TRAINING) -> Iterator[None]:
  """Turns errors of full memory during the block into an InputError; `smaller` says what needs less."""
  try:
    yield
  except (MemoryError, RuntimeError) as error:  # XLA's error is a RuntimeError
    text = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and not any(sign in text for sign in SIGNS):
      raise
    said = f" ({text[:160]})" if text else ""
    raise InputError(f"out of memory{said}; {smaller} needs less") from error
