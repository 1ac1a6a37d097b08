"""What every configuration starts from, and the words behind the colon of `--config=FILE:WORDS`.

A configuration file has `get_config(arg)`. The string behind the colon decides what there is: switches, and
the encoder whose arguments `model.encoder` has, separated by commas, as in
`--config=configs/lfmc.py:released,encoder=tempcnn`. Values are then changed one by one, behind `--config`:

    --config.train.max_epochs=3                       an integer
    --config.loss.contrastive=0                       a number; 0.5 and 1 both do, a weight of 0 is no term
    --config.baseline / --noconfig.baseline           yes / no, or =True / =False
    --config.data.modalities=S1,S2_S2VI               several names or numbers: commas, without spaces
    --config.protocol.seeds=10                        a single one
    --config.protocol.seeds="(1, 2)"                  Python's own form works too, in quotes
    --config.model.head_layers="()"                   none
    --config.model.encoders="{'S1': {'layer_size': 32}}"   other arguments for the encoders of one modality
"""

from __future__ import annotations

from collections.abc import Collection

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from colearn_jax.types import InputError


def options(arg: str, switches: Collection[str]) -> tuple[set[str], str]:
  """Reads the string behind the colon.

  Args:
    arg: comma separated, e.g. `released,encoder=tempcnn`.
    switches: the words that the configuration knows.

  Returns:
    The switches that are on, and the encoder's name.

  Raises:
    InputError: a word that is not known, or one that is there twice.
  """
  on, encoder = set(), []
  for word in filter(None, (word.strip() for word in arg.split(","))):
    name, equals, value = word.partition("=")
    if word in on or (encoder and name == "encoder"):
      raise InputError(f"--config=FILE:{arg}: {name!r} is there twice")
    if name == "encoder" and value:
      encoder.append(value)
    elif word in switches:
      on.add(word)
    else:
      known = ", ".join([*switches, "encoder=NAME"])
      raise InputError(f"--config=FILE:{arg}: {word!r} is not allowed; separated by commas: {known}")
  return on, encoder[0] if encoder else "tempcnn"


def defaults(encoder: str = "tempcnn") -> ConfigDict:
  """Every key there is, with the values of the paper where it has them.

  Args:
    encoder: its name, see `colearn_jax.encoders`.

  Raises:
    InputError: there is no such encoder.
  """
  from colearn_jax import methods
  from colearn_jax.encoders import SIZES, arguments  # here, so that a wrong word is told before JAX is loaded

  config = ConfigDict()
  config.method = "mdico"  # or "individual": the main loss alone, whatever the other weights are
  config.baseline = False  # train "individual" as well, to print both beside each other

  config.data = ConfigDict()
  config.data.name = ""
  config.data.data_dir = ""  # where data sets are prepared; else $TFDS_DATA_DIR or ~/tensorflow_datasets
  config.data.manual_dir = ""  # where the source files are, if they are not to be downloaded
  config.data.modalities = ()
  config.data.context = ()
  config.data.fourier = 0
  config.data.placement = "auto"  # the table on the "device", or a "stream" of batches from disk
  config.data.device_bytes = 2**31  # the largest table that goes on the device under "auto"
  config.data.workers = 0  # processes that read a stream, beside the threads of this one
  config.data.series = "pad"  # to the last steps of ragged series, or the mean of each calendar "month"
  config.data.lengths = ConfigDict()  # {view: steps} of padded series; else the longest of the data set
  config.data.masked_above = ConfigDict()  # {band of a mask, as cloud: %} from which pixels are left out
  config.data.normalisation = "zscore"  # or by the "max" or "minmax" of the training part, or "fixed"
  config.data.fixed = ConfigDict()  # {view: {"offset": [...], "scale": [...]}}, of each band or one number

  config.mesh = ConfigDict()  # how the devices are shared out; -1 takes what is left
  config.mesh.replica = 1  # trainings beside each other, see train.replicas
  config.mesh.data = -1  # the batch
  config.mesh.fsdp = 1  # the batch as well, and every large parameter with its optimizer state

  config.protocol = ConfigDict()
  config.protocol.name = "paper"  # the tested fold also stops the training; "clean": a part of its own does
  config.protocol.split = "kfold"  # or the data set's "official" one
  config.protocol.folds = 10
  config.protocol.seeds = (10,)
  config.protocol.group_by = ""  # samples of one group (e.g. "site") stay together
  config.protocol.validation_fraction = 0.1  # of what is left for training; "clean" only

  config.model = ConfigDict()
  config.model.emb_dim = 128
  config.model.head_layers = ()
  config.model.dtype = "float32"  # of the encoders' computation, or "bfloat16"
  config.model.remat = False  # compute the encoders' inner values again on the way back, to save memory
  config.model.encoder = ConfigDict({"model_type": encoder, **arguments(encoder)})
  for name in SIZES:
    config.model.encoder[name] = placeholder(int)  # None: as the data; a number is checked against it
  config.model.encoders = ConfigDict()  # {modality: {argument: value}}, may name another model_type

  config.loss = ConfigDict({name: s.default for name, s in methods.settings("mdico").items()})
  config.loss.class_weights = "balanced"
  config.loss.ablations = ConfigDict()

  config.augment = ConfigDict()  # what happens to training inputs; see colearn_jax/augment.py
  config.augment.flip = False
  config.augment.quarter_turns = False
  config.augment.crop = 1.0  # the least side of the window, as a share of the image's
  config.augment.time_shift = 0  # steps back or forth, at most
  config.augment.time_dropout = 0.0  # share of steps that go missing
  config.augment.noise = 0.0  # in units of the bands' scale

  config.train = ConfigDict()
  config.train.batch_size = 32
  config.train.microbatches = 1  # parts that a batch is computed in, one after another, to save memory
  config.train.replicas = False  # all folds, seeds and ablations as one program, or one after another
  config.train.max_epochs = 200
  config.train.learning_rate = 1e-3
  config.train.optimizer = "adam"
  config.train.momentum = 0.9
  config.train.weight_decay = 0.0
  config.train.schedule = "constant"
  config.train.warmup = 0.0
  config.train.schedule_unit = "epochs"
  config.train.rates = ConfigDict()
  config.train.average = "none"
  config.train.average_decay = 0.999
  config.train.average_start = 0.75
  config.train.keep = "best"
  config.train.clip_norm = 0.0  # the gradient's largest norm; 0 does not clip
  config.train.patience = 5  # epochs
  config.train.min_delta = 0.01

  # Compiled programs are kept for the next run: "auto", beside the work directory; or a directory, or "off".
  config.train.compilation_cache = "auto"

  config.checkpoint = ConfigDict()
  config.checkpoint.every_epochs = 5
  return config
