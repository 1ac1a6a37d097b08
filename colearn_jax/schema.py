"""The schema of the configuration: default, allowed values and meaning of every key.

The default configuration, the checks, the output of `--help` and the reference page are derived from
`SCHEMA`. The groups `loss` and `model.encoder` are not in it, because methods and encoders declare their own
settings. `settings` returns all keys together. `python -m colearn_jax.schema` prints the reference page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from colearn_jax.data.grouping import EACH, parse_folds
from colearn_jax.rules import (
  ON,
  POSITIVE,
  SHARE,
  SWITCH,
  TEXT,
  WIDEST,
  WIDTHS,
  Rule,
  Setting,
  choice,
  each,
  integer,
  is_group,
  is_integer,
  mapping,
  number,
)
from colearn_jax.schema_pages import reference

METHOD, ENCODER = "mdico", "tempcnn"  # defaults
OPTIMIZERS = ("adam", "adamw", "lamb", "lion", "nadam", "radam", "rmsprop", "sgd")
SCHEDULES = ("constant", "coslog4", "cosine", "linear", "one_cycle")

_finite = number(lambda v: True, "").ok
_path = lambda v: Path(v).expanduser()
_bands = lambda v: v if isinstance(v, list | tuple) else [v]
_SIZE = Rule(lambda v: is_integer(v) and (v >= 1 or v == -1), "an integer >= 1, or -1 to fill in")
_NOT_NEGATIVE = number(lambda v: v >= 0, ">= 0")

_EPOCHS = {"train.max_epochs": ON}  # without epochs, heads in closed form are kept


def _is_regex(text: object) -> bool:
  try:
    return isinstance(text, str) and bool(re.compile(text))
  except re.error:
    return False


def _is_constants(value: object) -> bool:
  """Whether the value has an offset and a nonzero scale: one number, or one per band."""
  if not is_group(value) or set(value) != {"offset", "scale"}:
    return False
  return all(all(map(_finite, _bands(value[k]))) for k in value) and 0 not in _bands(value["scale"])


def _is_folds(value: object) -> bool:
  """Whether the value is a number of folds, `each`, or several of them."""
  if not (is_integer(value) or isinstance(value, str | tuple)):
    return False
  try:
    parsed = parse_folds(value)
  except ValueError:
    return False
  return len(parsed) > 0 and all(one == EACH or isinstance(one, int) and one >= 2 for one in parsed)


def _is_ablation(name: object, weights: object) -> bool:
  """Whether the name is safe in directory names, and at least one loss term has a weight."""
  if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]+", name) and is_group(weights)):
    return False
  return len(weights) > 0 and all(map(_NOT_NEGATIVE.ok, weights.values()))


SCHEMA: dict[str, Setting] = {
  "method": Setting(
    METHOD, TEXT, "Co-learning method. Set it by the word `method=NAME` after --config=NAME:."
  ),
  "baseline": Setting(
    False,
    SWITCH,
    "Also trains the method `individual`, and prints both results side by side.",
    needs={"method": Rule(lambda v: v != "individual", "another method")},
  ),
  "data.name": Setting("", TEXT, "Data set. `python -m colearn_jax.datasets.build -h` lists them."),
  "data.data_dir": Setting(
    "",
    Rule(lambda v: isinstance(v, str) and not _path(v).is_file(), "a directory, or nothing"),
    "Directory of prepared data sets. Empty: $TFDS_DATA_DIR, or ~/tensorflow_datasets if it is not set.",
  ),
  "data.manual_dir": Setting(
    "",
    Rule(
      lambda v: v == "" or isinstance(v, str) and _path(v).is_dir(), "a directory that exists, or nothing"
    ),
    "Directory of the source files. Empty: they are downloaded, if the data set allows it.",
  ),
  "data.modalities": Setting(
    (),
    each(TEXT.ok, "one or more different names, as in S1,S2", distinct=True),
    "Sensors. A sensor is a view of the data set, or several views joined by `_`, which are concatenated on "
    "the last axis.",
  ),
  "data.context": Setting(
    (),
    Rule(
      lambda v: isinstance(v, tuple) and all(map(TEXT.ok, v)) and len(set(v)) == len(v),
      "different names, as in date,location, or () for none",
    ),
    "Additional input of every sensor's encoder: date (the day of the year), location, time (the date as a "
    "number of years, which tells years apart), and static views.",
  ),
  "data.fourier": Setting(
    0,
    integer(0, most=30),
    "Number of Fourier scales of the location in the context. 0: only its unit vector.",
  ),
  "data.placement": Setting(
    "auto",
    choice("auto", "device", "stream"),
    "Where the samples are kept: in the device's memory (device), or on disk (stream). auto: see "
    "data.device_bytes.",
  ),
  "data.device_bytes": Setting(
    2**31,
    integer(0),
    "Largest size of a data set that is kept on the device, in bytes.",
    needs={"data.placement": choice("auto")},
  ),
  "data.workers": Setting(
    0,
    integer(0, "a number of processes", most=1024),
    "Number of reader processes if samples are streamed. 0: threads of the main process read.",
    needs={"data.placement": choice("auto", "stream")},
  ),
  "data.series": Setting(
    "pad",
    choice("pad", "month"),
    "How series of different lengths get one length: the last steps, padded at the front (pad), or the mean "
    "of each calendar month (month).",
  ),
  "data.lengths": Setting(
    {},
    mapping(integer(1).ok, "steps by view, as in \"{'S2': 146}\""),
    "Number of time steps of padded series, by view. Default: the length of the longest series.",
    needs={"data.series": choice("pad")},
  ),
  "data.masked_above": Setting(
    {},
    mapping(_finite, "a percentage by mask band, as in \"{'cloud': 50}\""),
    "Percentage by mask band. Pixels whose mask value is above it count as missing.",
  ),
  "data.normalisation": Setting(
    "zscore",
    choice("zscore", "robust", "quantile", "max", "minmax", "fixed"),
    "How bands are scaled, by the training part: mean and deviation (zscore), median and interquartile range "
    "(robust), quantiles mapped to those of a normal distribution (quantile), maximum (max), range (minmax); "
    "or by data.fixed (fixed). Encoders that know bands (galileo, presto) use constants of their own.",
  ),
  "data.fixed": Setting(
    {},
    mapping(
      _is_constants,
      "an offset and a scale other than 0 by view, numbers or one for each band, as in "
      "\"{'S1': {'offset': [-11, -18], 'scale': 5}}\"",
    ),
    "Constants by view. A band becomes (x - offset) / scale.",
    needs={"data.normalisation": choice("fixed")},
  ),
  "mesh.replica": Setting(
    1, _SIZE, "Number of devices over which runs are split, see train.replicas.", needs={"train.replicas": ON}
  ),
  "mesh.data": Setting(-1, _SIZE, "Number of devices over which a batch is split."),
  "mesh.fsdp": Setting(
    1, _SIZE, "Number of devices over which a batch, large parameters and their optimizer state are split."
  ),
  "protocol.name": Setting(
    "paper",
    choice("paper", "clean"),
    "Part used for early stopping: the test fold itself (paper), or a separate validation part (clean).",
  ),
  "protocol.split": Setting(
    "kfold",
    choice("kfold", "official"),
    "Cross-validation over all samples (kfold), or the data set's official split (official).",
  ),
  "protocol.folds": Setting(
    10,
    Rule(_is_folds, "an integer >= 2, each, or one of them for each feature of group_by, as in 5,each"),
    "Number of folds. each: every group is left out in turn. For several features "
    "of protocol.group_by the number of parts of each; every combination of parts is a fold.",
    needs={"protocol.split": choice("kfold")},
  ),
  "protocol.seeds": Setting(
    (10,),
    each(
      lambda v: is_integer(v) and 0 <= v < 2**32,
      "one or more different integers >= 0 (and < 2**32), as in 0,1",
      distinct=True,
    ),
    "Random seeds. Every fold is trained once with each seed.",
  ),
  "protocol.group_by": Setting(
    "",
    TEXT,
    "Feature by which folds are cut: a group of the data set, such as site; year, month or season of the "
    "sample's date; or block (see protocol.block_km). The parts of a run have no group in common; with "
    "several features, as in site,year, no group of any of them. Empty: no groups.",
  ),
  "protocol.block_km": Setting(
    0.0, _NOT_NEGATIVE, "Side of the grid cells of protocol.group_by=block, in km. Each seed shifts the grid."
  ),
  "protocol.purge": Setting(
    0,
    integer(0, "a number of days"),
    "Smallest time between samples of different parts, in days. Training samples that are nearer to a "
    "held-out one are left out.",
  ),
  "protocol.buffer_km": Setting(
    0.0,
    _NOT_NEGATIVE,
    "Smallest distance between samples of different parts, in km. Training samples that are nearer to a "
    "held-out one are left out.",
  ),
  "protocol.min_samples": Setting(
    1,
    integer(1, "a number of samples"),
    "Smallest number of labelled samples in a test fold and in a validation part. Smaller folds are not "
    "tested; their samples only train.",
  ),
  "protocol.validation_fraction": Setting(
    0.1,
    SHARE,
    "Fraction of the training samples that becomes the validation part; with "
    "protocol.group_by, fraction of the groups of each feature. 0: no validation part; needs "
    "train.patience=0 and train.keep=last.",
    needs={"protocol.name": choice("clean")},
  ),
  "protocol.scored": Setting(
    "test",
    choice("test", "validation"),
    "Part that is predicted and scored. validation: the test part is not read; to choose settings.",
  ),
  "model.emb_dim": Setting(
    128,
    Rule(lambda v: integer(2, most=WIDEST).ok(v) and v % 2 == 0, f"an even integer from 2 to {WIDEST}"),
    "Number of features that an encoder returns.",
  ),
  "model.projection": Setting(
    True,
    SWITCH,
    "Whether a linear layer maps the features of an encoder's last layer to model.emb_dim. Without it "
    "model.emb_dim has to be their number.",
  ),
  "model.head_layers": Setting((), WIDTHS, "Widths of the hidden layers of the heads."),
  "model.members": Setting(
    1,
    integer(1, most=1000),
    "Members of an ensemble that share the matrices of their encoders and heads, as in TabM. Each learns by "
    "itself; a prediction is their mean. 1: no ensemble.",
  ),
  "model.standardised": Setting(
    False,
    SWITCH,
    "Whether the heads of a regression learn the standardised target. They predict in its unit in any case.",
    needs={"a regression": ON},
  ),
  "model.dtype": Setting(
    "float32",
    choice("float32", "bfloat16"),
    "Data type of the encoders' computation. Parameters are always float32.",
  ),
  "model.remat": Setting(
    False,
    SWITCH,
    "Recomputes the encoders' activations in the backward pass, to save memory (rematerialisation).",
    needs=_EPOCHS,
  ),
  "model.encoders": Setting(
    {},
    mapping(
      is_group,
      "arguments by modality, as in \"{'S1': {'dropout': 0.1}}\", or a key for each: S1=gru",
    ),
    "Encoder arguments of single sensors. They override model.encoder, and may set another model_type.",
  ),
  "loss.class_weights": Setting(
    "balanced",
    choice("balanced", "none"),
    "Class weights in the task's loss: inversely proportional to class frequency in the training part, or 1.",
    needs={"classes or labels": ON},
  ),
  "loss.huber": Setting(
    0.0,
    _NOT_NEGATIVE,
    "Error of a regression from which its square becomes linear (Huber), in standard deviations of the "
    "target. 0: squares everywhere.",
  ),
  "loss.label_smoothing": Setting(
    0.0, SHARE, "Part of the target of a class or label that is spread over all of them."
  ),
  "loss.group_balance": Setting(
    0.0,
    _NOT_NEGATIVE,
    "Exponent p of the weight 1 / n^p of a training sample in a group (protocol.group_by) of n. 1: all "
    "groups have the same weight. 0: all samples have.",
  ),
  "loss.ablations": Setting(
    {},
    Rule(
      lambda v: is_group(v) and all(_is_ablation(name, v[name]) for name in v),
      "weights of loss terms by name, as in \"{'contrastive_off': {'contrastive': 0}}\"; a name has letters, "
      "digits, _ and -, a weight is >= 0",
    ),
    "Additional runs with other weights of loss terms, by name.",
  ),
  "augment.flip": Setting(
    False,
    SWITCH,
    "Flips images vertically and horizontally, each with probability 1/2.",
    needs={"images": ON},
  ),
  "augment.quarter_turns": Setting(
    False,
    SWITCH,
    "Rotates square images by 0, 90, 180 or 270 degrees, chosen at random.",
    needs={"images": ON},
  ),
  "augment.crop": Setting(
    1.0,
    number(lambda v: 0 < v <= 1, "> 0 and <= 1"),
    "Smallest side length of a random crop, as a fraction of the image's side length. 1: no crop.",
    needs={"images": ON},
  ),
  "augment.time_shift": Setting(
    0,
    integer(0, "a number of steps"),
    "Largest random shift of time series, in time steps.",
    needs={"series": ON},
  ),
  "augment.time_dropout": Setting(
    0.0, SHARE, "Fraction of time steps that are set to missing at random.", needs={"series": ON}
  ),
  "augment.noise": Setting(
    0.0,
    _NOT_NEGATIVE,
    "Standard deviation of Gaussian noise added to the normalised inputs.",
    needs={"series": ON},
  ),
  "train.batch_size": Setting(32, integer(2), "Number of samples of one optimizer step, over all devices."),
  "train.unlabelled": Setting(
    True,
    SWITCH,
    "Whether training samples without a label are used, in loss terms that need no label.",
    needs={"terms without labels": ON},
  ),
  "train.microbatches": Setting(
    1,
    integer(1),
    "Number of equal parts of a batch that are computed one after another, to save memory.",
    needs=_EPOCHS,
  ),
  "train.replicas": Setting(
    False, SWITCH, "Trains all folds, seeds and ablations at the same time, as one vectorised program."
  ),
  "train.workers": Setting(
    1,
    integer(0, "a number of processes", most=1024),
    "Number of processes of one core each that train folds, seeds, ablations and the baseline side by side "
    "on a CPU. 1: one training after another, with all cores. 0: the number of cores, if there are as many "
    "trainings, their samples are kept on the device, and the CPU is one device; otherwise 1.",
  ),
  "train.ridge": Setting(
    0.0,
    _NOT_NEGATIVE,
    "Ridge of linear heads that begin at the minimum of the objective over all training samples: variance of "
    "the noise, in units of the prior variance of the function. 0: heads begin at random values.",
  ),
  "train.group_effect": Setting(
    0.0,
    _NOT_NEGATIVE,
    "Variance of a random intercept of each group of training samples in the closed form of train.ridge, in "
    "units of the variance of the noise. 0: the errors of a group are independent.",
  ),
  "train.group_effect_of": Setting(
    "", TEXT, "The groups of train.group_effect, named as in protocol.group_by. Empty: protocol.group_by."
  ),
  "train.max_epochs": Setting(
    200,
    integer(0),
    "Largest number of epochs. Learning rate schedules end there. 0: the closed form of train.ridge is kept.",
  ),
  "train.learning_rate": Setting(
    1e-3, POSITIVE, "Learning rate: the maximum of the schedule.", needs=_EPOCHS
  ),
  "train.mixup": Setting(
    0.0,
    _NOT_NEGATIVE,
    "α of mixup: training samples are mixed with others, by a share that is drawn from Beta(α, α). 0: no "
    "mixup.",
  ),
  "train.optimizer": Setting(
    "adam",
    choice(*OPTIMIZERS),
    "Optimizer of optax. Its remaining settings are optax's defaults.",
    needs=_EPOCHS,
  ),
  "train.momentum": Setting(
    0.9,
    SHARE,
    "Momentum of the optimizer.",
    needs={"train.optimizer": choice("sgd", "rmsprop"), "train.max_epochs": ON},
  ),
  "train.weight_decay": Setting(
    0.0,
    _NOT_NEGATIVE,
    "Decoupled weight decay of weight matrices and kernels. Biases, norms and vectors have none.",
    needs=_EPOCHS,
  ),
  "train.clip_norm": Setting(
    0.0,
    _NOT_NEGATIVE,
    "Largest global norm of the gradient. Larger gradients are scaled down to it. 0: no clipping.",
    needs=_EPOCHS,
  ),
  "train.gradients": Setting(
    "sum",
    choice("sum", "pcgrad"),
    "How the gradients of the loss terms are combined: added (sum), or added after the part of each that is "
    "opposed to another one is projected away (pcgrad; one backward pass for each term).",
    needs={"several terms": ON, "train.max_epochs": ON},
  ),
  "train.schedule": Setting("constant", choice(*SCHEDULES), "Schedule of the learning rate.", needs=_EPOCHS),
  "train.warmup": Setting(
    0.0,
    _NOT_NEGATIVE,
    "Length of the linear warm-up of the learning rate, in train.schedule_unit.",
    needs=_EPOCHS,
  ),
  "train.schedule_unit": Setting(
    "epochs", choice("epochs", "steps"), "Unit of train.warmup.", needs={"train.warmup": ON}
  ),
  "train.rates": Setting(
    {},
    Rule(
      lambda v: is_group(v) and all(map(_is_regex, v)) and all(map(_NOT_NEGATIVE.ok, v.values())),
      "factors >= 0 by regular expression, as in \"{'backbone': 0.1}\"",
    ),
    "Learning rate factors by a regular expression for the parameter's path, such as unique/S1/backbone. "
    "The first match is used. 0 freezes the parameter.",
    needs=_EPOCHS,
  ),
  "train.layer_decay": Setting(
    1.0,
    number(lambda v: 0 < v <= 1, "> 0 and <= 1"),
    "Learning rate factor from each block of an encoder with blocks (galileo, presto) to the one before it.",
    needs=_EPOCHS,
  ),
  "train.average": Setting(
    "none",
    choice("none", "ema", "swa"),
    "Weight averaging: exponential (ema), or over the last epochs (swa). The average is validated and kept.",
    needs=_EPOCHS,
  ),
  "train.average_decay": Setting(
    0.999, SHARE, "Decay of the average per step.", needs={"train.average": choice("ema")}
  ),
  "train.average_start": Setting(
    0.75,
    SHARE,
    "Fraction of train.max_epochs after which the average starts.",
    needs={"train.average": choice("swa")},
  ),
  "train.patience": Setting(
    5,
    integer(0, "a number of epochs"),
    "Epochs without improvement after which training stops early. 0: no early stopping.",
  ),
  "train.min_delta": Setting(
    0.01,
    _NOT_NEGATIVE,
    "Smallest decrease of the validation objective that counts as an improvement.",
    needs={"train.patience": ON},
  ),
  "train.keep": Setting(
    "best",
    choice("best", "last"),
    "Which epoch's model is kept: the one with the lowest validation objective (best), or the last one.",
  ),
  "train.nonfinite": Setting(
    "epoch",
    choice("epoch", "stop", "skip"),
    "What ends if a loss or gradients are not finite: the training, after the epoch (epoch); the training, "
    "with a file that repeats the step (stop); or only the step (skip). The last two look at every step, "
    "which costs time.",
  ),
  "train.compilation_cache": Setting(
    "auto",
    Rule(lambda v: isinstance(v, str) and v != "" and not _path(v).is_file(), 'a directory, "auto" or "off"'),
    "Cache directory for compiled programs. auto: .jax_cache in the parent of the work directory.",
  ),
  "checkpoint.every_epochs": Setting(
    5, integer(1), "Number of epochs between two checkpoints.", needs=_EPOCHS
  ),
  "checkpoint.every_minutes": Setting(
    10.0,
    _NOT_NEGATIVE,
    "Minutes between two checkpoints within an epoch, if samples are streamed to one process; 0 for none.",
    needs={"data.placement": choice("auto", "stream"), "train.max_epochs": ON},
  ),
}
MAPPINGS = tuple(key for key, setting in SCHEMA.items() if isinstance(setting.default, dict))


def settings(method: str = METHOD, encoder: str = ENCODER) -> dict[str, Setting]:
  """All keys of a configuration with this method and this encoder, by dotted key, in order.

  Raises:
    InputError: there is no such method or encoder.
  """
  from colearn_jax import encoders, methods  # imported here: they load JAX, and most errors need no JAX

  encoder_keys = encoders.settings(encoder)
  loss_keys = methods.settings(method)
  out = {}
  for key, setting in SCHEMA.items():
    if key == "method":
      setting = setting._replace(rule=choice(*methods.METHODS))
    if key == "model.encoders":
      names = choice(encoders.AUTO, *sorted(encoders.ENCODERS))
      help_ = "Encoder. Set it by the word `encoder=NAME` after --config=NAME:."
      out["model.encoder.model_type"] = Setting(encoder, names, help_)
      out |= {f"model.encoder.{name}": own for name, own in encoder_keys.items()}
    if key == "loss.class_weights":
      out |= {f"loss.{name}": own for name, own in loss_keys.items()}
    out[key] = setting
  return out | {"method": out["method"]._replace(default=method)}


def defaults(encoder: str = ENCODER, method: str = METHOD) -> ConfigDict:
  """A configuration with every key at its default.

  Raises:
    InputError: there is no such method or encoder.
  """
  tree: dict = {}
  for key, setting in settings(method, encoder).items():
    *groups, name = key.split(".")
    inner = tree
    for part in groups:
      inner = inner.setdefault(part, {})
    inner[name] = setting.default
  return group(tree)


def group(tree: Mapping) -> ConfigDict:
  """A nested ConfigDict that keeps the order of the keys. Keys may contain dots."""
  out = ConfigDict(allow_dotted_keys=True, sort_keys=False)
  for key, value in tree.items():
    out[key] = group(value) if is_group(value) else value
  return out


def flat(tree: Mapping | ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
  """Yields dotted keys and values. A key whose value is a mapping, such as `data.lengths`, counts as one."""
  for key, value in tree.items():
    if is_group(value) and prefix + key not in MAPPINGS:
      yield from flat(value, f"{prefix}{key}.")
    else:
      yield prefix + key, value


def with_method(config: ConfigDict, method: str) -> ConfigDict:
  """The same configuration for another method, with that method's default loss settings, locked.

  The keys of the group `loss` that all methods have are kept. Baseline and ablations are switched off.

  Raises:
    InputError: there is no such method.
  """
  from colearn_jax import methods

  loss = {name: setting.default for name, setting in methods.settings(method).items()}
  common = [key.removeprefix("loss.") for key in SCHEMA if key.startswith("loss.")]
  loss |= {name: config.loss[name] for name in common} | {"ablations": {}}
  tree = {key: group(loss) if key == "loss" else value for key, value in config.items()}
  return group(tree | {"method": method, "baseline": False}).lock()


def sections() -> dict[str, dict[str, Setting]]:
  """All keys by heading: first those of every configuration, then those of each method and encoder."""
  from colearn_jax import encoders, methods

  arguments = {name: encoders.settings(name) for name in sorted(encoders.ENCODERS)}
  common = set.intersection(*(set(own) for own in arguments.values())) | {"model_type"}
  out: dict[str, dict[str, Setting]] = {}
  for key, setting in settings().items():
    heading, _, name = key.rpartition(".")
    if key in SCHEMA or (heading == "model.encoder" and name in common):
      out.setdefault(heading or "general", {})[key] = setting
  for method in methods.METHODS:
    of_method = methods.settings(method)
    out[f"loss, with method={method}"] = {f"loss.{name}": own for name, own in of_method.items()}
  for encoder, own in arguments.items():
    named = {f"model.encoder.{name}": setting for name, setting in own.items() if name not in common}
    out[f"model.encoder, with encoder={encoder}"] = named
  return out


if __name__ == "__main__":
  print(reference(sections()))
