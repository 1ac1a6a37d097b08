"""MkDocs hooks: the table of configuration keys, and what the first page links to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

MARK = "[TOC-OF-KEYS]"
INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
LINK = re.compile(r'(href|src)="([^"#:]+)')


def on_page_markdown(markdown: str, page, config, files) -> str:
  """Replaces `MARK` in configuration.md by the output of `python -m colearn_jax.schema`."""
  if MARK not in markdown:
    return markdown
  command = [sys.executable, "-m", "colearn_jax.schema"]
  table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
  return markdown.replace(MARK, table)


def on_page_content(html: str, page, config, files) -> str:
  """Lets the links of README.md, which name files of the repository, lead to the site's pages and images."""
  if page.file.src_uri != "index.md":
    return html
  places = {}
  for file in files:
    places[f"docs/{file.src_uri}"] = file.url
    if file.is_documentation_page():
      places |= dict.fromkeys(INCLUDED.findall(file.content_string), file.url)
  return LINK.sub(lambda found: f'{found[1]}="{places.get(found[2], found[2])}', html)


def on_post_build(config) -> None:
  """Puts the file that the first page names for citations beside it."""
  shutil.copy("CITATION.cff", config.site_dir)
