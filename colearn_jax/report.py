"""Writes the report of a study or of a single run: `python -m colearn_jax.report --workdir=W`.

It writes `report.md`, `report.tex`, `scores.csv`, `comparisons.csv` and `report.html`, one page that needs no
other file, to the folder `report` of the work directory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from colearn_jax.types import InputError


def report(workdir: str | Path, out: str | Path | None = None) -> list[Path]:
  """Writes the report.

  Args:
    workdir: work directory of a study or of a run.
    out: folder for the files. Default: `report` in the work directory.

  Returns:
    The files.

  Raises:
    InputError: the directory holds no finished run, or `out` cannot be written.
  """
  # Here, because these load JAX, and wrong flags are told before.
  from colearn_jax.reporting import comparisons, document, overview, page, sections, study, tables
  from colearn_jax.storage.files import replacing

  found = study.read(workdir)
  fixed = comparisons.fixed(found)
  root = overview.report(found, fixed)
  rest = [one for cell in found.cells for one in comparisons.others(cell, fixed)]
  compared = [*sections.comparison_rows(fixed, True), *sections.comparison_rows(rest, False)]
  texts = {
    "report.html": page.as_page(root),
    "report.md": document.as_markdown(root),
    "report.tex": document.as_latex(root),
    "scores.csv": tables.as_csv(sections.SCORE_COLUMNS, sections.score_rows(found)),
    "comparisons.csv": tables.as_csv(sections.COMPARISON_COLUMNS, compared),
  }
  folder = Path(out).expanduser() if out else found.directory / "report"
  try:
    for name, text in texts.items():
      with replacing(folder / name) as file:
        file.write(text)
  except OSError as error:
    raise InputError(f"cannot write {folder}: {error.strerror}") from None
  return [folder / name for name in texts]


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command line. InputError if an argument is wrong."""
  parser = argparse.ArgumentParser(prog="python -m colearn_jax.report", description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", required=True, help="work directory of a study or of a finished training")
  parser.add_argument("--out", help="folder for the files; default: WORKDIR/report")
  given = parser.parse_args(argv)
  for path in report(given.workdir, given.out):
    print(path)


if __name__ == "__main__":
  try:
    main()
  except InputError as error:
    sys.exit(str(error))
