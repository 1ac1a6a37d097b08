"""Odd files for fuzzing: what hypothesis changes in bytes, and odd arrays."""

import contextlib
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from colearn_jax.types import InputError

QUIET = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
QUIET["phases"] = (Phase.generate, Phase.shrink)
MEMORY = 2**20  # KiB that one example may take: 1 GiB

# One change of the bytes of a file: where (a share of its length), what, and how much.
CHANGE = st.tuples(
  st.sampled_from(["cut", "flip", "zero", "insert", "drop", "repeat", "number"]),
  st.integers(0, 2**16).map(lambda n: n * 40503 % 2**16 / 2**16),  # hypothesis prefers small numbers
  st.integers(1, 12),
  st.binary(min_size=1, max_size=8),
)
CHANGES = st.lists(CHANGE, min_size=1, max_size=3)


def changed(data: bytes, changes) -> bytes:
  """The bytes with some of them cut, flipped, inserted, dropped, repeated, or replaced by great numbers."""
  for what, share, size, new in changes:
    at = int(share * max(len(data) - 1, 0))
    rest = data[at + size :]
    data = (
      data[:at]
      + {
        "cut": b"",
        "flip": bytes(b ^ new[0] for b in data[at : at + size]) + rest,
        "zero": bytes(size) + rest,
        "insert": new + data[at:],
        "drop": rest,
        "repeat": data[at : at + size] * 2 + rest,
        "number": (b"\xff" * size if size % 2 else b"9" * size) + rest,
      }[what]
    )
  return data


def change_file(place: Path, choice: int, changes) -> None:
  """Changes one of the files in a folder, or the file itself."""
  files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
  path = files[choice % len(files)]
  path.write_bytes(changed(path.read_bytes(), changes))


SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)
DTYPES = st.sampled_from(
  "bool u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8 g >f4 >i2 c8 c16 S3 U2 M8[D] m8[s] O i4,f4".split()
)
FILLED = st.sampled_from(["zeros", "random", "nan", "inf", "least", "greatest", "nodata"])


def array(shape, dtype, filled, seed=0):
  """An array, filled as its type allows it."""
  dtype = np.dtype(dtype)
  if dtype.kind not in "iuf" or filled == "zeros":
    return np.zeros(shape, dtype)
  info = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
  value = {"least": info.min, "greatest": info.max, "nodata": -9999}.get(filled)
  if filled in ("nan", "inf") and dtype.kind == "f":
    value = float(filled)
  if value is None or not info.min <= value <= info.max and np.isfinite(value):
    return (np.random.default_rng(seed).random(shape) * 100).astype(dtype)
  return np.full(shape, value, dtype)


def in_one_line(run) -> bool:
  """Runs what may raise one InputError of one line and nothing else, within `MEMORY`; whether it did not."""
  with contextlib.suppress(OSError):
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak, where that is allowed
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  try:
    run()
    return True
  except InputError as error:
    assert str(error) and "\n" not in str(error), repr(str(error))
    return False
  finally:
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


def repeat(strategies: dict, check, examples: int) -> None:
  """Calls `check(folder, **drawn)` with so many examples, each in an empty folder; prints the outcomes."""
  outcomes = {True: 0, False: 0, None: 0}

  @settings(max_examples=examples, **QUIET)
  @given(**strategies)
  def run(**drawn):
    folder = Path(tempfile.mkdtemp())
    try:
      outcomes[check(folder, **drawn)] += 1
    finally:
      shutil.rmtree(folder)

  run()
  more = f", {outcomes[None]} not written by their library" if outcomes[None] else ""
  print(f"{check.__name__}: {outcomes[True]} read, {outcomes[False]} refused in one line{more}")
  if examples >= 100:
    assert outcomes[False] > 0, "nothing is refused: the examples are not odd"
