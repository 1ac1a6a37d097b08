"""What a build prints: what was inferred from a folder and what was left out, for the user to check."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping

from colearn_jax.datasets.folder.folder import Folder, Surveyed
from colearn_jax.datasets.folder.survey import View, pattern

_DAY = r"(?:19|20)\d\d-?\d\d-?\d\d(?:T\d{6}Z?)?"
_OF_STEP = re.compile(
  rf"(\d{{1,3}}|{_DAY})_\D|\D.*_({_DAY})$"
)  # 0_B2, 20180115_B2: Earth Engine; B2_20180115


def report(
  folder: Folder, surveyed: Surveyed, counts: Mapping[str, int], absent: Mapping[str, int]
) -> list[str]:
  """One line for the samples, one for each view, and one for everything that was left out.

  Args:
    folder: the directory.
    surveyed: its views as they are stored.
    counts: samples of each split.
    absent: samples that lack each view.
  """
  samples, task = folder.table.samples, folder.table.task
  unlabelled = sum(_unknown(sample.target) for sample in samples)
  lines = [
    f"{', '.join(f'{count} {split}' for split, count in counts.items())} samples; {task['kind']}: "
    + _outputs(folder)
    + f"; {unlabelled} without a target"
  ]
  for view, files in zip(surveyed.views, folder.views):
    line = f"view {view.name}: {pattern(view.shape)} {view.dtype}, bands {', '.join(view.bands)}"
    missing = absent.get(view.name, 0)
    named = bool(folder.described["views"].get(view.name, {}).get("bands"))
    lines.append(line + f"; {missing} samples lack it" * (missing > 0) + ("" if named else hint(view)))
    if files.strangers:
      lines.append(f"view {view.name}: {len(files.strangers)} files of no sample, e.g. {files.strangers[0]}")
  lines += _about_dates(surveyed.views)
  lines += [f"left out {sample}: {why}" for sample, why in surveyed.wrong.items()]
  if folder.table.split:
    lines.append("column split: protocol.split=official uses it (configs/folder.py:official); folds do not")
  if folder.table.unseen:
    lines.append(f"unlabelled: no target is {', '.join(folder.table.unseen)}")
  if folder.table.unused:
    lines.append(f"columns that are not used: {', '.join(folder.table.unused)}")
  return lines


def hint(view: View) -> str:
  """What may be meant by a shape whose last axis is not the bands' by the look of it; else nothing."""
  *before, bands = view.shape
  if len({found[1] or found[2] for name in view.bands if (found := _OF_STEP.match(name))}) > 1:
    return "; bands of several steps in one image: a series has a file for each date"
  if len(view.shape) == 3 and before[0] == 1:
    return "; a file holds one sample: is the first axis a batch?"
  if len(view.shape) in (3, 4) and (
    bands == before[-1] != before[-2] or before[-2] <= 20 < min(before[-1], bands)
  ):
    return "; bands have to be the last axis: is it the first here?"
  if len(view.shape) == 2 and not view.dated and bands == before[0] and bands > 4:
    return f"; a series of {bands} steps with {bands} bands: an image of one band has shape (H, W, 1)"
  return ""


def _about_dates(views: tuple[View, ...]) -> list[str]:
  """Series whose steps have no dates, beside series whose steps have them."""
  dated = [view for view in views if view.dated and not view.numbered]
  numbered = [view.name for view in views if view.numbered]
  return (
    [f"views without dates: {', '.join(numbered)}; their steps are numbered"] if dated and numbered else []
  )


def _unknown(target) -> bool:
  return target == -1 or isinstance(target, tuple) and all(value != value for value in target)


def _outputs(folder: Folder) -> str:
  """The outputs, with the samples of each class or label, or the least and the greatest target."""
  outputs, targets = folder.table.task["outputs"], [sample.target for sample in folder.table.samples]
  if folder.table.task["kind"] == "regression":
    shown = lambda value: f"{value + 0.0:g}"  # -0 is 0
    amounts = folder.table.amounts.items()
    return ", ".join(f"{name} {shown(least)} to {shown(most)}" for name, (least, most) in amounts)
  if isinstance(targets[0], tuple):
    counts = {i: sum(target[i] == 1 for target in targets) for i in range(len(outputs))}
  else:
    counts = collections.Counter(targets)
  return ", ".join(f"{name} {counts[i]}" for i, name in enumerate(outputs))
