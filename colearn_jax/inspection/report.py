"""The report of an inspection, as plain JSON and as text."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from colearn_jax.data.dataset import Dataset
from colearn_jax.data.reader import Index, make_reader
from colearn_jax.data.splits import Run
from colearn_jax.inspection.leakage import equal_samples, of_runs, parts
from colearn_jax.inspection.scan import Scan
from colearn_jax.types import CONTEXT, InputError, Modality, Task

LISTED = 20  # groups, bands or samples that are named; of the others only the number is given
PARTS = {"train": 1, "validation": 2, "test": 3}


def find_rows(index: Index, ids: Sequence[str]) -> np.ndarray:
  """The rows of samples by id.

  Raises:
    InputError: there is no such sample; the message lists the nearest ids.
  """
  row_of = {name: row for row, name in enumerate(index.ids.tolist())}
  for name in ids:
    if name not in row_of:
      near = difflib.get_close_matches(name, row_of, n=5, cutoff=0.3) or list(row_of)[:5]
      raise InputError(f"--ids: there is no sample {name!r}; near it: {', '.join(near)}")
  return np.array([row_of[name] for name in ids], int)


def tree(
  dataset: Dataset,
  described: Mapping[str, Mapping],
  modalities: Sequence[Modality],
  index: Index,
  runs: Sequence[Run],
  scan: Scan,
  rows: np.ndarray,
) -> dict:
  """Everything that the inspection found, as plain JSON.

  Args:
    dataset: that was read.
    described: its views in the metadata.
    modalities: as training uses them.
    index: of all samples.
    runs: of one seed.
    scan: of all samples.
    rows: of the samples whose values are included.
  """
  places, dates = scan.coordinates, [] if scan.dates is None else [day for day in scan.dates if day]
  known = np.empty((0, 2)) if places is None else places[~np.isnan(places).any(1)]
  shared = of_runs(
    scan.steps,
    scan.present,
    scan.digests,
    index.groups,
    runs,
    dates=index.dates,
    places=index.places,
  )
  by_run = {
    run.name: _run(dataset.task, index, scan, run) | {"leakage": shared["runs"][run.name]} for run in runs
  }
  return {
    "name": dataset.name,
    "number": len(dataset),
    "labelled": int(index.labelled.sum()),
    "task": dataset.task.to_json(),
    "targets": targets(dataset.task, index.target[index.labelled]),
    "dates": [min(dates), max(dates)] if dates else None,
    "coordinates": [known.min(0).tolist(), known.max(0).tolist()] if len(known) else None,
    "modalities": {m.name: modality(m, described, scan, len(dataset)) for m in modalities},
    "groups": {name: _groups(dataset.task, index, of) for name, of in index.groups.items()},
    "runs": by_run,
    "near_duplicates": shared["near_duplicates"],
    "nearest": shared["nearest"],
    "equal_samples": _equal_samples(index, scan, runs),
    "samples": samples(dataset, modalities, index, rows),
  }


def targets(task: Task, target: np.ndarray) -> dict:
  """The number of samples of each class or label; of a regression mean, deviation, least and greatest."""
  if task.kind == "regression":
    figures: dict[str, Callable] = {"mean": np.mean, "deviation": np.std, "least": np.min, "greatest": np.max}
    of = lambda column: (
      {name: float(figure(column)) for name, figure in figures.items()} if len(column) else {}
    )
    return {name: of(target[:, k].astype(np.float64)) for k, name in enumerate(task.outputs)}
  one = task.one_class
  counts = np.bincount(target, minlength=len(task.outputs)) if one else target.sum(0).astype(int)
  return dict(zip(task.outputs, counts.tolist()))


def modality(m: Modality, described: Mapping[str, Mapping], scan: Scan, size: int) -> dict:
  """What is known of a modality and of each of its bands."""
  found = scan.moments[m.name]
  values = size * int(np.prod(m.shape[:-1]))
  none = lambda number, count: float(number) if count else None
  bands = {}
  for k, band in enumerate(m.bands):
    count = found.count[k]
    bands[band] = {
      "missing": float(1 - count / values),
      "mean": none(found.mean[k], count),
      "deviation": none(np.sqrt(found.spread[k] / max(count, 1)), count),
      "least": none(found.least[k], count),
      "greatest": none(found.greatest[k], count),
    }
  views = [view for view in m.views if view in described]
  out = {
    "shape": list(m.shape),
    "bands": list(m.bands),
    "statistics": bands,
    "constant": [band for k, band in enumerate(m.bands) if 0 < found.count[k] and _constant(found, k)],
    "empty": [band for k, band in enumerate(m.bands) if not found.count[k]],
    "equal_bands": [list(names) for names in scan.equal_bands[m.name]],
    "zeros": scan.zeros.get(m.name, 0.0),
    "descriptions": {view: described[view].get("description", "") for view in views},
    "units": {band: unit for band, unit in zip(m.bands, m.units) if unit},
    "days": {view: list(scan.days[view] or ()) or None for view in views if view in scan.days},
  }
  return out if m.name == CONTEXT else out | {"absent": int((scan.present[m.name] == 0).sum())}


def _constant(found, k: int) -> bool:
  return found.least[k] == found.greatest[k]


def samples(dataset: Dataset, modalities: Sequence[Modality], index: Index, rows: np.ndarray) -> dict:
  """The values of samples as a model sees them before normalisation; None where they are missing."""
  reader, out = make_reader(dataset, modalities), {}
  for row in rows:
    sample, target = reader(int(row)), index.target[row]
    out[str(index.ids[row])] = {
      "inputs": {name: _nested(x) for name, x in sample["inputs"].items()},
      "present": {name: bool(flag) for name, flag in sample["present"].items()},
      "target": _nested(target) if index.labelled[row] else None,
      "label": _label(dataset.task, target) if index.labelled[row] else None,
      "groups": {name: str(of[row]) for name, of in index.groups.items()},
    }
  return out


def _nested(x: np.ndarray) -> object:
  """An array as nested lists, None for what is not finite."""
  x = np.asarray(x)
  if x.dtype.kind != "f":
    return x.tolist()
  out = x.astype(object)
  out[~np.isfinite(x)] = None
  return out.tolist()


def _label(task: Task, target: np.ndarray) -> object:
  """A target in words: its class or its labels; of a regression its values by output."""
  if task.one_class:
    return task.outputs[int(target)]
  if task.kind == "multilabel":
    return [name for name, has in zip(task.outputs, target) if has > 0]
  return {name: float(value) for name, value in zip(task.outputs, target)}


def _groups(task: Task, index: Index, groups: np.ndarray) -> dict:
  """The number of groups, and the targets of the greatest ones."""
  names, counts = np.unique(groups[index.labelled], return_counts=True)
  greatest = names[np.argsort(-counts, kind="stable")[:LISTED]].tolist()
  of = lambda name: index.target[index.labelled & (groups == name)]
  return {
    "number": len(np.unique(groups)),
    "greatest": {name: {"samples": len(of(name)), "targets": targets(task, of(name))} for name in greatest},
  }


def _run(task: Task, index: Index, scan: Scan, run: Run) -> dict:
  known = lambda rows: rows[index.labelled[rows]]
  of = lambda rows: {
    "samples": len(rows),
    "labelled": len(known(rows)),
    "targets": targets(task, index.target[known(rows)]),
    "present": {name: int(flags[rows].sum()) for name, flags in scan.present.items()},
  }
  nowhere = parts(run, len(index.ids)) == 0
  return {
    "parts": {part: of(getattr(run, part)) for part in PARTS},
    "test_stops_training": bool(np.array_equal(run.validation, run.test)),
    "left_out": int((nowhere & index.labelled).sum()),
  }


def _equal_samples(index: Index, scan: Scan, runs: Sequence[Run]) -> dict:
  """Sets of equal samples that stand in different parts, with their parts in the first such run."""
  sets = equal_samples(scan.digests, runs)
  names = {number: part for part, number in PARTS.items()}
  listed = []
  for rows in sets[:LISTED]:
    run, part = next(
      (run, part) for run in runs for part in [parts(run, len(index.ids))[rows]] if len(set(part) - {0}) > 1
    )
    listed.append({"run": run.name, "parts": {str(index.ids[r]): names.get(p) for r, p in zip(rows, part)}})
  return {"number": len(sets), "listed": listed}


def text(found: Mapping) -> str:
  """The report for people."""
  task = found["task"]
  unit = f" in {task['unit']}" if task["unit"] else ""
  lines = [f"{found['name']}: {found['number']} samples, {found['labelled']} with a label"]
  lines += [f"task: {task['kind']}, {len(task['outputs'])} outputs{unit}", *_targets(found["targets"])]
  if found["dates"]:
    lines.append("dates of the samples: {} to {}".format(*found["dates"]))
  if found["coordinates"]:
    (south, west), (north, east) = found["coordinates"]
    lines.append(f"latitude {south:.4g} to {north:.4g}, longitude {west:.4g} to {east:.4g}")
  for name, m in found["modalities"].items():
    lines += ["", *_modality(name, m)]
  for name, groups in found["groups"].items():
    lines += ["", f"group {name}: {groups['number']} groups, the greatest:"]
    for group, own in list(groups["greatest"].items())[:5]:
      lines.append(f"  {group}: {own['samples']} samples; {_short(own['targets'])}")
  lines += ["", "parts (samples, with a label):"]
  for name, run in found["runs"].items():
    sizes = [f"{part} {own['samples']}, {own['labelled']}" for part, own in run["parts"].items()]
    same = " (the test part also stops the training)" if run["test_stops_training"] else ""
    left_out = f"; {run['left_out']} labelled samples in no part" if run["left_out"] else ""
    lines.append(f"  {name}: {'; '.join(sizes)}{left_out}{same}")
    hidden = "validation" if same or not run["parts"]["validation"]["samples"] else ""
    shown = {part: own for part, own in run["parts"].items() if part != hidden}
    lines += [f"    {part}: {_short(own['targets'])}" for part, own in shown.items()]
  lines += ["", "test samples that share a window of steps with a training sample, exactly or nearly:"]
  lines += _leaks(found["runs"], found["near_duplicates"], found["nearest"])
  equal = found["equal_samples"]
  lines.append(f"  {equal['number']} sets of samples with equal inputs stand in different parts")
  for one in equal["listed"][:5]:
    lines.append(
      f"    {one['run']}: " + ", ".join(f"{name} in {part}" for name, part in one["parts"].items())
    )
  for name, sample in found["samples"].items():
    lines += ["", f"sample {name}: target {sample['label']}"]
    for m, x in sample["inputs"].items():
      absent = "" if sample["present"].get(m, True) else " (absent)"
      values = np.array(x, np.float64)
      lines.append(f"  {m} {list(values.shape)}{absent}")
      lines += ["    " + line for line in np.array2string(values, precision=4, threshold=200).split("\n")]
  return "\n".join(lines)


def _targets(counts: Mapping) -> list[str]:
  if all(isinstance(count, int) for count in counts.values()):
    return [f"  {name}: {count}" for name, count in counts.items()]
  return [f"  {name}: {_figures(own)}" for name, own in counts.items()]


def _short(counts: Mapping) -> str:
  return ", ".join(line.strip() for line in _targets(counts))


def _figures(own: Mapping) -> str:
  """Mean, deviation and range."""
  if own.get("mean") is None:
    return "no value"
  return "mean {mean:.4g}, deviation {deviation:.4g}, {least:.5g} to {greatest:.5g}".format(**own)


def _modality(name: str, m: Mapping) -> list[str]:
  absent = f", absent from {m['absent']} samples" if m.get("absent") else ""
  lines = [f"{name}: shape {tuple(m['shape'])}, {len(m['bands'])} bands{absent}"]
  for view, described in m["descriptions"].items():
    lines += [f"  {view}: {described}"] if described else []
  for view, days in m["days"].items():
    lines.append(f"  days of {view}: " + ("{} to {}".format(*days) if days else "none"))
  for band, own in m["statistics"].items():
    unit = f" ({m['units'][band]})" if band in m["units"] else ""
    lines.append(f"  {band}{unit}: {_figures(own)}; {own['missing']:.1%} missing")
  for what, key in (("constant", "constant"), ("without any value", "empty")):
    lines += [f"  {what}: {', '.join(m[key])}"] if m[key] else []
  if m["zeros"]:
    places = "pixels" if len(m["shape"]) > 2 else "steps"
    lines.append(f"  0 in all bands: {m['zeros']:.1%} of the {places}; if these are missing, declare nodata")
  return lines + [f"  the same values: {', '.join(names)}" for names in m["equal_bands"]]


def _leaks(runs: Mapping[str, Mapping], totals: Mapping[str, Mapping], nearest: Mapping) -> list[str]:
  lines = [f"  {sensor}: {_near(near)} in all runs" for sensor, near in totals.items()]
  lines += _nearest("  ", nearest)
  for name, run in runs.items():
    own = run["leakage"]
    lines.append(f"  {name}: {own['equal']} test samples equal a training sample")
    lines += [f"    {sensor}: {_near(near)}" for sensor, near in own["near_duplicates"].items()]
    lines += _nearest("    ", own["nearest"])
    for group, names in own["straddling"].items():
      more = f", e.g. {', '.join(names[:3])}" if names else ""
      lines.append(f"    {len(names)} groups of {group} stand in both{more}")
  return lines


def _nearest(indent: str, nearest: Mapping[str, Mapping]) -> list[str]:
  out = []
  for what, own in nearest.items():
    unit, _, where = what.partition(" ")
    of = "" if own["found"] == own["samples"] else f"; {own['found']} of {own['samples']} have one"
    if own["found"]:
      figures = f"median {own['median']:.4g} {unit}, least {own['least']:.4g} {unit}"
      out.append(f"{indent}nearest training sample{f' {where}' if where else ''}: {figures}{of}")
    else:
      out.append(f"{indent}no training sample{f' {where}' if where else ''}")
  return out


def _near(near: Mapping) -> str:
  share = lambda number: f"{number / max(near['samples'], 1):.1%}"
  groups = [f"{share(number)} of the same {group}" for group, number in near["same_group"].items()]
  return f"{near['found']} of {near['samples']} ({', '.join([share(near['found']), *groups])})"
