"""A key that a user sets is honoured, or refused with what it needs."""

from __future__ import annotations

import pytest
from absl import flags
from colearn_jax.datasets import build

from colearn_jax import config as config_lib
from colearn_jax import effects, encoders, main, methods, schema
from colearn_jax.plan import Arm, Cell, Choice, Study
from colearn_jax.studies import plans
from colearn_jax.types import InputError

TABLE = {"model_type": "table", "sigma": 0.3}
BOTH = ("S1_S1Ind", "S2_S2Ind")


@pytest.mark.parametrize(
  ("spec", "given", "reason"),
  [
    (
      "synthetic",
      {"protocol.folds": 3},
      "protocol.folds has no effect with protocol.split=official; it has one with kfold",
    ),
    ("lfmc", {"protocol.validation_fraction": 0.2}, "with protocol.name=paper; it has one with clean"),
    ("lfmc", {"train.momentum": 0.5}, "with train.optimizer=adam; it has one with sgd, rmsprop"),
    ("lfmc", {"train.momentum": 0.9}, "with train.optimizer=adam"),  # its value is the default, still unused
    (
      "lfmc",
      {"train.average_decay": 0.5, "train.average": "swa"},
      "average_decay has no effect with train.average=swa",
    ),
    ("lfmc", {"train.schedule_unit": "steps"}, "with train.warmup=0.0; it has one with another value"),
    ("lfmc", {"data.workers": 2, "data.placement": "device"}, "it has one with auto, stream"),
    ("lfmc", {"augment.crop": 0.5}, "augment.crop has no effect without images"),
    ("lfmc:method=kd", {"loss.temperature": 2.0}, "without classes or labels"),
    ("synthetic", {"model.standardised": True}, "without a regression"),
    ("synthetic:individual", {"baseline": True}, "with method=individual; it has one with another method"),
    ("lfmc:individual", {"train.unlabelled": True}, "without terms without labels"),
    ("lfmc:individual", {"train.gradients": "pcgrad"}, "without several terms"),
    ("lfmc", {"data.modalities": ("S1_S1Ind",), "loss.contrastive": 2.0}, "without several sensors"),
    ("lfmc_best", {"train.learning_rate": 0.1}, "with train.max_epochs=0"),
    (
      "lfmc_best",
      {"loss.learners": ("svm",), "loss.tree_leaf": 3},
      "loss.tree_leaf has no effect with loss.learners=.*svm.*; it has one with trees",
    ),
    (
      "lfmc",
      {"loss.temperature": 0.3, "loss.alignment": "coral"},
      "with loss.alignment=coral; it has one with ntxent",
    ),
    (
      "lfmc:method=kd,encoder=gru",
      {"model.encoder.n_layers": 1, "model.encoder.dropout": 0.5},
      "with model.encoder.n_layers=1; it has one with an integer >= 2",
    ),
    (
      "lfmc_best:individual",
      {"model.encoder.context_share": 0.3, "data.context": ("soil",)},
      "context_share of encoder kernel needs a date, a location or a time in data.context",
    ),
    (
      "lfmc:encoder=table",
      {"model.encoder.sigma": 0.3},
      "with model.encoder.embedding=piecewise; it has one with periodic",
    ),
    (
      "lfmc",
      {"model.encoders.S1_S1Ind": TABLE},
      "model.encoders.S1_S1Ind.sigma has no effect with model.encoder.embedding",
    ),
    ("lfmc", {"model.encoders": {"S1_S1Ind": TABLE}}, "model.encoders.S1_S1Ind.sigma has no effect"),
    (
      "lfmc",
      {"model.encoders.S1_S1Ind": "table", "model.encoders.S1_S1Ind.sigma": 0.3},
      "model.encoders.S1_S1Ind.sigma has no effect with model.encoder.embedding",
    ),
    (
      "lfmc",
      {"model.encoder.dropout": 0.3, "model.encoders": dict.fromkeys(BOTH, {"dropout": 0.1})},
      "for every sensor",
    ),
    ("lfmc", {"model.encoder.n_layers": 1, "model.encoders": dict.fromkeys(BOTH, "gru")}, "for every sensor"),
  ],
)
def test_a_key_without_an_effect_is_refused(spec, given, reason):
  with pytest.raises(InputError, match=reason):
    config_lib.load(spec, given)


@pytest.mark.parametrize(
  ("spec", "given"),
  [
    ("synthetic", {}),  # protocol.folds is 10 with the official split
    ("synthetic", {"protocol.folds": 3, "protocol.split": "kfold"}),
    (
      "lfmc",
      {"augment.flip": False, "augment.noise": 0.0, "loss.class_weights": "none", "train.momentum": 0.0},
    ),
    ("lfmc", {"loss.temperature": 0.3, "loss.contrastive": 0, "loss.ablations": {"a": {"contrastive": 1.0}}}),
    ("lfmc", {"loss.ablations": {"a": {"contrastive": 0.0}}, "loss.temperature": 0.3}),
    ("lfmc:method=mdico", {"loss.distillation": 1.0, "loss.learners": ("svm", "boosting"), "loss.trees": 3}),
    ("lfmc", {"model.encoder.dropout": 0.3, "model.encoders": {"S1_S1Ind": {"dropout": 0.1}}}),
    ("lfmc:encoder=gru", {"model.encoder.n_layers": 1, "model.encoders.S1_S1Ind.dropout": 0.0}),
    ("lfmc", {"model.encoders": {"S1_S1Ind": TABLE | {"embedding": "periodic"}, "S2_S2Ind": "gru"}}),
    (
      "lfmc:encoder=table",
      {"model.encoders.S1_S1Ind": {"embedding": "periodic"}, "model.encoder.sigma": 0.3},
    ),
    ("synthetic:encoder=auto", {"model.encoders.S1": "gru", "model.encoder.use_norm": "layer"}),
  ],
)
def test_what_has_an_effect_or_is_switched_off_is_allowed(spec, given):
  config_lib.load(spec, given)


def test_needs_name_keys_and_facts():
  """What a setting needs is a key beside it, with a value that this key may have, or a fact."""
  facts = effects.facts(config_lib.load("synthetic"), build.describe("synthetic"))
  seen = set()
  for method in methods.METHODS:
    for encoder in encoders.ENCODERS:
      known = schema.settings(method, encoder)
      for key, setting in known.items():
        for need, rule in setting.needs.items():
          seen.add(need)
          assert need in facts or need in known, f"{key} needs {need}"
          assert need in facts or need != key
          allowed = rule.allowed.removeprefix("one of: ").split(", ")
          if need in known and rule.allowed.startswith("one of: "):
            assert all(known[need].rule.ok(v) or known[need].rule.ok((v,)) for v in allowed), (key, need)
  assert seen >= facts.keys()


def test_the_command_says_what_a_key_needs(tmp_path):
  values = flags.FlagValues()
  main.define(values)
  words = ["main", "--config=synthetic", "--config.protocol.folds=3", f"--workdir={tmp_path / 'new'}"]
  with pytest.raises(InputError, match="protocol.folds has no effect with protocol.split=official"):
    main.parse(words, values)
  # A run that an earlier version began so can be resumed; `run` compares its keys.
  (tmp_path / "new").mkdir()
  (tmp_path / "new/config.json").write_text("{}")
  assert main.parse(words, values).config.protocol.folds == 3


SGD = Arm("sgd", "", values={"train.optimizer": "sgd"})
CHOOSES = Arm("adam", "", choose=Choice({"train.average": ("none", "ema")}))


@pytest.mark.parametrize(
  ("arms", "values", "given", "reason"),
  [
    ((Arm("a", "", values={"train.momentum": 0.5}),), {}, {}, "arm cell/a: train.momentum has no effect"),
    (
      (Arm("a", ""), SGD),
      {"protocol.split": "official", "protocol.folds": 3},
      {},
      "cell cell: protocol.folds",
    ),
    ((Arm("a", ""), SGD), {}, {"augment.crop": "0.5"}, "augment.crop has no effect .*; so in every arm"),
    ((Arm("a", ""), SGD), {}, {"train.momentum": "0.5"}, None),
    ((CHOOSES,), {}, {"train.average_decay": "0.5"}, None),  # one of its candidates has an average
    ((Arm("a", "", "trees"),), {}, {"train.momentum": "0.5"}, None),  # there is no network
  ],
)
def test_a_study_refuses_what_has_no_effect_in_any_arm(tmp_path, arms, values, given, reason):
  study = Study("s", (Cell("cell", "", "lfmc:clean", arms, values),), ())
  if reason is None:
    assert plans.claim(study, given, tmp_path)
    return
  with pytest.raises(InputError, match=reason):
    plans.claim(study, given, tmp_path)
  assert not list(tmp_path.iterdir())
  (tmp_path / "plan.json").write_text("{}")  # begun by an earlier version: its plan is compared
  with pytest.raises(InputError, match="holds a study with another plan"):
    plans.claim(study, given, tmp_path)
