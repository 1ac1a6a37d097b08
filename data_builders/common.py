"""What all builders need: the folder of their own files, and the format that they write."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from colearn_jax.datasets import bands
from etils import epath


def here(file: str) -> tuple[epath.Path, epath.Path]:
  """The class attributes `pkg_dir_path` and `code_path` of a TFDS builder, from its module's `__file__`.

  TFDS needs to know the folder of a builder's own files (README, citations, checksums). It would guess it
  from the name of the module. The guess is wrong here, because the package `colearn_jax.datasets` is the
  folder `data_builders` of the repository.
  """
  path = epath.Path(file)
  return path.parent, path


class ArrayRecords:
  """A first base of TFDS builders, whose default format is `array_record` instead of TFDS's `tfrecord`.

  Training reads samples in any order, which `tfrecord` does not allow. `tfds build` asks for a format only if
  its user does, with `--file_format`.
  """

  def __init__(self, *, file_format=None, **kwargs):
    super().__init__(file_format=file_format, **kwargs)
    self._requested = file_format

  def download_and_prepare(self, *, file_format=None, **kwargs):
    """See `tfds.core.DatasetBuilder.download_and_prepare`."""
    super().download_and_prepare(file_format=file_format or self._requested or "array_record", **kwargs)

  def counted(self, examples: Iterator[tuple[int, dict]]) -> Iterator[tuple[int, dict]]:
    """Passes the examples of a split on, and counts what their bands hold, see `bands`.

    The metadata get `counts`, of all splits together.

    Raises:
      InputError: a view is mostly unusable, see `bands.check`.
    """
    counter = bands.Counter()
    for key, example in examples:
      counter.add(example)
      yield key, example
    metadata = self.info.metadata
    self._found = bands.joined([getattr(self, "_found", {}), counter.found])
    bands.check(self._found, metadata["views"])
    metadata["counts"] = bands.facts(self._found, metadata["views"])
    for line in bands.lines(bands.facts(counter.found, metadata["views"])):
      print(f"{self.name}: {line}", file=sys.stderr)
