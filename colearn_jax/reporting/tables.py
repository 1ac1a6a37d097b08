"""Tables, as Markdown, LaTeX and HTML, and the numbers behind them as CSV."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import re
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Entry:
  """One field of a table: its text, and whether it is in bold."""

  text: str
  bold: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of text. The first column holds names, the others hold numbers.

  Attributes:
    title: heading above the table.
    header: names of the columns.
    rows: the fields of each row.
    notes: sentences below the table.
  """

  title: str
  header: tuple[str, ...]
  rows: tuple[tuple[Entry, ...], ...]
  notes: tuple[str, ...] = ()


def table(
  title: str, header: Sequence[str], rows: Iterable[Sequence[Entry | str]], notes: Sequence[str] = ()
) -> Table:
  """Makes a table. Plain text is taken as a field that is not in bold."""
  fields = lambda row: tuple(Entry(field) if isinstance(field, str) else field for field in row)
  return Table(title, tuple(header), tuple(fields(row) for row in rows), tuple(notes))


def number(value: float | None, digits: int = 3, sign: str = "-") -> str:
  """A number with three decimals, fewer from 10 on; `-` if it is undefined. `sign="+"` shows plus signs."""
  if value is None or value != value:
    return "-"
  digits = digits if abs(value) < 10 else 2 if abs(value) < 100 else 1
  return f"{value:{sign}.{digits}f}"


def spread(mean: float | None, std: float | None) -> str:
  """Mean and deviation; the mean alone if there is no deviation, as of a single run."""
  return number(mean) if std is None or std != std else f"{number(mean)} ± {number(std)}"


def probability(p: float) -> str:
  """A p-value with three decimals, `<0.001` below; `-` if it is undefined."""
  return "-" if p != p else "<0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float | None) -> str:
  """A duration in words, e.g. `42 s`, `3 min 20 s`, `1 h 05 min`."""
  if seconds is None:
    return "-"
  if seconds < 60:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"


def markdown(own: Table, level: int = 3) -> str:
  """A table in Markdown, with its heading and notes."""
  text = lambda field: re.sub(r"([\\|*_`<>\[\]])", r"\\\1", field)
  show = lambda field: f"**{text(field.text)}**" if field.bold and field.text else text(field.text)
  lines = [f"{'#' * level} {text(own.title)}", ""] if own.title else []
  lines += [_line(map(text, own.header)), _line([":--", *["--:"] * (len(own.header) - 1)])]
  lines += [_line(map(show, row)) for row in own.rows]
  for note in own.notes:
    lines += ["", text(note)]
  return "\n".join(lines)


def _line(fields: Iterable[str]) -> str:
  return f"| {' | '.join(fields)} |"


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
_LATEX |= {"²": r"$^2$", "−": "$-$", "<": "$<$", ">": "$>$", "…": r"\dots{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def latex_text(text: str) -> str:
  """Text in which LaTeX's special characters are escaped."""
  return "".join(_LATEX.get(character, character) for character in text)


def latex(own: Table) -> str:
  r"""A table in LaTeX, for the package `booktabs`."""
  show = lambda field: rf"\textbf{{{latex_text(field.text)}}}" if field.bold else latex_text(field.text)
  line = lambda fields: "    " + " & ".join(fields) + r" \\"
  return "\n".join(
    [
      r"\begin{table}",
      r"  \centering",
      rf"  \caption{{{latex_text(' '.join([own.title.rstrip('.') + '.', *own.notes]))}}}",
      rf"  \begin{{tabular}}{{l{'r' * (len(own.header) - 1)}}}",
      r"    \toprule",
      line(map(latex_text, own.header)),
      r"    \midrule",
      *(line(map(show, row)) for row in own.rows),
      r"    \bottomrule",
      r"  \end{tabular}",
      r"\end{table}",
    ]
  )


def as_html(own: Table, level: int = 3) -> str:
  """A table in HTML, with its heading and notes. A wide table scrolls inside its own frame."""
  tag = lambda field, name: f"<{name}>{html.escape(field)}</{name}>"
  inside = lambda field: tag(field.text, "strong") if field.bold else html.escape(field.text)
  cell = lambda k, field: f'<th scope="row">{inside(field)}</th>' if k == 0 else f"<td>{inside(field)}</td>"
  head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in own.header)
  rows = ["<tr>" + "".join(cell(k, field) for k, field in enumerate(row)) + "</tr>" for row in own.rows]
  heading = tag(own.title, f"h{level}") if own.title else ""
  notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in own.notes)
  label = html.escape(own.title, quote=True)
  return (
    f'{heading}<div class="wide" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>{head}'
    f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{notes}"
  )


def as_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
  """Numbers as CSV, with all their digits; empty where undefined."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(header)
  empty = lambda value: "" if value is None or value != value else value
  writer.writerows([empty(value) for value in row] for row in rows)
  return out.getvalue()
