"""The figures of scores and predictions. Each function draws one panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from colearn_jax.reporting.document import Figure
from colearn_jax.reporting.drawing import INK, PALETTE, SCALE, WIDTH, finish, panel
from colearn_jax.reporting.statistics import Paired, Ranking


def learning_curve(
  plt: Any, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, caption: str
) -> Figure:
  """Values of a loss by epoch.

  Args:
    plt: pyplot.
    curves: by name `[epochs]` of the training part and of the validation part, means over the runs. NaN
      where there is none.
    title: name of the term.
    caption: of the figure.
  """
  figure, ax = panel(plt)
  validated = any(np.isfinite(validation).any() for _, validation in curves.values())
  for name, (train, validation) in curves.items():
    epochs = np.arange(1, len(train) + 1)
    line = ax.plot(epochs, train, label=name, marker="." if len(epochs) == 1 else "")[0]
    if validated:
      ax.plot(epochs, validation, "--", color=line.get_color(), marker=line.get_marker())
  ax.set(title=title, xlabel=f"epoch (solid: training{', dashed: validation' * validated})")
  ax.xaxis.get_major_locator().set_params(integer=True)
  ax.legend()
  return finish(plt, figure, caption)


def differences(plt: Any, found: Mapping[str, tuple[Paired, bool]], title: str, caption: str) -> Figure:
  """Mean differences with their corrected 95 % intervals; filled if they are significant."""
  figure, ax = panel(plt, height=0.7 + 0.24 * len(found))
  for k, (pair, significant) in enumerate(found.values()):
    color = PALETTE[0] if significant else INK
    if not np.isnan(pair.low):
      ax.plot([pair.low, pair.high], [k, k], color=color, solid_capstyle="butt")
    ax.plot(pair.mean, k, "o", color=color, markersize=4, markerfacecolor=color if significant else "none")
  ax.axvline(0, color=INK, linewidth=0.8)
  ax.set_yticks(range(len(found)), list(found))
  ax.set(title=title, ylim=(len(found) - 0.5, -0.5))
  return finish(plt, figure, caption)


def gains(
  plt: Any,
  found: Mapping[float | None, Mapping[float, Paired]],
  axes: Sequence[str],
  title: str,
  caption: str,
) -> Figure:
  """Mean differences along a number in which cells differ, with their corrected 95 % intervals.

  Args:
    plt: pyplot.
    found: a line for each value of the second axis (None without one): the difference by value of the first.
    axes: names of the axes.
    title: of the panel.
    caption: of the figure.
  """
  figure, ax = panel(plt)
  every = sorted({x for line in found.values() for x in line})
  apart = 0.012 * (every[-1] - every[0])  # so that intervals at the same place are told apart
  for k, (second, line) in enumerate(sorted(found.items(), key=lambda item: item[0] or 0.0)):
    x = np.array(sorted(line))
    mean, low, high = (np.array([getattr(line[at], name) for at in x]) for name in ("mean", "low", "high"))
    shifted = x + apart * (k - (len(found) - 1) / 2)
    label = None if second is None else f"{second:g} {axes[1]}"
    drawn = ax.plot(shifted, mean, "o-", markersize=4, label=label)[0]
    ax.vlines(shifted, low, high, color=drawn.get_color(), linewidth=0.8)
  ax.axhline(0, color=INK, linewidth=0.8)
  ax.set(title=title, xlabel=axes[0])
  if len(axes) > 1:
    ax.legend()
  return finish(plt, figure, caption)


def critical_differences(plt: Any, found: Ranking, titles: Mapping[str, str], caption: str) -> Figure:
  """The diagram of Demšar (2006): mean ranks, and bars over methods that are not told apart."""
  order = sorted(found.ranks, key=found.ranks.__getitem__)
  groups, k = found.groups, len(order)
  height = 0.7 + 0.2 * k + 0.12 * len(groups)
  figure, ax = panel(plt, height=height)
  low, high = 1.0, float(max(k, 2))
  ax.set(xlim=(low - 0.2, high + 0.2), xlabel="mean rank (1: best)")
  for at, name in enumerate(order):
    ax.plot([found.ranks[name]] * 2, [0, at + 1], color=INK, linewidth=0.6, alpha=0.4)
    ax.plot(found.ranks[name], at + 1, "o", color=PALETTE[0], markersize=4)
    right = found.ranks[name] > (low + high) / 2
    ax.annotate(
      f"{titles[name]} {found.ranks[name]:.2f}",
      (found.ranks[name], at + 1),
      xytext=(-5 if right else 5, 0),
      textcoords="offset points",
      ha="right" if right else "left",
      va="center",
      fontsize=7,
    )
  for at, group in enumerate(groups):
    ends = [found.ranks[group[0]] - 0.04, found.ranks[group[-1]] + 0.04]
    ax.plot(ends, [-0.5 - 0.5 * at] * 2, color=PALETTE[1], linewidth=3, solid_capstyle="butt")
  bottom = -0.5 * len(groups) - 1.2
  ax.plot([low, low + found.distance], [bottom] * 2, color=INK, linewidth=1.5)
  ax.annotate(
    f"critical difference {found.distance:.2f}",
    (low, bottom),
    xytext=(0, 3),
    textcoords="offset points",
    fontsize=7,
  )
  ax.set_ylim(k + 0.6, bottom - 0.4)
  ax.set_yticks([])
  ax.spines["left"].set_visible(False)
  return finish(plt, figure, caption)


def confusion(plt: Any, counts: np.ndarray, names: Sequence[str], title: str, caption: str) -> Figure:
  """A confusion matrix `[C C]`, rows are the truth. Colours are shares of the row, numbers are counts."""
  share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  size = len(names)
  figure, ax = panel(plt, height=WIDTH if size > 3 else 2.7)
  shades = _shades(plt)
  ax.pcolormesh(share, cmap=shades, vmin=0, vmax=1)
  if size <= 8:
    for i, j in np.ndindex(size, size):
      ax.text(
        j + 0.5, i + 0.5, f"{counts[i, j]:.0f}", ha="center", va="center", fontsize=6 if size > 5 else 7
      )
  short = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
  small = {"fontsize": 7 if size <= 10 else 5}
  ax.set_xticks(np.arange(size) + 0.5, short, rotation=90 if size > 3 else 0, **small)
  ax.set_yticks(np.arange(size) + 0.5, short, **small)
  ax.set(title=title, xlabel="predicted", ylabel="true", ylim=(size, 0))
  ax.grid(False)
  return finish(plt, figure, caption)


def predicted_against_true(
  plt: Any, true: np.ndarray, predicted: np.ndarray, title: str, unit: str, caption: str
) -> Figure:
  """Predictions `[n]` against targets `[n]`, with the diagonal."""
  figure, ax = panel(plt, height=3.0)
  ends = np.array([min(true.min(), predicted.min()), max(true.max(), predicted.max())])
  ax.plot(ends, ends, color=INK, linewidth=0.8)
  alpha = float(np.clip(300 / len(true), 0.15, 0.7))
  ax.scatter(true, predicted, s=7, alpha=alpha, linewidths=0, rasterized=True)
  ax.set(title=title, xlabel=f"true {unit}".strip(), ylabel=f"predicted {unit}".strip())
  return finish(plt, figure, caption)


def probabilities(plt: Any, by_arm: Mapping[str, np.ndarray], title: str, label: str, caption: str) -> Figure:
  """Histograms of predicted probabilities, as shares of all samples."""
  figure, ax = panel(plt)
  edges = np.linspace(0, 1, 21)
  for name, p in by_arm.items():
    ax.stairs(np.histogram(p, edges)[0] / len(p), edges, label=name, linewidth=1.4)
  ax.set(title=title, xlabel=label, ylabel="share of samples")
  ax.legend()
  return finish(plt, figure, caption)


def reliability(
  plt: Any, by_arm: Mapping[str, tuple[np.ndarray, np.ndarray, float]], title: str, label: str, caption: str
) -> Figure:
  """Frequencies of an event against its predicted probabilities, see `predictions.calibration`."""
  figure, ax = panel(plt, height=3.0)
  ax.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
  for name, (p, frequency, error) in by_arm.items():
    ax.plot(p, frequency, ".-", label=f"{name}, error {error:.3f}")
  ax.set(title=title, xlabel=label, ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1))
  ax.legend()
  return finish(plt, figure, caption)


def per_class(
  plt: Any, scores: Mapping[str, np.ndarray], names: Sequence[str], title: str, label: str, caption: str
) -> Figure:
  """A score `[C]` of each class, a dot for each arm; NaN has no dot."""
  figure, ax = panel(plt, height=1.0 + 0.24 * len(names))
  offsets = np.linspace(-0.22, 0.22, len(scores)) if len(scores) > 1 else [0.0]
  for (name, values), offset in zip(scores.items(), offsets):
    ax.plot(values, np.arange(len(names)) + offset, "o", markersize=4, label=name)
  ax.set_yticks(range(len(names)), [n if len(n) <= 18 else f"{n[:17]}…" for n in names])
  ax.set(title=title, xlabel=label, xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
  _legend_below(figure, ax)
  return finish(plt, figure, caption)


def error_map(
  plt: Any, places: np.ndarray, error: np.ndarray, title: str, label: str, caption: str
) -> Figure:
  """Mean errors `[n]` at places `[n 2]`, latitude and longitude in degrees."""
  figure, ax = panel(plt, height=3.0)
  latitude, longitude = places.T
  ends = np.percentile(error, [5, 95])
  order = np.argsort(error)
  points = ax.scatter(
    longitude[order], latitude[order], s=12, c=error[order], cmap=_scale(plt), vmin=ends[0], vmax=ends[1]
  )
  bar = figure.colorbar(points, label=label, shrink=0.8)
  bar.outline.set_visible(False)
  ax.set_aspect(1 / max(np.cos(np.radians(latitude.mean())), 0.1), adjustable="datalim")
  ax.set(title=title, xlabel="longitude", ylabel="latitude")
  return finish(plt, figure, caption)


def embedding(
  plt: Any, points: np.ndarray, labels: np.ndarray, order: Sequence[str], title: str, caption: str
) -> Figure:
  """Points `[n 2]`, coloured by `labels` `[n]`: names in `order`, or numbers if `order` is empty."""
  figure, ax = panel(plt, height=3.0)
  dots = {"s": 6, "linewidths": 0, "rasterized": True, "alpha": 0.6}
  shuffled = np.random.default_rng(0).permutation(len(points))  # so that no colour covers the others
  x, y = points[shuffled].T
  if len(order):
    number = {name: k for k, name in enumerate(order)}
    colors = [PALETTE[number[name] % len(PALETTE)] for name in labels[shuffled]]
    ax.scatter(x, y, c=colors, **dots)
    for name in order[:16]:
      ax.plot([], [], "o", color=PALETTE[number[name] % len(PALETTE)], markersize=4, label=name)
    _legend_below(figure, ax)
  else:
    values = labels[shuffled].astype(float)
    ends = np.percentile(values, [2, 98])
    drawn = ax.scatter(x, y, c=values, cmap=_scale(plt), vmin=ends[0], vmax=ends[1], **dots)
    figure.colorbar(drawn, shrink=0.8).outline.set_visible(False)
  ax.set(title=title, xticks=[], yticks=[])
  return finish(plt, figure, caption)


def _legend_below(figure: Any, ax: Any) -> None:
  handles, names = ax.get_legend_handles_labels()
  columns = 1 if max(map(len, names)) > 28 else 2 if max(map(len, names)) > 12 else 3
  figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)))


def _shades(plt: Any) -> Any:
  """Blue of growing opacity: text on it is seen on a white page and on a black one."""
  red, green, blue = (int(PALETTE[0][i : i + 2], 16) / 255 for i in (1, 3, 5))
  colors = [(red, green, blue, alpha) for alpha in np.linspace(0, 0.75, 65)]
  return plt.matplotlib.colors.ListedColormap(colors)


def _scale(plt: Any) -> Any:
  return plt.matplotlib.colors.LinearSegmentedColormap.from_list("scale", SCALE)
