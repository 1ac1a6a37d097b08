"""Where co-learning helps: MDiCo against single sensors, by sharedness of the sensors and number of labels.

    python -m colearn_jax.study --config=sharedness --workdir=runs/study_sharedness

The fields are simulated, see data_builders/shared_fields. The official split is used, so the 3 seeds differ
in the initial parameters only. MDiCo also trains on the fields without a label.
"""

from __future__ import annotations

from colearn_jax.plan import Arm, Cell, Comparison, Study

SHAREDNESS = (0, 25, 50, 75, 100)  # percent
LABELS = (100, 300, 1000, 3000)
ARMS = (Arm("individual", "Individual", words="individual"), Arm("mdico", "MDiCo"))


def get_study() -> Study:
  """The plan."""
  cells = tuple(
    Cell(
      f"s{share:03d}/n{labels}",
      f"Sharedness {share / 100:g}, {labels} labels",
      "synthetic",
      ARMS,
      {"data.name": f"shared_fields/s{share:03d}_n{labels}", "protocol.seeds": (0, 1, 2)},
    )
    for share in SHAREDNESS
    for labels in LABELS
  )
  return Study("sharedness", cells, tuple(Comparison(cell.name, "mdico", "individual") for cell in cells))
