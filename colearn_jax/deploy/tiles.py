"""Predicts every pixel of a scene with a model of images: overlapping tiles, blended."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def starts(length: int, tile: int) -> list[int]:
  """Where tiles begin that cover a length, each half a tile after the last one; the last one ends with it."""
  step = max(1, tile // 2)
  last = max(0, length - tile)
  return [*range(0, last, step), last]


def touching(length: int, tile: int, begin: int, end: int) -> list[int]:
  """The starts of those tiles that have a pixel from `begin` to before `end`."""
  return [start for start in starts(length, tile) if start < end and start + tile > begin]


def weights(height: int, width: int) -> np.ndarray:
  """What each pixel of a tile counts, `[h w]`: a pyramid that is greatest in the middle and nowhere zero."""
  slope = lambda n: 1 - np.abs((np.arange(n) + 0.5) / n * 2 - 1)
  return np.maximum(slope(height)[:, None] * slope(width)[None], 1e-3).astype(np.float32)


def blend(
  rows: list[int],
  columns: list[int],
  predictions: np.ndarray,
  tile: tuple[int, int],
  begin: tuple[int, int],
  size: tuple[int, int],
) -> np.ndarray:
  """The mean of the predictions of all tiles at a pixel, weighted by how near their middle is.

  Args:
    rows: first rows of the tiles.
    columns: first columns of the tiles.
    predictions: `[len(rows) len(columns) K]`, NaN where a tile has none.
    tile: height and width of a tile.
    begin: first row and column of the result.
    size: its height and width.

  Returns:
    `[h w K]` float32, NaN where no tile has a prediction.
  """
  total = np.zeros((*size, predictions.shape[-1]), np.float32)
  counted = np.zeros((*size, 1), np.float32)
  weight = weights(*tile)[..., None]
  for i, row in enumerate(rows):
    top, bottom = max(row, begin[0]), min(row + tile[0], begin[0] + size[0])
    for k, column in enumerate(columns):
      left, right = max(column, begin[1]), min(column + tile[1], begin[1] + size[1])
      if np.isfinite(predictions[i, k]).all():
        part = weight[top - row : bottom - row, left - column : right - column]
        at = slice(top - begin[0], bottom - begin[0]), slice(left - begin[1], right - begin[1])
        total[at] += part * predictions[i, k]
        counted[at] += part
  with np.errstate(invalid="ignore"):
    return total / counted


def cut(values: np.ndarray, rows: list[int], columns: list[int], tile: tuple[int, int]) -> Callable:
  """A function that returns the tile of a number, of values `[T h w C]`, as `[T *tile C]`.

  Args:
    values: that hold all tiles.
    rows: first rows of the tiles in them.
    columns: first columns.
    tile: height and width of a tile. Where the values are smaller, it is filled with NaN.
  """

  def one(number: int) -> np.ndarray:
    row, column = rows[number // len(columns)], columns[number % len(columns)]
    part = values[:, row : row + tile[0], column : column + tile[1]]
    lacking = [(0, 0), *((0, n - have) for n, have in zip(tile, part.shape[1:3])), (0, 0)]
    return np.pad(part, lacking, constant_values=np.nan) if part.shape[1:3] != tile else part

  return one
