"""What each part of MDiCo contributes: its terms, its features, its weights and its temperature.

    python -m colearn_jax.study --config=ablations --workdir=runs/study_ablations

The data are the simulated fields, in 5 folds by region. `--config=ablations:lfmc` takes LFMC in 10 folds by
site instead, and needs --config.data.manual_dir=DIR or a download. Every arm is MDiCo with one change, and is
compared with MDiCo. `--only='*/no_*'` trains some of them.
"""

from __future__ import annotations

from colearn_jax.plan import Arm, Cell, Comparison, Study
from colearn_jax.types import InputError

CELLS = {
  "synthetic": ("Fields", "synthetic", {"protocol.folds": 5, "protocol.group_by": "region"}),
  "lfmc": ("LFMC", "lfmc:clean", {"protocol.folds": 10, "protocol.group_by": "site"}),
}
OFF = {"loss.auxiliary": 0.0, "loss.contrastive": 0.0, "loss.discriminative": 0.0}
CHANGES = {
  "released": ("Released variant", {"loss.variant": "released"}),
  "no_auxiliary": ("Without L_aux", {"loss.auxiliary": 0.0}),
  "no_contrastive": ("Without L_cont", {"loss.contrastive": 0.0}),
  "no_discriminative": ("Without L_mod", {"loss.discriminative": 0.0}),
  "no_terms": ("L_main alone", OFF),
  "no_unused": ("Without unused features", {"loss.unused_features": False}),
  "uncertainty": ("Weights by uncertainty", {"loss.weighting": "uncertainty"}),
  "corrected": ("Weights by uncertainty, corrected", {"loss.weighting": "corrected"}),
  "clip": ("Negatives of the other sensor", {"loss.negatives": "cross"}),
  "mmd": ("MMD", {"loss.alignment": "mmd"}),
  "coral": ("CORAL", {"loss.alignment": "coral"}),
  "grl": ("Gradient reversal", {"loss.alignment": "grl"}),
  "temperature_low": ("Temperature 0.05", {"loss.temperature": 0.05}),
  "temperature_high": ("Temperature 0.5", {"loss.temperature": 0.5}),
  "width_half": ("Width 64", {"model.emb_dim": 64}),
  "width_double": ("Width 256", {"model.emb_dim": 256}),
  "one_backbone": ("One backbone", {"loss.backbones": "one"}),
  "pcgrad": ("PCGrad", {"train.gradients": "pcgrad"}),
}
ARMS = (
  Arm("individual", "Individual", words="individual"),
  Arm("mdico", "MDiCo"),
  *(Arm(name, title, values=values) for name, (title, values) in CHANGES.items()),
)


def get_study(words: str = "synthetic") -> Study:
  """The plan; `words` is `synthetic` or `lfmc`."""
  if words not in CELLS:
    raise InputError(f"{words!r} is not allowed; one of: {', '.join(CELLS)}")
  title, preset, protocol = CELLS[words]
  cell = Cell(words, title, preset, ARMS, {"protocol.split": "kfold", **protocol})
  compared = [Comparison(words, arm.name, "mdico") for arm in ARMS if arm.name != "mdico"]
  return Study(f"ablations, {title}", (cell,), tuple(compared))
