"""Counts what the bands of a data set hold while it is built, and refuses views that are mostly unusable."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from colearn_jax.data.moments import Moments, merge, moments
from colearn_jax.types import InputError

UNUSABLE = 0.5  # the share that is allowed where the data set says no other, see `check`
FEW = 10  # samples; of fewer, equal values say nothing
PIECE = 2**20  # values that are looked at together


@dataclasses.dataclass(frozen=True)
class Found:
  """What the bands of a view hold, in the samples that have the view.

  Attributes:
    samples: how many these are.
    infinite: infinite values of each band, `[C]`.
    missing: NaN of each band, `[C]`.
    moments: of the other values.
  """

  samples: int
  infinite: np.ndarray
  missing: np.ndarray
  moments: Moments

  @classmethod
  def of(cls, arrays: Sequence[np.ndarray]) -> Found:
    """Of the arrays of samples, `[... C]` each."""
    x = np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])
    of = lambda test: test(x).sum(0) if x.dtype.kind == "f" else np.zeros(x.shape[-1], np.int64)
    return cls(len(arrays), of(np.isinf), of(np.isnan), moments(x))

  def __or__(self, other: Found) -> Found:
    """Of the samples of both."""
    return Found(
      self.samples + other.samples,
      self.infinite + other.infinite,
      self.missing + other.missing,
      merge(self.moments, other.moments),
    )

  def to_json(self) -> dict:
    """Plain JSON, for `from_json`."""
    known = lambda x: [float(value) if math.isfinite(value) else None for value in x]
    numbers = {name: known(x) for name, x in self.moments._asdict().items()}
    return {
      "samples": self.samples,
      "infinite": self.infinite.tolist(),
      "missing": self.missing.tolist(),
      "moments": numbers,
    }

  @classmethod
  def from_json(cls, tree: Mapping) -> Found:
    """From what `to_json` gave."""
    none = {"least": math.inf, "greatest": -math.inf}
    numbers = {
      name: np.array([none.get(name, 0.0) if value is None else value for value in x])
      for name, x in tree["moments"].items()
    }
    return cls(tree["samples"], np.array(tree["infinite"]), np.array(tree["missing"]), Moments(**numbers))

  def by_band(self, bands: Sequence[str]) -> dict[str, dict]:
    """For each band its number of `values`, how many are `missing` or `infinite`, if it is `constant`."""
    count, least = self.moments.count.astype(int), self.moments.least
    constant = (count > 0) & (least == self.moments.greatest)
    return {
      band: {
        "values": int(count[k] + self.missing[k] + self.infinite[k]),
        "missing": int(self.missing[k]),
        "infinite": int(self.infinite[k]),
        "constant": bool(constant[k]),
      }
      for k, band in enumerate(bands)
    }


class Counter:
  """Counts the bands of samples one after another, several of them together.

  A sample without any number in a view does not have it, and is not counted there.
  """

  def __init__(self) -> None:
    self._found: dict[str, Found] = {}
    self._waiting: dict[str, list[np.ndarray]] = {}
    self._size: dict[str, int] = {}  # of what waits

  def add(self, example: Mapping) -> None:
    """Counts a sample, and makes NaN of its infinities: what is missing is NaN in every data set."""
    there = example.get("present", {})
    for view, x in example["views"].items():
      if not there.get(view, True) or x.dtype.kind == "f" and np.isnan(x).all():
        continue
      self._waiting.setdefault(view, []).append(x)
      self._size[view] = self._size.get(view, 0) + x.size
      if self._size[view] > PIECE:
        self._look(view)
      if x.dtype.kind == "f" and np.isinf(x).any():
        example["views"][view] = np.where(np.isinf(x), np.array(np.nan, x.dtype), x)

  def _look(self, view: str) -> None:
    self._size[view] = 0
    if waiting := self._waiting.pop(view, []):
      own = Found.of(waiting)
      self._found[view] = self._found[view] | own if view in self._found else own

  @property
  def found(self) -> dict[str, Found]:
    """By view; without those that no sample has."""
    for view in list(self._waiting):
      self._look(view)
    return self._found


def joined(pieces: Iterable[Mapping[str, Found]]) -> dict[str, Found]:
  """What all pieces hold together, by view."""
  out: dict[str, Found] = {}
  for piece in pieces:
    for view, found in piece.items():
      out[view] = out[view] | found if view in out else found
  return out


def facts(found: Mapping[str, Found], described: Mapping[str, Mapping]) -> dict[str, dict]:
  """What the metadata of a data set say of each band of each view, see `Found.by_band`."""
  return {view: found[view].by_band(own["bands"]) for view, own in described.items() if view in found}


def check(found: Mapping[str, Found], described: Mapping[str, Mapping]) -> None:
  """Refuses a view that cannot be used beyond a share: `unusable` of its metadata, else `UNUSABLE`.

  It is the share of infinite values among those of a band, and of bands without any value, or of one value,
  among those of the view. Views that mask others, and views of few samples, may be constant.

  Raises:
    InputError: the share is greater. The message names the view and how to allow it.
  """
  masks = {own["mask"] for own in described.values() if "mask" in own}
  for view, bands in facts(found, described).items():
    allowed = described[view].get("unusable", UNUSABLE)
    share, band = max((own["infinite"] / max(own["values"], 1), band) for band, own in bands.items())
    if share > allowed:
      raise InputError(
        f"view {view}: {share:.1%} of the values of band {band} are infinite, {allowed:.0%} are allowed; "
        + _how(share)
      )
    dead = [
      band
      for band, own in bands.items()
      if own["values"] == own["missing"] + own["infinite"] or own["constant"] and view not in masks
    ]
    if found[view].samples >= FEW and len(dead) / len(bands) > allowed:
      named = ", ".join(dead[:5]) + ", ..." * (len(dead) > 5)
      raise InputError(
        f"view {view}: {len(dead)} of its {len(bands)} bands hold no value or one value only ({named}), "
        f"{allowed:.0%} are allowed; " + _how(len(dead) / len(bands))
      )


def _how(share: float) -> str:
  return (
    f'correct the files; or allow it with "unusable": {math.ceil(share * 100) / 100:g} for the view in '
    "dataset.json, if this is a folder of your own"
  )


def lines(by_view: Mapping[str, Mapping[str, Mapping]]) -> Iterator[str]:
  """For people: the bands that hold infinities, no value, or one value only."""
  for view, bands in by_view.items():
    for band, own in bands.items():
      if own["infinite"]:
        share = own["infinite"] / own["values"]
        yield f"view {view}: {own['infinite']} values of band {band} are infinite ({share:.1%}), now missing"
    empty = [b for b, own in bands.items() if own["values"] == own["missing"] + own["infinite"]]
    constant = [b for b, own in bands.items() if own["constant"]]
    for what, names in (("no value", empty), ("one value only", constant)):
      if names:
        named = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
        yield f"view {view}: {len(names)} of {len(bands)} bands hold {what}: {named}"
