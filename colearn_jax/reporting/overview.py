"""Puts the report together: tables, leakage, figures, and what the features hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from colearn_jax.reporting import charts, chosen, drawing, embeddings, figures, samples
from colearn_jax.reporting.comparisons import Compared, ranks
from colearn_jax.reporting.document import Figure, Section, document
from colearn_jax.reporting.statistics import Paired
from colearn_jax.reporting.study import Cell, Study


def report(study: Study, fixed: Sequence[Compared]) -> Section:
  """The whole report. Without matplotlib it has no figures, and says what to install."""
  plt = drawing.library()
  if plt is None:
    print(drawing.INSTALL, file=sys.stderr)
    return document(study, fixed, lambda cell: _cell(None, cell, fixed))
  with drawing.style(plt):
    return document(study, fixed, lambda cell: _cell(plt, cell, fixed), _whole(plt, study, fixed))


def _whole(plt: Any, study: Study, fixed: Sequence[Compared]) -> list[Figure]:
  """The figures of the whole study: differences by axis and by metric, and critical differences."""
  out = _gains(plt, fixed)
  for metric in dict.fromkeys(one.cell.metric for one in fixed if one.paired is not None):
    own = {
      _label(one): (one.paired, bool(one.adjusted < 0.05))
      for one in fixed
      if one.paired is not None and one.cell.metric == metric
    }
    caption = "Mean differences with corrected 95 % intervals; filled: significant after Holm's correction"
    out.append(charts.differences(plt, own, f"difference in {metric}", caption))
  if (found := ranks(study)) is not None:
    titles = {name: arm.title for cell in study.cells for name, arm in cell.arms.items()}
    caption = "Critical differences: methods under one bar are not told apart (Friedman, Nemenyi, 5 %)"
    out.append(charts.critical_differences(plt, found, titles, caption))
  return out


def _gains(plt: Any, fixed: Sequence[Compared]) -> list[Figure]:
  """The differences along the axes of the cells, a figure for each pair of arms and predictor."""
  panels: dict[tuple[str, str, str], dict[float | None, dict[float, Paired]]] = {}
  for one in fixed:
    if one.cell.axes and one.paired is not None:
      first, second, *_ = (*one.cell.axes.values(), None)
      lines = panels.setdefault((one.arm, one.against, one.predictor), {})
      lines.setdefault(second, {})[first] = one.paired
  out = []
  for (arm, against, predictor), lines in panels.items():
    if len({first for line in lines.values() for first in line}) > 1:
      cell = next(one.cell for one in fixed if one.cell.axes and {arm, against} <= set(one.cell.arms))
      name = f"{cell.arms[arm].title} − {cell.arms[against].title}, {predictor}"
      title = f"{predictor}: difference in {cell.metric}"
      caption = f"{name}: mean differences with corrected 95 % intervals"
      out.append(charts.gains(plt, lines, tuple(cell.axes), title, caption))
  return out


def _label(one: Compared) -> str:
  title = lambda name: one.cell.arms[name].title
  place = f"{one.cell.title}, " if one.cell.name else ""
  return f"{place}{one.predictor}\n{title(one.arm)} − {title(one.against)}"


def _cell(plt: Any, cell: Cell, fixed: Sequence[Compared]) -> list[Section]:
  """Further sections of a cell: chosen settings, leakage and figures."""
  tables = chosen.tables(cell)
  out = [Section("Chosen settings", tables=tuple(tables), folded=True)] if tables else []
  described = cell.described
  if described is None:
    return out
  data, why = samples.data_of(cell)
  line = samples.leakage_line(data) if data else f"It is not known: {why}."
  out += [Section("Leakage", (line,)), *figures.sections(plt, cell, fixed, described.task, data)]
  if data is not None:
    for arm in figures.chosen(cell, fixed):
      out += embeddings.sections(plt, arm)
  return out
