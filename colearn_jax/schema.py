"""Every key of a configuration, once: its default, what it may be, and what it means.

The defaults, the checks, `python -m colearn_jax.main --help` and the reference page come from here.
`python -m colearn_jax.schema` prints the page. The groups `loss` and `model.encoder` depend on the method and
on the encoder, which declare their own settings.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from colearn_jax.rules import (
  POSITIVE,
  SHARE,
  SWITCH,
  TEXT,
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

METHOD, ENCODER = "mdico", "tempcnn"  # of a configuration that names none
OPTIMIZERS = ("adam", "adamw", "lamb", "lion", "nadam", "radam", "rmsprop", "sgd")
SCHEDULES = ("constant", "cosine", "linear", "one_cycle")

_finite = number(lambda v: True, "").ok
_path = lambda v: Path(v).expanduser()
_bands = lambda v: v if isinstance(v, list | tuple) else [v]
_SIZE = Rule(lambda v: is_integer(v) and (v >= 1 or v == -1), "an integer >= 1, or -1 to fill in")
_NOT_NEGATIVE = number(lambda v: v >= 0, ">= 0")


def _is_regex(text: object) -> bool:
  try:
    return isinstance(text, str) and bool(re.compile(text))
  except re.error:
    return False


def _is_constants(value: object) -> bool:
  """Whether it has an offset and a scale, numbers or one for each band."""
  if not is_group(value) or set(value) != {"offset", "scale"}:
    return False
  return all(all(map(_finite, _bands(value[k]))) for k in value) and 0 not in _bands(value["scale"])


def _is_ablation(name: object, weights: object) -> bool:
  """Whether it is a name that a folder may have, with a weight for one or more terms."""
  if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]+", name) and is_group(weights)):
    return False
  return len(weights) > 0 and all(map(_NOT_NEGATIVE.ok, weights.values()))


SCHEMA: dict[str, Setting] = {
  "method": Setting(
    METHOD, TEXT, "Co-learning method. Chosen by the word `method=NAME` behind --config=NAME:."
  ),
  "baseline": Setting(False, SWITCH, "Also trains the method `individual`, and prints both side by side."),
  "data.name": Setting(
    "", TEXT, "Data set, one of those that `python -m colearn_jax.datasets.build -h` lists."
  ),
  "data.data_dir": Setting(
    "",
    Rule(lambda v: isinstance(v, str) and not _path(v).is_file(), "a directory, or nothing"),
    "Directory of prepared data sets. Empty: $TFDS_DATA_DIR, or ~/tensorflow_datasets.",
  ),
  "data.manual_dir": Setting(
    "",
    Rule(
      lambda v: v == "" or isinstance(v, str) and _path(v).is_dir(), "a directory that exists, or nothing"
    ),
    "Directory of the source files. Empty: they are downloaded, where the data set can be.",
  ),
  "data.modalities": Setting(
    (),
    each(TEXT.ok, "one or more different names, as in S1,S2", distinct=True),
    "Sensors. A sensor is a view of the data set, or several views joined with `_` on the last axis.",
  ),
  "data.context": Setting(
    (),
    Rule(
      lambda v: isinstance(v, tuple) and all(map(TEXT.ok, v)) and len(set(v)) == len(v),
      "different names as in date,location, or () for none",
    ),
    "What every sensor's encoder reads beside its input: date, location, and static views.",
  ),
  "data.fourier": Setting(
    0, integer(0), "Number of Fourier scales of the location in the context. 0: its unit vector alone."
  ),
  "data.placement": Setting(
    "auto",
    choice("auto", "device", "stream"),
    "Where samples are: in the device's memory, or read from disk as a stream of batches.",
  ),
  "data.device_bytes": Setting(
    2**31, integer(0), "With data.placement=auto, the largest data set in bytes that goes to the device."
  ),
  "data.workers": Setting(
    0, integer(0, "a number of processes"), "Processes that read a stream. 0: threads of the main process."
  ),
  "data.series": Setting(
    "pad",
    choice("pad", "month"),
    "How series of different lengths get one length: the last steps with padding in front, or the mean of "
    "each calendar month.",
  ),
  "data.lengths": Setting(
    {},
    mapping(integer(1).ok, "steps by view, as in \"{'S2': 146}\""),
    "Number of steps of padded series, by view. Otherwise it is the length of the longest series.",
  ),
  "data.masked_above": Setting(
    {},
    mapping(_finite, "%, by band of a mask, as in \"{'cloud': 50}\""),
    "Pixels whose mask is above this percentage count as missing, by band of the mask.",
  ),
  "data.normalisation": Setting(
    "zscore",
    choice("zscore", "max", "minmax", "fixed"),
    "How bands are scaled: by statistics of the training part, or by data.fixed.",
  ),
  "data.fixed": Setting(
    {},
    mapping(
      _is_constants,
      "an offset and a scale other than 0 by view, numbers or one for each band, as in "
      "\"{'S1': {'offset': [-11, -18], 'scale': 5}}\"",
    ),
    "Constants of data.normalisation=fixed, by view. A band becomes (x - offset) / scale.",
  ),
  "mesh.replica": Setting(1, _SIZE, "Devices over which runs are split, see train.replicas."),
  "mesh.data": Setting(-1, _SIZE, "Devices over which a batch is split."),
  "mesh.fsdp": Setting(
    1, _SIZE, "Devices over which a batch and also large parameters with their optimizer state are split."
  ),
  "protocol.name": Setting(
    "paper",
    choice("paper", "clean"),
    "Which part stops the training: the tested fold itself (paper), or a validation part (clean).",
  ),
  "protocol.split": Setting(
    "kfold", choice("kfold", "official"), "Folds over all samples, or the data set's official split."
  ),
  "protocol.folds": Setting(10, integer(2), "Number of folds, with protocol.split=kfold."),
  "protocol.seeds": Setting(
    (10,),
    each(
      lambda v: is_integer(v) and 0 <= v < 2**32,
      "one or more different integers >= 0 (and < 2**32), as in 0,1",
      distinct=True,
    ),
    "Seeds. Every fold is trained once with each.",
  ),
  "protocol.group_by": Setting(
    "", TEXT, "Group of the data set, such as site, whose samples stay in one fold. Empty: none."
  ),
  "protocol.validation_fraction": Setting(
    0.1,
    number(lambda v: 0 < v < 1, "between 0 and 1"),
    "Share of the training samples in the validation part, with protocol.name=clean.",
  ),
  "model.emb_dim": Setting(
    128,
    Rule(lambda v: is_integer(v) and v >= 2 and v % 2 == 0, "an even integer >= 2"),
    "Width of the features that an encoder returns.",
  ),
  "model.head_layers": Setting((), WIDTHS, "Widths of the hidden layers of the heads."),
  "model.dtype": Setting(
    "float32", choice("float32", "bfloat16"), "Type in which the encoders compute. Parameters are float32."
  ),
  "model.remat": Setting(
    False, SWITCH, "Computes the encoders' inner values again in the backward pass, to save memory."
  ),
  "model.encoders": Setting(
    {},
    mapping(is_group, "arguments by modality, as in \"{'S1': {'dropout': 0.1}}\", or a key for each: S1=gru"),
    "Encoder arguments of single sensors, over those of model.encoder. An entry may name another model_type.",
  ),
  "loss.class_weights": Setting(
    "balanced",
    choice("balanced", "none"),
    "Weights of classes in the task's loss, from their frequency in the training part.",
  ),
  "loss.ablations": Setting(
    {},
    Rule(
      lambda v: is_group(v) and all(_is_ablation(name, v[name]) for name in v),
      "weights of loss terms by name, as in \"{'contrastive_off': {'contrastive': 0}}\"; a name has letters, "
      "digits, _ and -, a weight is >= 0",
    ),
    "Further trainings with other weights of loss terms, by name.",
  ),
  "augment.flip": Setting(
    False, SWITCH, "Flips images vertically and horizontally, each with probability 1/2."
  ),
  "augment.quarter_turns": Setting(False, SWITCH, "Rotates square images by 0, 90, 180 or 270 degrees."),
  "augment.crop": Setting(
    1.0,
    number(lambda v: 0 < v <= 1, "> 0 and <= 1"),
    "Smallest side of a random crop of images, as a share of the image's side. 1: no crop.",
  ),
  "augment.time_shift": Setting(
    0, integer(0, "a number of steps"), "Largest random shift of series, in steps."
  ),
  "augment.time_dropout": Setting(0.0, SHARE, "Share of time steps that are set to missing."),
  "augment.noise": Setting(
    0.0, _NOT_NEGATIVE, "Standard deviation of Gaussian noise on the inputs, in units of the bands' scale."
  ),
  "train.batch_size": Setting(32, integer(2), "Samples of one optimizer step, over all devices."),
  "train.microbatches": Setting(
    1, integer(1), "Equal parts of a batch that are computed one after another, to save memory."
  ),
  "train.replicas": Setting(
    False, SWITCH, "Trains all folds, seeds and ablations at the same time, as one program."
  ),
  "train.max_epochs": Setting(200, integer(1), "Largest number of epochs. Schedules end there."),
  "train.learning_rate": Setting(1e-3, POSITIVE, "Learning rate, the highest one of the schedule."),
  "train.optimizer": Setting(
    "adam", choice(*OPTIMIZERS), "Optimizer of optax. Its other settings are optax's."
  ),
  "train.momentum": Setting(0.9, SHARE, "Momentum of the optimizers sgd and rmsprop."),
  "train.weight_decay": Setting(
    0.0, _NOT_NEGATIVE, "Decoupled weight decay of matrices and kernels, not of biases, norms and vectors."
  ),
  "train.clip_norm": Setting(
    0.0, _NOT_NEGATIVE, "Largest norm of the gradient, above which it is scaled down. 0: no clipping."
  ),
  "train.schedule": Setting(
    "constant", choice(*SCHEDULES), "How the learning rate changes over the training."
  ),
  "train.warmup": Setting(
    0.0, _NOT_NEGATIVE, "Length of the linear rise of the learning rate from 0, in train.schedule_unit."
  ),
  "train.schedule_unit": Setting("epochs", choice("epochs", "steps"), "Unit of train.warmup."),
  "train.rates": Setting(
    {},
    Rule(
      lambda v: is_group(v) and all(map(_is_regex, v)) and all(map(_NOT_NEGATIVE.ok, v.values())),
      "factors >= 0 by regular expression, as in \"{'backbone': 0.1}\"",
    ),
    "Factors of the learning rate by regular expression of a parameter's path, such as unique/S1/backbone. "
    "The first match holds. 0 freezes.",
  ),
  "train.average": Setting(
    "none",
    choice("none", "ema", "swa"),
    "Average of the weights that is validated and kept: exponential (ema), or over the last epochs (swa).",
  ),
  "train.average_decay": Setting(0.999, SHARE, "Decay of train.average=ema, by step."),
  "train.average_start": Setting(
    0.75, SHARE, "Share of train.max_epochs after which train.average=swa begins."
  ),
  "train.patience": Setting(
    5,
    integer(0, "a number of epochs"),
    "Epochs without improvement after which the training stops. 0: it never stops early.",
  ),
  "train.min_delta": Setting(
    0.01, _NOT_NEGATIVE, "Smallest decrease of the objective that is an improvement."
  ),
  "train.keep": Setting(
    "best",
    choice("best", "last"),
    "Which epoch's model is kept: the one with the best objective, or the last.",
  ),
  "train.compilation_cache": Setting(
    "auto",
    Rule(lambda v: isinstance(v, str) and v != "" and not _path(v).is_file(), 'a directory, "auto" or "off"'),
    "Where compiled programs are kept for the next run. auto: beside the work directory.",
  ),
  "checkpoint.every_epochs": Setting(5, integer(1), "Epochs between two checkpoints."),
}
MAPPINGS = tuple(key for key, setting in SCHEMA.items() if isinstance(setting.default, dict))

USAGE = """\
A configuration is a preset by name (lfmc) or a file (DIR/own.py). Words behind a colon choose what it has:

  --config=lfmc:released,encoder=gru,method=mdico

method=NAME chooses the method and with it the keys of the group loss; individual is short for
method=individual. encoder=NAME chooses the encoder of all sensors and with it the keys of model.encoder; auto
takes one by the shape of each sensor's samples. Other words are those of the preset. Keys are then set one by
one:

  --config.train.max_epochs=3              an integer
  --config.loss.contrastive=0              a number
  --config.baseline, --noconfig.baseline   True, False (also =True, =False)
  --config.data.modalities=S1,S2_S2VI      several names or numbers, without spaces
  --config.protocol.seeds="(1, 2)"         the same in Python's notation, in quotes
  --config.model.head_layers="()"          none
  --config.data.lengths="{'S2': 146}"      a mapping, in Python's notation
  --config.model.encoders.S1=gru           another encoder for one sensor
  --config.model.encoders.S1="{'model_type': 'gru', 'layer_size': 32}"   the same with arguments
"""


def settings(method: str = METHOD, encoder: str = ENCODER) -> dict[str, Setting]:
  """Every key of a configuration with this method and this encoder, by dotted key, in order.

  Raises:
    InputError: there is no such method or encoder.
  """
  from colearn_jax import encoders, methods  # here, because they load JAX, and most mistakes are told before

  encoder_keys = encoders.settings(encoder)
  loss_keys = methods.settings(method)
  out = {}
  for key, setting in SCHEMA.items():
    if key == "method":
      setting = setting._replace(rule=choice(*methods.METHODS))
    if key == "model.encoders":
      names = choice(encoders.AUTO, *sorted(encoders.ENCODERS))
      help_ = "Encoder. Chosen by the word `encoder=NAME` behind --config=NAME:."
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
  """A nested ConfigDict that keeps the order of its keys, which may have dots."""
  out = ConfigDict(allow_dotted_keys=True, sort_keys=False)
  for key, value in tree.items():
    out[key] = group(value) if is_group(value) else value
  return out


def flat(tree: Mapping | ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
  """Dotted keys and values of a configuration; a mapping such as `data.lengths` is one value."""
  for key, value in tree.items():
    if is_group(value) and prefix + key not in MAPPINGS:
      yield from flat(value, f"{prefix}{key}.")
    else:
      yield prefix + key, value


def with_method(config: ConfigDict, method: str) -> ConfigDict:
  """The same configuration for another method, with that method's default loss settings, locked.

  `loss.class_weights` stays. There is no baseline and no ablation.

  Raises:
    InputError: there is no such method.
  """
  from colearn_jax import methods

  loss = {name: setting.default for name, setting in methods.settings(method).items()}
  loss |= {"class_weights": config.loss.class_weights, "ablations": {}}
  tree = {key: group(loss) if key == "loss" else value for key, value in config.items()}
  return group(tree | {"method": method, "baseline": False}).lock()


def sections() -> dict[str, dict[str, Setting]]:
  """All keys there are by heading: those of every configuration, then those of each method and encoder."""
  from colearn_jax import encoders, methods

  arguments = {name: encoders.settings(name) for name in sorted(encoders.ENCODERS)}
  common = set.intersection(*(set(own) for own in arguments.values())) | {"model_type"}
  out: dict[str, dict[str, Setting]] = {}
  for key, setting in settings().items():
    heading, _, name = key.rpartition(".")
    if key in SCHEMA or (heading == "model.encoder" and name in common):
      out.setdefault(heading or "general", {})[key] = setting
  for method in methods.METHODS:
    named = methods.settings(method).items()
    out[f"loss, with method={method}"] = {f"loss.{name}": setting for name, setting in named}
  for encoder, own in arguments.items():
    named = {f"model.encoder.{name}": setting for name, setting in own.items() if name not in common}
    out[f"model.encoder, with encoder={encoder}"] = named
  return out


def shown(default: object) -> str:
  """A default as it is written behind `=` on the command line."""
  return default if isinstance(default, str) else repr(default)


def help_text() -> str:
  """What `--help` prints of the configuration."""
  wrap = lambda text: textwrap.fill(text, 108, initial_indent=" " * 6, subsequent_indent=" " * 6)
  lines = [USAGE]
  for heading, named in sections().items():
    lines.append(f"{heading}:\n")
    for key, setting in named.items():
      lines.append(f"  --config.{key}={shown(setting.default)}")
      lines.append(wrap(f"{setting.help} Allowed: {setting.rule.allowed.removeprefix('one of: ')}."))
    lines.append("")
  return "\n".join(lines)


def reference() -> str:
  """The reference page without its title, in Markdown."""
  cell = lambda text: text.replace("|", "\\|")
  code = lambda text: f"`{cell(text)}`" if text else ""
  lines = [*textwrap.dedent(USAGE).replace("  --config", "    --config").splitlines()]
  for heading, named in sections().items():
    lines += ["", f"## {heading}", "", "| key | default | allowed | meaning |", "|---|---|---|---|"]
    for key, setting in named.items():
      row = (
        code(key),
        code(shown(setting.default)),
        cell(setting.rule.allowed.removeprefix("one of: ")),
        cell(setting.help),
      )
      lines.append(f"| {' | '.join(row)} |")
  return "\n".join(lines)


if __name__ == "__main__":
  print(reference())
