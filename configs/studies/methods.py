"""Every method on one data set, with the same encoders, folds, seeds and validation parts.

    python -m colearn_jax.study --config=methods --workdir=runs/study_methods
    python -m colearn_jax.study --config=methods:lfmc --workdir=RUN --config.data.manual_dir=DIR
    python -m colearn_jax.study --config=methods:bloom --workdir=RUN --config.data.manual_dir=DIR

The data are the simulated fields in 5 folds by region, LFMC in 10 folds by site (`lfmc`), or algal bloom
severity in 5 folds (`bloom`, five classes); DIR is that of the studies `lfmc` and `bloom`. `methods:lfmc,1`
has one seed instead of 5. Every method is compared with single sensors. DKD needs classes. All networks stop
by the validation part of their fold, and trees choose their settings by it.
"""

from __future__ import annotations

from colearn_jax.plan import Arm, Cell, Comparison, Study
from colearn_jax.types import InputError

SEEDS = (10, 11, 12, 13, 14)
CELLS = {
  "synthetic": (
    "Fields",
    "synthetic",
    {"protocol.split": "kfold", "protocol.folds": 5, "protocol.group_by": "region"},
  ),
  "lfmc": ("LFMC by site", "lfmc:clean", {"protocol.folds": 10, "protocol.group_by": "site"}),
  "bloom": (
    "Bloom, five classes",
    "cropharvest:multi",
    {"protocol.name": "clean", "protocol.folds": 5},
  ),
}
HIDDEN = {"loss.merge": "mean", "loss.sensor_dropout": 0.5}
SUBSETS = {"loss.shown": "all", "loss.merge": "mean"}
PLAIN_DSENSD = {"loss.complete": 0.0, "loss.alone": 0.0, "loss.distillation": 0.0}
DECOUPLED = Arm("dkd", "DKD", words="method=kd", values={"loss.form": "decoupled"})
ARMS = (
  Arm("trees", "Trees", "trees"),
  Arm("individual", "Individual", words="individual"),
  Arm("mdico", "MDiCo"),
  Arm("released", "MDiCo, released variant", words="released"),
  Arm("clip", "MDiCo with CLIP", values={"loss.negatives": "cross"}),
  Arm("mmd", "MDiCo with MMD", values={"loss.alignment": "mmd"}),
  Arm("coral", "MDiCo with CORAL", values={"loss.alignment": "coral"}),
  Arm("grl", "MDiCo with gradient reversal", values={"loss.alignment": "grl"}),
  Arm("kd", "KD", words="method=kd"),
  DECOUPLED,
  Arm("distill", "Distillation from trees", words="method=distill"),
  Arm("dml", "DML", words="method=dml"),
  Arm("esensi", "ESensI", words="method=esensi"),
  Arm("shaspec", "ShaSpec", words="method=shaspec"),
  Arm("discom_kd", "DisCoM-KD", words="method=discom_kd"),
  Arm("decur", "DeCUR, supervised", words="method=decur"),
  Arm("fusion", "Fusion of features", words="method=fusion"),
  Arm("isensd", "ISensD", words="method=isensd"),
  Arm("fsensd", "FSensD", words="method=fusion", values=HIDDEN),
  Arm("fcom", "FCoM", words="method=fusion", values=SUBSETS),
  Arm("dsensd", "DSensD", words="method=dsensd", values=PLAIN_DSENSD),
  Arm("dsensd_plus", "DSensD+", words="method=dsensd"),
)
ALL_SENSORS = {"fusion"}  # these predict from all sensors only, so there is nothing to compare


def get_study(words: str = "synthetic") -> Study:
  """The plan for a data set, and for a number of seeds: `lfmc` or `lfmc,1`."""
  data, _, seeds = words.partition(",")
  if data not in CELLS or seeds not in ("", "1", "2", "3", "4", "5"):
    raise InputError(f"{words!r} is not allowed; one of {', '.join(CELLS)}, then a comma and 1 to 5 seeds")
  title, preset, protocol = CELLS[data]
  arms = tuple(arm for arm in ARMS if data != "lfmc" or arm is not DECOUPLED)
  cell = Cell(data, title, preset, arms, {**protocol, "protocol.seeds": SEEDS[: int(seeds or 5)]})
  others = [arm.name for arm in arms if arm.name not in {"individual", *ALL_SENSORS}]
  return Study(f"methods, {title}", (cell,), tuple(Comparison(data, one, "individual") for one in others))
