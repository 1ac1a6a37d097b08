"""Texts about the configuration keys: the output of `--help`, and the reference page in Markdown.

`schema.py` defines the keys. `python -m colearn_jax.schema` prints the reference page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from colearn_jax.rules import ON, Rule, Setting

Sections = Mapping[str, Mapping[str, Setting]]  # settings by heading and dotted key, see `schema.sections`

USAGE = """\
A configuration is a preset (a name such as lfmc) or a configuration file (a path such as DIR/own.py). Words
after a colon select variants:

  --config=lfmc:released,encoder=gru,method=mdico

method=NAME selects the method, which determines the keys of the group loss. individual is short for
method=individual. encoder=NAME selects the encoder of all sensors, which determines the keys of the group
model.encoder; auto selects one for each sensor by the shape of its samples. The preset defines the other
words. Flags then set single keys:

  --config.train.max_epochs=3              an integer
  --config.loss.contrastive=0              a number
  --config.baseline, --noconfig.baseline   True, False (also =True, =False)
  --config.data.modalities=S1,S2_S2VI      several names or numbers, without spaces
  --config.protocol.seeds="(1, 2)"         the same in Python syntax, in quotes
  --config.model.head_layers="()"          an empty list
  --config.data.lengths="{'S2': 146}"      a mapping in Python syntax
  --config.model.encoders.S1=gru           another encoder for one sensor
  --config.model.encoders.S1="{'model_type': 'gru', 'layer_size': 32}"   the same with arguments
"""


def shown(default: object) -> str:
  """A default as it is written after `=` on the command line."""
  return default if isinstance(default, str) else repr(default)


def allowed(rule: Rule) -> str:
  """The allowed values in words."""
  return rule.allowed.removeprefix("one of: ")


def explained(setting: Setting) -> str:
  """What a setting means, and what it needs to have an effect."""
  needs = [
    need if rule is ON else f"{need}={allowed(rule).replace(', ', ' or ')}"
    for need, rule in setting.needs.items()
  ]
  return f"{setting.help} Needs {' and '.join(needs)}." if needs else setting.help


def help_text(sections: Sections) -> str:
  """The part of `--help` that describes the configuration."""
  wrap = lambda text: textwrap.fill(text, 108, initial_indent=" " * 6, subsequent_indent=" " * 6)
  lines = [USAGE]
  for heading, named in sections.items():
    lines.append(f"{heading}:\n")
    for key, setting in named.items():
      lines.append(f"  --config.{key}={shown(setting.default)}")
      lines.append(wrap(f"{explained(setting)} Allowed: {allowed(setting.rule)}."))
    lines.append("")
  return "\n".join(lines)


def reference(sections: Sections) -> str:
  """The reference page in Markdown, without its title."""
  cell = lambda text: text.replace("|", "\\|")
  code = lambda text: f"`{cell(text)}`" if text else ""
  lines = [*textwrap.dedent(USAGE).replace("  --config", "    --config").splitlines()]
  for heading, named in sections.items():
    lines += ["", f"## {heading}", "", "| key | default | allowed | meaning |", "|---|---|---|---|"]
    for key, setting in named.items():
      row = (
        code(key),
        code(shown(setting.default)),
        cell(allowed(setting.rule)),
        cell(explained(setting)),
      )
      lines.append(f"| {' | '.join(row)} |")
  return "\n".join(lines)
