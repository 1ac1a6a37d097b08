"""Plots of the samples: histograms, series, tiles and a map. Needs matplotlib."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colearn_jax.data.dataset import Dataset
from colearn_jax.data.reader import Index
from colearn_jax.inspection.scan import Scan
from colearn_jax.types import CONTEXT, InputError, Modality, Task

BANDS, CLASSES, SERIES, TILES = 16, 6, 8, 8  # that one figure shows at most


def library() -> Any:
  """The module `matplotlib.pyplot`, which draws to files alone.

  Raises:
    InputError: it is not installed.
  """
  try:
    importlib.import_module("matplotlib").use("agg")
    return importlib.import_module("matplotlib.pyplot")
  except ImportError:
    raise InputError("--plots needs matplotlib: pip install 'colearn_jax[plot]'") from None


def write(
  plt: Any, directory: Path, dataset: Dataset, modalities: Sequence[Modality], index: Index, scan: Scan
) -> list[Path]:
  """Writes the plots of the samples that a scan kept whole, and a map of all.

  Args:
    plt: what `library` returns.
    directory: is made.
    dataset: that was read.
    modalities: that were read.
    index: of all samples.
    scan: of all samples.

  Returns:
    The files: `histograms_<m>.png`, `series_<m>.png`, `tiles_<m>.png` and `map.png`.
  """
  directory.mkdir(parents=True, exist_ok=True)
  task, written = dataset.task, []
  order = _order(task, index.target)
  labels = _classes(task, index.target, order)

  def save(figure, name: str) -> None:
    written.append(directory / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.png")
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # letters that the font lacks
      figure.savefig(written[-1], dpi=110)
    plt.close(figure)

  for m in modalities:
    x = scan.examples["inputs"][m.name]
    there = scan.examples["present"][m.name] > 0 if m.name != CONTEXT else np.ones(len(x), bool)
    x, names = x[there].astype(np.float32), [label[scan.rows[there]] for label in (labels, index.ids)]
    if not len(x):
      continue
    save(_histograms(plt, m, x), f"histograms_{m.name}")
    if len(m.shape) in (2, 4):
      means = np.stack([_mean_of_pixels(one) for one in x])
      save(_series(plt, m, means, names[0], order), f"series_{m.name}")
    if len(m.shape) in (3, 4):
      save(_tiles(plt, m, x, *names), f"tiles_{m.name}")
  if scan.coordinates is not None and np.isfinite(scan.coordinates).all(1).any():
    save(_map(plt, task, scan.coordinates, index, labels, order), "map")
  return written


def _quarters(target: np.ndarray) -> np.ndarray:
  """Least, quartiles and greatest of the known values of the first target."""
  known = target[np.isfinite(target).all(1), 0]
  return np.quantile(known, [0, 0.25, 0.5, 0.75, 1]) if len(known) else np.zeros(5)


def _order(task: Task, target: np.ndarray) -> list[str]:
  """The classes, or the quarters of a target."""
  if task.kind != "regression":
    return list(task.outputs)
  ends = [f"{end:.4g}" for end in _quarters(target)]
  return [f"quarter {k + 1} ({ends[k]} to {ends[k + 1]})" for k in range(4)]


def _classes(task: Task, target: np.ndarray, order: Sequence[str]) -> np.ndarray:
  """The class of each sample: its first label, or the quarter of the first target; empty if unlabelled."""
  names = np.array([*order, ""], object)
  if task.one_class:
    return names[target]
  known = np.isfinite(target).all(1)
  if task.kind == "multilabel":
    return np.where(known & (target > 0).any(1), names[np.argmax(target > 0, axis=1)], "")
  return np.where(known, names[np.searchsorted(_quarters(target)[1:-1], target[:, 0]).clip(0, 3)], "")


def _grid(plt: Any, number: int, columns: int = 4, width: float = 3.0, height: float = 2.2):
  """A figure of so many axes; those that are left over are hidden."""
  columns = min(columns, number)
  lines = -(-number // columns)
  figure, axes = plt.subplots(
    lines,
    columns,
    figsize=(max(width * columns, 5), height * lines + 0.5),
    squeeze=False,
    layout="constrained",
  )
  for ax in axes.flat[number:]:
    ax.set_visible(False)
  return figure, axes.flat[:number]


def _histograms(plt: Any, m: Modality, x: np.ndarray):
  shown = m.bands[:BANDS]
  figure, axes = _grid(plt, len(shown))
  for k, ax in enumerate(axes):
    values = x[..., k][np.isfinite(x[..., k])]
    if len(values):
      ax.hist(values, bins=_bins(values))
      missing = 1 - len(values) / x[..., k].size
      range_ = f"{values.min():.5g} to {values.max():.5g}" + f", {missing:.1%} missing" * (missing > 0)
      ax.set_xlabel(range_, fontsize=7)
    else:
      ax.text(0.5, 0.5, "no value", ha="center")
    ax.set_title(_band(m, k), fontsize=9)
    ax.tick_params(labelsize=7)
  more = f", first {len(shown)} of {len(m.bands)} bands" if len(shown) < len(m.bands) else ""
  figure.suptitle(f"{m.name}: number of values in {len(x)} samples{more}", fontsize=10)
  return figure


def _band(m: Modality, k: int) -> str:
  """A band and its unit."""
  unit = m.units[k] if k < len(m.units) else ""  # the band of months has none
  return f"{m.bands[k]} ({unit})" if unit else m.bands[k]


def _bins(values: np.ndarray) -> Any:
  """Bins of a histogram; each has as many whole numbers if all values are whole."""
  least, most = float(values.min()), float(values.max())
  number = int(np.clip(np.sqrt(len(values)), 10, 50))
  if most == least or most - least > 1e6 or (values != np.round(values)).any():
    return number
  width = int(np.ceil((most - least + 1) / number))
  return np.arange(least - 0.5, most + width + 0.5, width)


def _mean_of_pixels(x: np.ndarray) -> np.ndarray:
  """`[T C]` of one sample, missing values left out."""
  x = x.reshape(len(x), -1, x.shape[-1])
  seen = np.isfinite(x)
  count = seen.sum(1)
  return np.where(count > 0, np.where(seen, x, 0).sum(1) / np.maximum(count, 1), np.nan)


def _series(plt: Any, m: Modality, x: np.ndarray, labels: np.ndarray, order: Sequence[str]):
  """Each band's series, thin for single samples and thick for the mean of a class."""
  every = [name for name in order if (labels == name).any()]
  classes = every[:CLASSES] or [""]
  shown = m.bands[:BANDS]
  figure, axes = _grid(plt, len(shown))
  steps = np.arange(1, x.shape[1] + 1)
  for k, ax in enumerate(axes):
    for number, name in enumerate(classes):
      own = x[labels == name][..., k]
      for line in own[:: -(-len(own) // SERIES) or 1]:
        ax.plot(steps, line, color=f"C{number}", alpha=0.25, linewidth=0.7)
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # steps without a value
        mean = np.nanmean(own, axis=0)
      ax.plot(steps, mean, ".-", color=f"C{number}", linewidth=2, label=name or "unlabelled")
    ax.set_title(_band(m, k), fontsize=9)
    ax.tick_params(labelsize=7)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("step", fontsize=7)
  handles, names = axes[0].get_legend_handles_labels()
  columns = max(min(len(names), int(figure.get_figwidth() * 10 / (max(map(len, names)) + 4))), 1)
  figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8)
  more = f", first {len(classes)} of {len(every)} classes" if len(classes) < len(every) else ""
  bands = f", first {len(shown)} of {len(m.bands)} bands" if len(shown) < len(m.bands) else ""
  title = f"{m.name}: means of {len(x)} samples (thick), examples (thin){more}{bands}"
  figure.suptitle(title, fontsize=10)
  return figure


def _tiles(plt: Any, m: Modality, x: np.ndarray, labels: np.ndarray, ids: np.ndarray):
  """The first bands of some samples as an image, all in one scale; of a series the step with most values."""
  figure, axes = _grid(plt, min(TILES, len(x)), width=2.6, height=2.8)
  chosen = np.unique(np.linspace(0, len(x) - 1, len(axes)).astype(int))
  bands = m.bands[:3] if len(m.bands) >= 3 else m.bands[:1]
  steps = [_fullest(x[i]) if x[i].ndim == 4 else None for i in chosen]
  pick = [(x[i] if step is None else x[i, step])[..., : len(bands)] for i, step in zip(chosen, steps)]
  every = np.concatenate([image.reshape(-1, len(bands)) for image in pick])
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a band without a value
    low, high = np.nanpercentile(every, [2, 98], axis=0)
  for ax, image, i, step in zip(axes, pick, chosen, steps):
    scaled = np.clip((image - low) / np.where(high > low, high - low, 1), 0, 1)
    ax.set_facecolor("magenta")  # where values are missing
    shown = np.concatenate([np.nan_to_num(scaled), np.isfinite(scaled).all(-1, keepdims=True)], -1)
    one = shown if len(bands) == 3 else np.where(shown[..., 1], shown[..., 0], np.nan)
    ax.imshow(one, interpolation="nearest", vmin=0, vmax=1)
    where = "" if step is None else f", step {step + 1}"
    ax.set_title(f"{ids[i]}{where}: {labels[i] or 'unlabelled'}", fontsize=8)
    ax.set_xticks([])
    ax.set_yticks([])
  ends = ", ".join(f"{band} {a:.3g} to {b:.3g}" for band, a, b in zip(bands, low, high))
  colours = "as red, green, blue" if len(bands) == 3 else "from dark to bright"
  figure.suptitle(f"{m.name}: {ends} {colours}; magenta: missing", fontsize=10)
  return figure


def _fullest(x: np.ndarray) -> int:
  """The step of `[T H W C]` with the most values."""
  return int(np.isfinite(x).sum((1, 2, 3)).argmax())


def _map(plt: Any, task: Task, places: np.ndarray, index: Index, labels: np.ndarray, order: Sequence[str]):
  figure, ax = plt.subplots(figsize=(7, 6), layout="constrained")
  known = np.isfinite(places).all(1)
  rows = np.random.default_rng(0).permutation(np.flatnonzero(known))  # so that no class hides the others
  rows = rows[np.argsort(index.labelled[rows], kind="stable")]  # those without a label below
  longitude, latitude = places[rows, 1], places[rows, 0]
  labelled = index.labelled[rows]
  ax.scatter(longitude[~labelled], latitude[~labelled], s=6, color="lightgrey")
  longitude, latitude, rows = longitude[labelled], latitude[labelled], rows[labelled]
  if task.kind == "regression":
    target = index.target[rows, 0]
    ends = np.percentile(target, [2, 98]) if len(target) else (0, 1)
    points = ax.scatter(longitude, latitude, s=6, c=target, vmin=ends[0], vmax=ends[1])
    figure.colorbar(points, label=f"{task.outputs[0]} {task.unit}".strip(), shrink=0.8, extend="both")
  else:
    colours = plt.get_cmap("tab10" if len(order) <= 10 else "tab20")
    number = {name: i % colours.N for i, name in enumerate(order)}
    ax.scatter(longitude, latitude, s=6, color=[colours(number.get(name, 0)) for name in labels[rows]])
    for name in [name for name in order if (labels[rows] == name).any()]:
      ax.scatter([], [], s=12, color=[colours(number[name])], label=name)
    if not labelled.all():
      ax.scatter([], [], s=12, color="lightgrey", label="unlabelled")
    figure.legend(loc="outside right upper", fontsize=7)
  ax.set_aspect(1 / max(np.cos(np.radians(places[known, 0].mean())), 0.1), adjustable="datalim")
  number_of = len(np.unique(places[known], axis=0))
  ax.set(xlabel="longitude", ylabel="latitude", title=f"{known.sum()} samples at {number_of} places")
  return figure
