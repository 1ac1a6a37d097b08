"""The report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from colearn_jax.reporting.document import Figure, Section
from colearn_jax.reporting.tables import as_html

STYLE = """
:root { color-scheme: light dark; --ink: #1c2227; --soft: #59636b; --paper: #ffffff; --line: #d5dade;
  --link: #1f6fb2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --soft: #a3adb5; --paper: #15191d; --line: #3a424a; --link: #7db7ea; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere; }
a { color: var(--link); }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.3rem; margin-top: 2.5rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
h2 { border-top: 1px solid var(--line); padding-top: 1rem; }
p { max-width: 60rem; margin: .5rem 0; } .note { color: var(--soft); font-size: .875rem; }
nav ul { padding-left: 1.2rem; }
.wide { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  overflow-wrap: normal; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); white-space: normal;
  min-width: 7rem; font-weight: 500; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; }
td.text { text-align: left; white-space: normal; min-width: 12rem; }
details { border: 1px solid var(--line); border-radius: .4rem; padding: 0 .9rem; margin: .6rem 0; }
summary { cursor: pointer; padding: .55rem 0; font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; margin: .8rem 0; }
figure { margin: 0; max-width: 22rem; } figure svg { display: block; max-width: 100%; height: auto;
  color: var(--ink); font-family: system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
figcaption { color: var(--soft); font-size: .8rem; }
"""


def as_page(root: Section) -> str:
  """The whole page."""
  names = {id(part): name for part, name in zip(root.below, _names(root.below))}
  links = [f'<li><a href="#{names[id(part)]}">{html.escape(part.title)}</a></li>' for part in root.below]
  body = "\n".join(_section(part, 2, names.get(id(part), "")) for part in root.below)
  title = html.escape(root.title)
  text = "".join(f"<p>{html.escape(line)}</p>" for line in root.text)
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header><h1>{title}</h1>{text}</header>
<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>
<main>
{body}
</main>
</body>
</html>
"""


def _names(parts: tuple[Section, ...]) -> Iterator[str]:
  """A name for each part, to link to it."""
  for number, part in enumerate(parts, 1):
    yield f"part{number}-{re.sub('[^a-z0-9]+', '-', part.title.lower()).strip('-')}"


def _section(part: Section, level: int, name: str = "") -> str:
  inside = "".join(f"<p>{html.escape(line)}</p>" for line in part.text)
  inside += "".join(as_html(own, min(level + 1, 6)) for own in part.tables)
  inside += f'<div class="figures">{"".join(map(_figure, part.figures))}</div>' if part.figures else ""
  inside += "\n".join(_section(below, level + 1) for below in part.below)
  title = html.escape(part.title)
  if part.folded:
    return f"<details><summary>{title}</summary>{inside}</details>"
  place = f' id="{name}"' if name else ""
  return f"<section{place}><h{level}>{title}</h{level}>{inside}</section>"


def _figure(own: Figure) -> str:
  return f"<figure>{own.svg}<figcaption>{html.escape(own.caption)}</figcaption></figure>"
