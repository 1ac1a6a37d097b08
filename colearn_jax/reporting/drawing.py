"""How figures are drawn: as inline SVG whose text has the colour of the page, in light and in dark."""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

from colearn_jax.inspection import plots
from colearn_jax.reporting.document import Figure
from colearn_jax.types import InputError

INK = "#0a0b0c"  # stands for the page's colour of text
PALETTE = ("#3b82c4", "#e0802c", "#2e9e6b", "#c2518c", "#8b6fd1", "#a68a1e", "#3aa3b5", "#d0564a")
SCALE = ("#3aa3b5", "#a68a1e", "#d0564a")  # low, middle, high; seen on white and on black
WIDTH, HEIGHT = 3.5, 2.7  # inches of a panel, 336 pixels wide: it fits a narrow page unscaled
DOTS = 150  # per inch, of what is stored as pixels
INSTALL = "Figures need matplotlib: pip install 'colearn_jax[plot]'"


def library() -> Any:
  """The module `matplotlib.pyplot`; None if it is not installed."""
  try:
    return plots.library()
  except InputError:
    return None


@contextlib.contextmanager
def style(plt: Any) -> Iterator[None]:
  """The settings of all figures."""
  rc = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "colearn_jax",
    "figure.dpi": DOTS,
  }
  rc |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
  with plt.rc_context(rc), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # letters that the font lacks; panels too small for their labels
    yield


def panel(plt: Any, width: float = WIDTH, height: float = HEIGHT) -> tuple[Any, Any]:
  """A figure with one axis."""
  return plt.subplots(figsize=(width, height), layout="constrained")


def finish(plt: Any, figure: Any, caption: str) -> Figure:
  """Turns a figure into inline SVG and closes it."""
  out = io.StringIO()
  nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
  figure.savefig(out, format="svg", transparent=True, metadata=nothing)
  plt.close(figure)
  return Figure(caption, inline(out.getvalue(), caption))


def inline(svg: str, label: str) -> str:
  """An SVG file as an element of a page.

  Its text takes the page's colour and font. Names inside it get a prefix of their own, because names must
  differ on the whole page.
  """
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S).replace(INK, "currentColor")
  used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
  prefix = f"f{hashlib.sha256((label + svg).encode()).hexdigest()[:10]}-"
  name = lambda match: f' id="{prefix}{match[1]}"' if match[1] in used else ""
  svg = re.sub(r' id="([^"]*)"', name, svg)
  svg = re.sub(r"(url\(#|href=\"#)", rf"\1{prefix}", svg)
  svg = re.sub(r"font: (?:[^;\"]*?)(\d+(?:\.\d+)?px)[^;\"]*", r"font-size: \1", svg)
  width = float(re.search(r'width="([\d.]+)pt"', svg)[1]) / 0.75  # type: ignore[index]
  text = html.escape(label, quote=True)
  head = f'<svg role="img" aria-label="{text}" style="width: {width:.0f}px" viewBox='
  return re.sub(r"<svg [^>]*?viewBox=", head, svg, count=1).strip()
