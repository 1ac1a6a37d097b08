"""The folder of a builder's own files (README, citations, checksums), which TFDS needs to know.

TFDS would guess it from the name of the module. The guess is wrong here, because the package
`colearn_jax.datasets` is the folder `data_builders` of the repository.
"""

from __future__ import annotations

from etils import epath


def here(file: str) -> tuple[epath.Path, epath.Path]:
  """The class attributes `pkg_dir_path` and `code_path` of a TFDS builder, from its module's `__file__`."""
  path = epath.Path(file)
  return path.parent, path
