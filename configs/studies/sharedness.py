"""Where co-learning helps: MDiCo against single sensors, by sharedness of the sensors and number of labels.

    python -m colearn_jax.study --config=sharedness --workdir=runs/study_sharedness

The fields are simulated, see data_builders/shared_fields. The official split is used, so the 3 seeds differ
in the initial parameters only. Encoders are small. All arms make at most 600 steps, and stop after 150
without improvement. MDiCo is trained on the fields with a label, as the single sensors are, and also on all
fields.
"""

from __future__ import annotations

import math

from colearn_jax.plan import Arm, Cell, Comparison, Study

SHAREDNESS = (0, 25, 50, 75, 100)  # percent
LABELS = (100, 300, 3000)
FIELDS, BATCH = 3000, 64  # fields in the split train
STEPS, PATIENCE = 600, 150
SMALL = {
  "model.emb_dim": 32,
  "model.encoder.layer_size": 16,
  "train.batch_size": BATCH,
  "checkpoint.every_epochs": 1000,
  "train.replicas": True,
}


def arms(labels: int) -> tuple[Arm, ...]:
  """The arms for a number of labels. An epoch has as many steps as the fields that are used need."""

  def values(fields: int) -> dict[str, object]:
    epochs = lambda steps: round(steps / math.ceil(fields / BATCH))
    return SMALL | {"train.max_epochs": epochs(STEPS), "train.patience": epochs(PATIENCE)}

  individual = Arm("individual", "Individual", words="individual", values=values(labels))
  mdico = Arm("mdico", "MDiCo", values=values(labels) | {"train.unlabelled": False})
  every = Arm("mdico_all", "MDiCo, also fields without a label", values=values(FIELDS))
  return (individual, mdico, every) if labels < FIELDS else (individual, mdico)


def get_study() -> Study:
  """The plan."""
  cells = tuple(
    Cell(
      f"s{share:03d}_n{labels}",
      f"Sharedness {share / 100:g}, {labels} labels",
      "synthetic",
      arms(labels),
      {"data.name": f"shared_fields/s{share:03d}_n{labels}", "protocol.seeds": (0, 1, 2)},
      axes={"sharedness": share / 100, "labels": labels},
    )
    for share in SHAREDNESS
    for labels in LABELS
  )
  compared = [Comparison(cell.name, arm.name, "individual") for cell in cells for arm in cell.arms[1:]]
  return Study("sharedness", cells, tuple(compared))
