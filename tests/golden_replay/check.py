"""Compares our results with golden cases of the PyTorch program: `python -m tests.golden_replay FOLDER`.
With `--pretrained=WEIGHTS`, the cases are those of pretrained encoders, see `pretrained`.

A case consists of `<case>.npz` and `<case>.json`. It contains one encoder, one loss, a whole model, or some
steps of training. `replay` computes its arrays. This module compares every array, and prints which ones are
left out and why. The exit status is 1 if a difference exceeds its tolerance, or if an array was neither read
nor compared.

Rounding errors are distinguished from mistakes as follows. First, float32 arrays are compared with our
float32 results, within `TOLERANCES`. A correct program can fail this comparison, because values jump if
rounding moves the input of a ReLU across zero. Then our float64 results are used as the exact values, and two
conditions must hold:

- The error of the case is at most `MARGIN` times the error of our float32 results.
- The error of our float32 results is at most `MARGIN` times the error of the case.

Errors of a family are judged by the median over its arrays, because arrays with few values can be exact by
chance. For the final parameters of a training, a case also states the size of its own rounding error
(`SPREAD`), which is allowed too.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from colearn_jax.interop.state_dict import UNUSED_HEAD
from colearn_jax.types import InputError
from tests.golden_replay import pretrained
from tests.golden_replay.golden import Arrays, Case
from tests.golden_replay.replay import replay, silent

# Allowed differences by group: the greatest absolute difference, relative to the greatest absolute value.
TOLERANCES = {"outputs": 1e-5, "losses": 1e-5, "gradients": 1e-4, "statistics": 1e-5, "trajectory": 1e-4}
GROUPS = {
  "out": "outputs",
  "train_out": "outputs",
  "final_out": "outputs",
  "const": "outputs",
  "eval_loss": "losses",
  "loss": "losses",
  "grad": "gradients",
  "train_buf": "statistics",
  "traj": "trajectory",
  "final": "trajectory",
}  # by family
# Allowed size of gradients that would be exactly zero without rounding: absolute, and relative to the largest
# one.
NOISE, RELATIVE_NOISE = 5e-6, 5e-7
SPREAD = "final_diff_float32_float64_above_2e-6"  # key of a case: rounding errors of its final parameters
MARGIN = 20.0  # allowed ratio of the rounding errors of two correct float32 programs


@dataclasses.dataclass(frozen=True)
class Difference:
  """The result of one comparison: group in `TOLERANCES`, key of the array, difference, allowed difference."""

  group: str
  key: str
  size: float
  allowed: float

  @property
  def ok(self) -> bool:
    """Whether the difference is within the tolerance. NaN is not."""
    return self.size <= self.allowed


def compare(case: Case) -> tuple[list[Difference], list[str]]:
  """Replays a case and compares every array of it.

  float32 arrays are compared with our float32, and where they differ by more than the tolerance, by
  `_rounding`. float64 arrays (`traj64`, `final64`) are compared with our float64.

  Returns:
    The comparisons made, and the arrays that were neither read nor compared.

  Raises:
    InputError: see `replay`.
  """
  single, double = replay(case), functools.cache(lambda: replay(case, np.float64))
  absolute = {"model": _zero_gradients, "trajectory": _random_walks}.get(case["kind"], lambda case: {})(case)
  found, missing = [], []
  for key, theirs in case.arrays.items():
    family, _, name = key.partition("/")
    exact = family in ("traj64", "final64")
    ours = double().get(f"{family[:-2]}/{name}") if exact else single.get(key)
    if family == "param" or key in case.read or name.startswith(f"{UNUSED_HEAD}."):
      continue
    if ours is None:
      missing.append(key)
      continue
    group = _group(case, family)
    size, allowed = _relative(theirs, ours), TOLERANCES[group]
    if key in absolute:
      size, allowed = _apart(theirs, ours), absolute[key]
    if not size <= allowed and not exact and key in double():
      size, allowed = _rounding(case, key, single, double(), TOLERANCES[group])
    found.append(Difference(group, key, size, allowed))
  return found + _precisions(case, double), missing


def _group(case: Case, family: str) -> str:
  return "losses" if (case["kind"], family) == ("loss", "out") else GROUPS[family.removesuffix("64")]


def _apart(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the greatest absolute difference; infinite for different shapes."""
  if a.shape != b.shape:
    return np.inf
  return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))


def _greatest(arrays: Iterable[np.ndarray]) -> float:
  return max((float(np.abs(a).max(initial=0.0)) for a in arrays), default=0.0) or 1e-30


def _relative(theirs: np.ndarray, ours: np.ndarray) -> float:
  return _apart(theirs, ours) / _greatest([theirs])


def _rounding(case: Case, key: str, single: Arrays, double: Arrays, tolerance: float) -> tuple[float, float]:
  """Compares an array with our float64; see the module's documentation.

  Returns:
    The relative difference, and the allowed one: `MARGIN` times the error of our float32. If the median
    error of our float32 is itself more than `MARGIN` times that of the case, these two instead, which
    fails.
  """
  family, name = key.split("/", 1)
  keys = [k for k in case.arrays if k.split("/")[0] == family and k in double]
  theirs = {k: _relative(case.arrays[k], double[k]) for k in keys}
  ours = {k: _apart(single[k], double[k]) / _greatest([case.arrays[k]]) for k in keys}
  if not ours[key] < np.inf or case.arrays[key].shape != double[key].shape:
    return np.inf, tolerance
  usual, usual_there = (float(np.median(list(errors.values()))) for errors in (ours, theirs))
  if usual > max(tolerance, MARGIN * usual_there):
    return usual, max(tolerance, MARGIN * usual_there)
  said = case.spec.get(SPREAD, {}).get(name, 0.0) if family == "final" else 0.0
  return theirs[key], max(
    tolerance, MARGIN * max(ours[key], usual), 1.1 * said / _greatest([case.arrays[key]])
  )


def _zero_gradients(case: Case) -> dict[str, float]:
  """Returns the allowed size of gradients that would be exactly zero without rounding."""
  noise = max(NOISE, RELATIVE_NOISE * _greatest(case.family("grad").values()))
  return {f"grad/{key}": noise for key in case.spec.get("null_gradient_params", ())}


def _random_walks(case: Case) -> dict[str, float]:
  """Returns the allowed differences of final parameters that change only by rounding.

  If a gradient is zero except for rounding, Adam still makes steps of about the learning rate. These
  parameters, and the running means that depend on them, can therefore differ by the sum of all steps.
  `final64` compares them closely.
  """
  walk = 2.0 * case["optimizer"]["lr"] * case["optimizer"]["steps"]
  means = [key for key in case.spec.get(SPREAD, {}) if key.endswith("running_mean")]
  return {f"final/{key}": walk for key in [*case.spec.get("null_gradient_params", ()), *means]}


def _precisions(case: Case, double: Callable[[], Arrays]) -> list[Difference]:
  """Compares the rounding errors that a case states with the differences between its arrays and float64.

  No difference may exceed the stated error. This is the sharpest comparison: a slightly wrong parameter
  moves our float64 away from the exact value of the case's float32.
  """
  found = []

  def add(group: str, name: str, apart: float, allowed: float, arrays: Iterable[np.ndarray]) -> None:
    found.append(Difference(group, name, apart, allowed + 1e-7 * _greatest(arrays)))

  single, exact = case.family("final"), case.family("final64")
  if SPREAD in case.spec and exact:
    for key in exact.keys() & single.keys():
      apart, said = _apart(single[key], exact[key]), case[SPREAD].get(key, 2e-6)
      add("trajectory", f"final/{key} and final64/{key}", apart, 1.01 * said, [exact[key]])
  for family, said in case.spec.get("float64_max_abs_diff", {}).items():
    single, exact = case.family(family), case.family(f"{family}64")
    if exact:
      apart = max(_apart(single[key], exact[key]) for key in exact.keys() & single.keys())
      add(_group(case, family), f"{family}/ and {family}64/", apart, 1.01 * said, exact.values())
    elif family in GROUPS:
      keys = [key for key in single if f"{family}/{key}" in double()]
      apart = max((_apart(single[key], double()[f"{family}/{key}"]) for key in keys), default=0.0)
      add(_group(case, family), f"{family}/ and our float64", apart, 3.0 * said, single.values())
  return found


def left_out(case: Case) -> dict[str, str]:
  """Returns inputs that no array of the case depends on, with the reasons. No comparison checks them.

  In cases of training, the final value of every parameter is compared, except those of the unused head.
  """
  unread = [key for key in case.family("param") if key.startswith(f"{UNUSED_HEAD}.")]
  reasons = {f"param/{key}": "belongs to a head that no output depends on" for key in unread}
  if case["kind"] not in ("module", "model"):
    return reasons
  for key in case.family("param"):
    if key.endswith("attention_heads.fc1_k.bias"):
      reasons[f"param/{key}"] = "adds a constant to all scores of a query, which the softmax cancels"
    elif key.endswith("in_proj_bias"):
      reasons[f"param/{key}"] = "adds, in its middle third, a constant to all scores of a query"
  others = {key: count for key, count in silent(case).items() if f"param/{key}" not in reasons}
  if others:
    values = f"{sum(others.values())} values in {len(others)} arrays of param/"
    reasons[values] = "change no output, such as those after a ReLU that is zero for every sample"
  return reasons


def _siblings(folder: Path, names: Iterable[str]) -> list[str]:
  """Returns inputs and parameters that differ between the two variants of a model. They must be equal."""
  odd = []
  for name in names:
    pair = [folder / f"{name}_{variant}.npz" for variant in ("paper", "released")]
    first, second = (dict(np.load(path)) for path in pair)
    same = lambda key: np.array_equal(first[key], second.get(key))  # noqa: B023
    odd += [f"{name}_*: {key}" for key in first if key.startswith(("in/", "param/")) and not same(key)]
  return odd


def _line(name: str, found: list[Difference]) -> str:
  """Formats the line of a case: for each group the largest difference, or the worst violation."""
  parts = []
  for group, tolerance in TOLERANCES.items():
    own = [d for d in found if d.group == group]
    if bad := [d for d in own if not d.ok]:
      worst = max(bad, key=lambda d: d.size / max(d.allowed, 1e-30) if d.size == d.size else np.inf)
      parts.append(f"{group} {worst.size:.1e} OVER {worst.allowed:.1e} ({worst.key})")
    elif own:
      relative = [d.size for d in own if d.allowed == tolerance]
      parts.append(f"{group} {max(relative, default=0.0):.1e} ok")
  return f"{name}: {', '.join(parts)}"


def main(argv: list[str]) -> int:
  """Replays every case of a folder; returns the exit status."""
  given = [word.removeprefix("--pretrained=") for word in argv[2:] if word.startswith("--pretrained=")]
  if len(argv) != 2 + len(given) or len(given) > 1 or not all(Path(p).is_dir() for p in [*argv[1:2], *given]):
    print(
      "usage: python -m tests.golden_replay FOLDER [--pretrained=WEIGHTS], where FOLDER contains cases; for "
      "those of pretrained encoders, WEIGHTS contains the published files",
      file=sys.stderr,
    )
    return 2
  if given:
    return pretrained.main(Path(argv[1]), Path(given[0]))
  folder = Path(argv[1])
  names = sorted({path.stem for path in folder.iterdir() if path.suffix in (".json", ".npz")})
  if not names:
    print(f"{folder} holds no case: no .json and .npz files", file=sys.stderr)
    return 1
  failed, reasons = 0, {}
  for name in names:
    try:
      case = Case(folder / f"{name}.json")
      found, missing = compare(case)
      for reason in left_out(case).items():
        reasons.setdefault(reason, []).append(name)
    except InputError as error:
      failed += 1
      print(f"FAILED {name}: {error}", flush=True)
      continue
    ok = all(d.ok for d in found) and not missing
    failed += not ok
    more = f", not compared: {', '.join(missing)}" if missing else ""
    print(f"{'passed' if ok else 'FAILED'} {_line(name, found)}{more}", flush=True)
  for (key, reason), cases in reasons.items():
    print(f"left out: {key} {reason} (in {', '.join(cases)})")
  print("left out: seeds, versions and dropout rates in the .json files, because no array depends on them")
  both = [n.removesuffix("_paper") for n in names if n.endswith("_paper") and f"{n[:-6]}_released" in names]
  for odd in _siblings(folder, both):
    failed += 1
    print(f"FAILED {odd} is not the same in both variants")
  print(f"{len(names)} cases, {failed} failed")
  return 1 if failed else 0
