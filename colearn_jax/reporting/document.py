"""The report as a tree of sections, and its forms as Markdown and LaTeX. `page` makes HTML of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from colearn_jax.reporting import sections
from colearn_jax.reporting.comparisons import Compared, others, ranks
from colearn_jax.reporting.statistics import Ranking
from colearn_jax.reporting.study import Cell, Study
from colearn_jax.reporting.tables import Table, latex, markdown, number, probability, table


@dataclasses.dataclass(frozen=True)
class Figure:
  """A drawing for the HTML page: inline SVG, and what it shows in words."""

  caption: str
  svg: str


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report.

  Attributes:
    title: its heading.
    text: paragraphs.
    tables: after the text.
    figures: after the tables, on the page alone.
    below: further sections in it.
    folded: whether the page shows it only when it is opened.
  """

  title: str
  text: tuple[str, ...] = ()
  tables: tuple[Table, ...] = ()
  figures: tuple[Figure, ...] = ()
  below: tuple[Section, ...] = ()
  folded: bool = False


More = Callable[[Cell], Sequence[Section]]


def document(study: Study, fixed: Sequence[Compared], more: More, drawn: Sequence[Figure] = ()) -> Section:
  """The whole report.

  Args:
    study: what it is about.
    fixed: the comparisons that were fixed beforehand.
    more: returns further sections of a cell, e.g. figures.
    drawn: figures of the whole study.
  """
  count = sum(len(one.predictors) for one in study.comparisons)
  text = [sections.summary(fixed, count, study.single)] if count else []
  text += [f"Digest of the plan: {study.digest}"] if study.digest else []
  below = [_cell(study, cell, fixed, count, more) for cell in study.cells]
  ranking = ranks(study)
  if ranking is not None or drawn:
    below.insert(0, _overview(study, ranking, drawn))
  below.append(Section("How to read the tables", sections.READING))
  return Section(study.name, tuple(text), below=tuple(below))


def _cell(study: Study, cell: Cell, fixed: Sequence[Compared], count: int, more: More) -> Section:
  metric = sections.title_of(cell.metric)
  tables = [sections.scores(cell, cell.metric)]
  own = [one for one in fixed if one.cell is cell]
  if own:
    what = "differences to the baseline" if study.single else "comparisons that were fixed beforehand"
    title = f"{metric}: {what}"
    tables.append(sections.comparisons(own, of_all=count, title=title))
  if rest := others(cell, fixed):
    title = f"{metric}: other differences to the baseline"
    tables.append(sections.comparisons(rest, of_all=None, title=title))
  tables += [sections.scores(cell, other) for other in cell.metrics if other != cell.metric]
  return Section(cell.title, (sections.facts(cell),), tuple(tables), below=tuple(more(cell)))


def _overview(study: Study, found: Ranking | None, drawn: Sequence[Figure]) -> Section:
  """The figures of the whole study and the ranks of its arms."""
  if found is None:
    return Section("Overview", figures=tuple(drawn))
  titles = {name: arm.title for cell in study.cells for name, arm in cell.arms.items()}
  order = sorted(found.ranks, key=found.ranks.__getitem__)
  names = dict.fromkeys(cell.results.dataset for cell in study.cells)
  notes = [
    f"Friedman test: chi-square {found.statistic:.2f}, p {probability(found.p)}. Two methods whose mean "
    f"ranks differ by less than {found.distance:.2f} (Nemenyi, 5 %) are not told apart.",
  ]
  if len(names) < found.blocks:
    notes.append(
      f"The {found.blocks} cells come from {len(names)} data set{'s' * (len(names) > 1)} "
      f"({', '.join(names)}), so they are not independent, and the test finds differences too easily."
    )
  rows = [[titles[name], number(found.ranks[name], 2)] for name in order]
  title = f"Mean rank over {found.blocks} cells, 1 is the best"
  return Section("Overview", (), (table(title, ["method", "mean rank"], rows, notes),), tuple(drawn))


def as_markdown(root: Section, level: int = 1) -> str:
  """The report in Markdown, without figures."""
  lines = [f"{'#' * level} {root.title}", *root.text]
  lines += [markdown(own, min(level + 1, 6)) for own in root.tables]
  shown = [part for part in root.below if has_text(part)]
  return "\n\n".join([*lines, *(as_markdown(part, level + 1).rstrip("\n") for part in shown)]) + "\n"


def has_text(section: Section) -> bool:
  """Whether anything but figures is in a section."""
  return bool(section.text or section.tables or any(map(has_text, section.below)))


def as_latex(root: Section) -> str:
  """All tables in LaTeX, to be included in a document that uses the package `booktabs`."""
  parts = [f"% {root.title}"]
  for title, own in _tables(root, ()):
    named = dataclasses.replace(own, title=": ".join(filter(None, [*title, own.title])))
    parts.append(latex(named))
  return "\n\n".join(parts) + "\n"


def _tables(section: Section, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Table]]:
  for own in section.tables:
    yield above, own
  for part in section.below:
    yield from _tables(part, (*above, part.title))
