"""MkDocs hook: inserts the table of configuration keys, generated from the schema."""

from __future__ import annotations

import subprocess
import sys

MARK = "[TOC-OF-KEYS]"


def on_page_markdown(markdown: str, page, config, files) -> str:
  """Replaces `MARK` in configuration.md by the output of `python -m colearn_jax.schema`."""
  if MARK not in markdown:
    return markdown
  command = [sys.executable, "-m", "colearn_jax.schema"]
  table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
  return markdown.replace(MARK, table)
