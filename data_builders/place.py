"""Where the files beside a builder are; TFDS would guess it from the module's name."""

from __future__ import annotations

from etils import epath


def here(file: str) -> tuple[epath.Path, epath.Path]:
  """`pkg_dir_path` and `code_path` of a TFDS builder, of the module's `__file__`.

  The package `colearn_jax.datasets` is the folder `data_builders` of the repository.
  """
  path = epath.Path(file)
  return path.parent, path
