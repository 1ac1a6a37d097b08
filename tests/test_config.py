import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from colearn_jax.configs import common
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax import encoders, main
from colearn_jax.methods import mdico
from colearn_jax.types import InputError, resolve_views

ROOT = Path(__file__).parent.parent
LFMC, SYNTHETIC = str(ROOT / "configs/lfmc.py"), str(ROOT / "configs/synthetic.py")
OF_LFMC = "from colearn_jax.configs.lfmc import get_config as g\ndef get_config():\n  c = g()\n"
OTHER = next((name for name in sorted(encoders.ENCODERS) if name != "tempcnn"), "tempcnn")


@pytest.fixture
def lfmc():
  return config_lib.load(LFMC)


def command(*words, workdir="runs/none"):
  """The configuration that the command line with these words gives."""
  argv, values = ["main", *words, *([f"--workdir={workdir}"] if workdir else [])], flags.FlagValues()
  main.define(values, argv)
  return main.parse(argv, values).config


def refused(*words, **options):
  """The one line that is all a wrong command line gives."""
  with pytest.raises(InputError) as error:
    command(*words, **options)
  assert "\n" not in str(error.value)
  return str(error.value)


def value(config, key):
  for part in key.split("."):
    config = config[part]
  return config


# What configurations there are.


@pytest.mark.parametrize(
  "file", [LFMC, f"{LFMC}:released,clean,individual", SYNTHETIC, f"{SYNTHETIC}:released,individual"]
)
def test_every_configuration_is_allowed_and_locked(file):
  config = config_lib.load(file)
  assert config.is_locked and config == command(f"--config={file}")
  assert set(dict(config_lib._flat(config))) >= set(config_lib.RULES)


@pytest.mark.parametrize("encoder", sorted(set(encoders.ENCODERS) - set(encoders.SPATIAL)))
@pytest.mark.parametrize("file", [LFMC, SYNTHETIC])
def test_every_encoder_can_be_chosen(file, encoder):
  settings = config_lib.load(f"{file}:encoder={encoder}").model.encoder.to_dict()
  assert settings.pop("model_type") == encoder
  assert set(settings) == set(encoders.arguments(encoder))


def test_lfmc_is_the_paper_and_its_words_change_what_they_say(lfmc):
  at = lambda config: (
    config.model.variant,
    config.protocol.name,
    config.protocol.group_by,
    config.method,
    config.baseline,
  )
  assert at(lfmc) == ("paper", "paper", "", "mdico", False)
  assert at(config_lib.load(f"{LFMC}:released")) == ("released", "paper", "", "mdico", False)
  assert at(config_lib.load(f"{LFMC}: clean , released")) == ("released", "clean", "site", "mdico", False)
  assert at(config_lib.load(f"{LFMC}:individual")) == ("paper", "paper", "", "individual", False)
  assert lfmc.data.modalities == ("S1_S1Ind", "S2_S2Ind")
  assert lfmc.model.encoder.to_dict() == {
    "model_type": "tempcnn",
    "layer_size": 128,
    "n_layers": 2,
    "kernel_size": 5,
    "dropout": 0.2,
    "use_norm": "layer",
    "seq_len": None,  # as the data have it
    "num_features": None,
  }
  protocol = lfmc.protocol
  assert (protocol.split, protocol.folds, protocol.seeds, lfmc.train.batch_size) == ("kfold", 10, (10,), 32)


def test_synthetic_trains_a_baseline_beside_it_unless_it_is_one():
  config = config_lib.load(SYNTHETIC)
  assert config.baseline and config.protocol.split == "official" and config.protocol.name == "clean"
  assert not config_lib.load(f"{SYNTHETIC}:individual").baseline


@pytest.mark.parametrize(
  "words, told",
  [
    ("nonsense", "'nonsense' is not allowed; separated by commas: released, individual, clean, encoder=NAME"),
    ("released,nonsense", "'nonsense' is not allowed"),
    ("released=1", "'released=1' is not allowed"),
    ("encoder=", "'encoder=' is not allowed"),
    ("encoder", "'encoder' is not allowed"),
    ("released,released", "'released' is there twice"),
    ("encoder=tempcnn,encoder=tempcnn", "'encoder' is there twice"),
    ("encoder=tcnn", f"unknown encoder 'tcnn', have: {', '.join(sorted(encoders.ENCODERS))}"),
  ],
)
def test_unknown_words_behind_the_colon(words, told):
  assert told in refused(f"--config={LFMC}:{words}")


def test_choices_are_those_of_the_model():
  # config.py does not import mdico, which would load JAX before a misspelt key is told.
  assert config_lib.RULES["model.variant"].allowed == f"one of: {', '.join(mdico.VARIANTS)}"
  terms = [key.partition(".")[2] for key in config_lib.RULES if key.startswith("loss.")]
  assert set(mdico.TERMS) <= set(terms)


# Values from the command line and from Python.


@pytest.mark.parametrize(
  "words, key, expected",
  [
    (["--config.train.max_epochs=3"], "train.max_epochs", 3),
    (["--config.train.max_epochs", "3"], "train.max_epochs", 3),
    (["--config.train.max_epochs=3", "--config.train.max_epochs=4"], "train.max_epochs", 4),
    (["--config.loss.contrastive=0.5"], "loss.contrastive", 0.5),
    (["--config.loss.contrastive=2"], "loss.contrastive", 2.0),
    (["--config.loss.contrastive=0"], "loss.contrastive", 0.0),
    (["--config.baseline"], "baseline", True),
    (["--config.baseline=True"], "baseline", True),
    (["--noconfig.baseline"], "baseline", False),
    (["--config.data.modalities=S1"], "data.modalities", ("S1",)),
    (["--config.data.modalities=S1,S2_S2Ind"], "data.modalities", ("S1", "S2_S2Ind")),
    (["--config.data.modalities=S1, S2"], "data.modalities", ("S1", "S2")),
    (["--config.data.modalities=('S1', 'S2')"], "data.modalities", ("S1", "S2")),
    (["--config.data.modalities=['S1', 'S2']"], "data.modalities", ("S1", "S2")),
    (["--config.data.modalities=S1", "--config.data.modalities=S2"], "data.modalities", ("S1", "S2")),
    (["--config.protocol.seeds=3"], "protocol.seeds", (3,)),
    (["--config.protocol.seeds=1,2"], "protocol.seeds", (1, 2)),
    (["--config.protocol.seeds=(1,2)"], "protocol.seeds", (1, 2)),
    (["--config.model.head_layers=64"], "model.head_layers", (64,)),
    (["--config.model.head_layers=()"], "model.head_layers", ()),
    (["--config.data.data_dir="], "data.data_dir", ""),
    (["--config.model.encoder.dropout=0"], "model.encoder.dropout", 0.0),
    (["--config.model.encoder.seq_len=4"], "model.encoder.seq_len", 4),
    (["--config.model.encoders={'S1_S1Ind': {'dropout': 0}}"], "model.encoders.S1_S1Ind.dropout", 0),
  ],
)
def test_values_from_the_command_line(words, key, expected):
  got = value(command(f"--config={LFMC}", *words), key)
  assert got == expected and type(got) is type(expected)


def test_load_is_the_command_line(tmp_path):
  overrides = {
    "train.max_epochs": 3,
    "loss.main": 2,
    "data.modalities": ["S1", "S2"],
    "protocol.seeds": (4,),
    "baseline": True,
    "data.manual_dir": tmp_path,
    "model.encoders": {"S1": {"layer_size": 8}},
  }
  config = config_lib.load(LFMC, overrides)
  assert config.data.manual_dir == str(tmp_path) and config.loss.main == 2.0
  assert config.model.encoders.to_dict() == {"S1": {"layer_size": 8}}
  assert config == command(f"--config={LFMC}", *(f"--config.{k}={v}" for k, v in overrides.items()))
  with pytest.raises(InputError, match="^train.max_epochs: 0 is not allowed; an integer >= 1$"):
    config_lib.load(LFMC, {"train.max_epochs": 0})
  with pytest.raises(InputError, match="^train.batch_size: 'True' is not allowed; an integer >= 2$"):
    config_lib.load(LFMC, {"train.batch_size": True})


@pytest.mark.parametrize(
  "key, given, told",
  [
    ("method", "both", "'both' is not allowed; one of: mdico, individual"),
    ("baseline", "maybe", "'maybe' is not allowed; True or False"),
    ("data.name", "mnist", "'mnist' is not allowed; one of: "),
    ("data.data_dir", __file__, "is not allowed; a directory"),
    ("data.manual_dir", "/dev/null/none", "'/dev/null/none' is not allowed; a directory that exists"),
    ("data.modalities", "", "'' is not allowed; a view, or several"),
    ("data.modalities", "()", "() is not allowed; one or more different names"),
    ("data.modalities", "S1,S1", "('S1', 'S1') is not allowed; one or more different names"),
    (
      "data.modalities",
      "S1,S3",
      "'S3' is not allowed; a view, or several joined with _: S1, S1Ind, S2, S2Ind",
    ),
    ("data.modalities", "S1_S1", "'S1_S1' is not allowed"),
    ("data.modalities", "S1_DEM", "'S1_DEM' is not allowed; views of one shape but for the last axis"),
    ("data.placement", "gpu", "'gpu' is not allowed; one of: auto, device, stream"),
    ("data.device_bytes", "-1", "-1 is not allowed; an integer >= 0"),
    ("protocol.name", "cleen", "'cleen' is not allowed; one of: paper, clean"),
    ("protocol.split", "random", "'random' is not allowed; one of: kfold, official"),
    ("protocol.folds", "1", "1 is not allowed; an integer >= 2"),
    ("protocol.seeds", "()", "() is not allowed; one or more different integers >= 0"),
    ("protocol.seeds", "1,1", "(1, 1) is not allowed; one or more different integers"),
    ("protocol.seeds", "-1", "(-1,) is not allowed; one or more different integers"),
    ("protocol.seeds", "4294967296", "is not allowed; one or more different integers"),
    ("protocol.seeds", "1.0", "(1.0,) is not allowed; one or more different integers"),
    ("protocol.seeds", "(1,", "'(1,' is not allowed; one or more different integers"),
    ("protocol.group_by", "region", "'region' is not allowed; nothing, or a group of lfmc: site"),
    ("protocol.validation_fraction", "0", "0.0 is not allowed; a finite number between 0 and 1"),
    ("protocol.validation_fraction", "1", "1.0 is not allowed; a finite number between 0 and 1"),
    ("model.variant", "figure", "'figure' is not allowed; one of: paper, released"),
    ("model.emb_dim", "127", "127 is not allowed; an even integer >= 2"),
    ("model.emb_dim", "0", "0 is not allowed; an even integer >= 2"),
    ("model.head_layers", "64,0", "(64, 0) is not allowed; integers >= 1"),
    ("model.dtype", "float16", "'float16' is not allowed; one of: float32, bfloat16"),
    ("model.encoder.dropout", "1", "1.0 is not allowed; a finite number >= 0 and < 1"),
    ("model.encoder.kernel_size", "0", "0 is not allowed; an integer >= 1"),
    ("model.encoder.layer_size", "1.5", "'1.5' is not allowed; an integer >= 1"),
    ("model.encoder.seq_len", "four", "'four' is not allowed; an integer >= 1, or None for the data's own"),
    ("model.encoder.seq_len", "0", "0 is not allowed; an integer >= 1, or None for the data's own"),
    ("model.encoder.use_norm", "group", "'group' is not allowed; one of: none, layer, batch"),
    ("model.encoders", "3", "'3' is not allowed; arguments by modality"),
    ("model.encoders", "{'S1_S1Ind': 3}", "{'S1_S1Ind': 3} is not allowed; arguments by modality"),
    ("model.encoders", "{'S1': {}}", "'S1' is not allowed; a configured modality: S1_S1Ind, S2_S2Ind"),
    ("loss.main", "0", "0.0 is not allowed; a finite number > 0"),
    ("loss.auxiliary", "nan", "nan is not allowed; a finite number >= 0"),
    ("loss.contrastive", "-1", "-1.0 is not allowed; a finite number >= 0"),
    ("loss.discriminative", "inf", "inf is not allowed; a finite number >= 0"),
    ("loss.temperature", "0", "0.0 is not allowed; a finite number > 0"),
    ("loss.negatives", "all", "'all' is not allowed; one of: both, cross"),
    ("loss.class_weights", "x", "'x' is not allowed; one of: balanced, none"),
    ("train.batch_size", "1", "1 is not allowed; an integer >= 2"),
    ("train.batch_size", "", "'' is not allowed; an integer >= 2"),
    ("train.batch_size", "a: b", "'a: b' is not allowed; an integer >= 2"),
    ("train.max_epochs", "0", "0 is not allowed; an integer >= 1"),
    ("train.learning_rate", "-0.001", "-0.001 is not allowed; a finite number > 0"),
    ("train.learning_rate", "0", "0.0 is not allowed; a finite number > 0"),
    ("train.learning_rate", "nan", "nan is not allowed; a finite number > 0"),
    ("train.learning_rate", "inf", "inf is not allowed; a finite number > 0"),
    ("train.learning_rate", "fast", "'fast' is not allowed; a finite number > 0"),
    ("train.patience", "0", "0 is not allowed; an integer number of epochs >= 1"),
    ("train.min_delta", "-1", "-1.0 is not allowed; a finite number >= 0"),
    ("checkpoint.every_epochs", "0", "0 is not allowed; an integer >= 1"),
  ],
)
def test_nonsensical_values_name_the_key_the_value_and_what_is_allowed(key, given, told):
  line = refused(f"--config={LFMC}", f"--config.{key}={given}")
  assert line.startswith(f"{key}: ") and told in line


@pytest.mark.parametrize(
  "entry, told",
  [
    (
      {"layersize": 8},
      "model.encoders.S1_S1Ind: 'layersize' is not allowed; an argument of encoder tempcnn: ",
    ),
    ({"layer_size": -8}, "model.encoders.S1_S1Ind.layer_size: -8 is not allowed; an integer >= 1"),
    ({"model_type": "x"}, "model.encoders.S1_S1Ind.model_type: unknown encoder 'x', have: "),
    ({"model_type": 3}, "model.encoders.S1_S1Ind.model_type: unknown encoder '3', have: "),
  ],
)
def test_what_one_modality_has_instead_is_checked_too(entry, told):
  assert told in refused(f"--config={LFMC}", f"--config.model.encoders={ {'S1_S1Ind': entry} }")


def test_an_encoder_that_cannot_read_a_modality_is_refused():
  line = refused(f"--config={LFMC}", "--config.data.modalities=S1,DEM")
  assert line.startswith("model.encoder, for modality DEM: encoder tempcnn reads series")


@pytest.mark.parametrize("encoder", encoders.SPATIAL)
def test_an_encoder_of_images_is_refused_for_series(encoder):
  line = refused(f"--config={LFMC}:encoder={encoder}")
  assert line.startswith("model.encoder, for modality S1_S1Ind: encoder ") and "got (4, 3)" in line


def test_sizes_in_a_configuration_have_to_be_the_datas():
  line = refused(f"--config={LFMC}", "--config.model.encoder.seq_len=12")
  assert "for modality S1_S1Ind: encoder tempcnn: seq_len=12, but data of shape (4, 3) have 4" in line
  three = "--config.model.encoder.num_features=3"
  line = refused(f"--config={LFMC}", three)
  assert "for modality S2_S2Ind: encoder tempcnn: num_features=3, but data of shape (4, 8) have 8" in line
  own = "--config.model.encoders={'S2_S2Ind': {'num_features': 8}}"
  command(f"--config={LFMC}", three, "--config.model.encoder.seq_len=4", own)


def test_the_encoder_is_not_a_value_but_comes_with_its_arguments():
  line = refused(f"--config={LFMC}", f"--config.model.encoder.model_type={OTHER}")
  assert line.startswith("unknown key 'model.encoder.kernel_size'")
  assert line.endswith("--config=FILE:encoder=NAME brings an encoder with its arguments")


def test_encoder_settings(lfmc):
  with lfmc.unlocked():
    lfmc.model.encoders = {"S1_S1Ind": {"layer_size": 8}, "S2_S2Ind": {"model_type": OTHER}}
  config_lib.validate(lfmc)
  common_settings = lfmc.model.encoder.to_dict()
  assert config_lib.encoder_settings(lfmc, "S1_S1Ind") == common_settings | {"layer_size": 8}
  assert config_lib.encoder_settings(lfmc, "S2_S2Ind") == {"model_type": OTHER}
  assert config_lib.encoder_settings(config_lib.load(LFMC), "S1_S1Ind") == common_settings


# Keys, and the rest of the command line.


@pytest.mark.parametrize(
  "key, told",
  [
    ("train.lerning_rate", "did you mean train.learning_rate? have: train.batch_size, train."),
    ("learning_rate", "did you mean train.learning_rate? have: augment, baseline, checkpoint, data, "),
    ("trai.batch_size", "did you mean train.batch_size?"),
    ("model.encoder.kernel", "did you mean model.encoder.kernel_size?"),
    ("xyz", "unknown key 'xyz', have: augment, baseline, checkpoint, data, loss, "),
    ("train[0]", "unknown key 'train[0]'"),
    ("train.batch-size", "did you mean train.batch_size?"),
    ("", "unknown key ''"),
    ("train.batch_size.x", "train.batch_size is one value; an integer >= 2"),
    ("model.encoders.S1.dropout", "model.encoders is one value; arguments by modality"),
    ("train", "train is a group of keys, change them one by one: train.batch_size, "),
  ],
)
def test_unknown_keys(key, told):
  line = refused(f"--config={LFMC}", f"--config.{key}=1")
  assert key in line and told in line


@pytest.mark.parametrize(
  "words, told",
  [
    ([], "--config is missing"),
    (["--config"], "--config is missing"),
    (["--config="], "--config is missing"),
    (["--config.train.max_epochs=3"], "--config is missing"),
    (["--config.train.max_epochs=3", f"--config={LFMC}"], "--config.train.max_epochs=3"),
    ([f"--config={LFMC}", "--config.train.max_epochs"], "--config.train.max_epochs"),
    ([f"--config={LFMC}", "--noconfig.train.max_epochs"], "noconfig.train.max_epochs"),
    ([f"--config={LFMC}", "--wrkdir=x"], "Did you mean: workdir"),
    ([f"--config={LFMC}", "--config.protocol.seeds=1", "2"], "unexpected argument '2'"),
    ([LFMC], "unexpected argument"),
    (["--config=configs/none.py"], "there is no file configs/none.py in "),
    ([f"--config={ROOT}/configs"], f"there is no file {ROOT}/configs"),
    ([f"--config={ROOT}/configs/common.py"], "has no get_config()"),
  ],
)
def test_a_wrong_command_line(words, told):
  workdir = None if words and words[-1] in ("--config", "--config.train.max_epochs") else "runs/none"
  assert told in refused(*words, workdir=workdir)


def test_workdir_is_asked_for_and_can_be_made():
  assert refused(f"--config={LFMC}", workdir=None).startswith("--workdir is missing")
  argv, values = ["main", f"--config={LFMC}", f"--workdir={__file__}"], flags.FlagValues()
  main.define(values, argv)
  with pytest.raises(InputError, match="^--workdir=.*: File exists; a directory that can be made$"):
    main.main(main.parse(argv, values))


@pytest.mark.parametrize(
  "text, told",
  [
    ("x = 1", "has no get_config()"),
    ("def get_config(): return {}", "has no get_config() that returns a ConfigDict"),
    ("x = (", "SyntaxError: "),
    ("import math\n\ndef get_config():\n  return math.nope", "line 4: AttributeError: "),
    ("def get_config():\n  raise ValueError('two\\nlines')", "line 2: ValueError: two lines"),
    ("def get_config():\n  open('/dev/null/none')", "line 2: NotADirectoryError: "),
    (
      f"{OF_LFMC}  c.x = 1\n  return c",
      "'x'",
    ),
    (f"{OF_LFMC}  del c.loss\n  return c", "loss.main"),
    ("from ml_collections import ConfigDict as C\ndef get_config():\n  return C()", "model_type"),
  ],
)
def test_a_configuration_file_that_is_wrong_also_after_one_that_is_right(text, told, tmp_path, lfmc):
  del lfmc  # it has been loaded
  file = tmp_path / "wrong.py"
  file.write_text(text)
  assert told in refused(f"--config={file}")


def test_validate_takes_a_configuration_made_by_hand():
  config = common.defaults()
  with pytest.raises(InputError, match="^data.modalities: "):
    config_lib.validate(config)
  config.data.name, config.data.modalities = "synthetic", ("S1", "S2_S2VI")
  config_lib.validate(config)
  with config.unlocked():
    config.train.batch_size = True
  with pytest.raises(InputError, match="^train.batch_size: True is not allowed; an integer >= 2$"):
    config_lib.validate(config)


# JSON.


def test_json_and_back(lfmc):
  with lfmc.unlocked():
    lfmc.model.encoders = {"S1_S1Ind": {"layer_size": 8}}
  tree = json.loads(json.dumps(config_lib.to_json(lfmc), allow_nan=False))
  assert tree["data"]["modalities"] == ["S1_S1Ind", "S2_S2Ind"] and tree["model"]["head_layers"] == []
  again = config_lib.restore(tree)
  assert isinstance(again, ConfigDict) and again.is_locked and again == lfmc
  assert isinstance(again.data.modalities, tuple)
  config_lib.validate(again)


def test_differences(lfmc):
  old = config_lib.to_json(lfmc)
  assert config_lib.differences(old, old) == []
  changed = config_lib.load(
    LFMC, {"train.batch_size": 64, "data.data_dir": "/there", "data.modalities": "S1"}
  )
  new = config_lib.to_json(changed)
  del old["loss"]["temperature"]
  assert sorted(config_lib.differences(old, new)) == [
    "data.modalities: ['S1_S1Ind', 'S2_S2Ind'] there, ['S1'] here",
    "loss.temperature: nothing there, 0.1 here",
    "train.batch_size: 32 there, 64 here",
  ]


# Views.


@pytest.mark.parametrize(
  "name, expected",
  [
    ("S1", ("S1",)),
    ("S1_S2", ("S1_S2",)),
    ("S1_S1Ind", ("S1", "S1Ind")),
    ("S1_S2_soil", ("S1_S2", "soil")),
    ("S1_S2_S2Ind", ("S1_S2", "S2Ind")),
    ("S2_S1_S2", ("S2", "S1_S2")),
    ("S1_S2_x", ("S1", "S2_x")),  # the longest first leads nowhere
    ("soil_S2_S1", ("soil", "S2", "S1")),
  ],
)
def test_resolve_views(name, expected):
  assert resolve_views(name, ["S1", "S2", "S1Ind", "S2Ind", "S1_S2", "S2_x", "soil"]) == expected


@pytest.mark.parametrize("name", ["", "S3", "S1_", "_S1", "S1__S2", "S1Ind2", "S1_S1"])
def test_views_that_there_are_not(name):
  with pytest.raises(
    InputError, match="^modality '.*' is not allowed; a view, or several joined with _: S1, S2$"
  ):
    resolve_views(name, ["S1", "S2"])


# The program itself.


def program(*words, **options):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "colearn_jax.main", *words]
  return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, **options)


@pytest.mark.parametrize(
  "words",
  [
    ["--config=configs/lfmc.py:nonsense", "--workdir=none"],
    ["--config=configs/lfmc.py", "--workdir=none", "--config.train.folds=3"],
    ["--config=configs/synthetic.py", "--wrokdir=none"],
  ],
)
def test_the_program_says_one_line_and_leaves_nothing(words):
  done = program(*words)
  assert done.returncode == 1 and not done.stdout
  assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
  assert not (ROOT / "none").exists()


def test_an_interrupt_is_one_line_and_130(tmp_path):
  file = tmp_path / "interrupts.py"
  # A program that was started in the background ignores interrupts unless it says otherwise.
  listen = "signal.signal(signal.SIGINT, signal.default_int_handler)"
  file.write_text(f"import os, signal\n{listen}\nos.kill(os.getpid(), signal.SIGINT)")
  done = program(f"--config={file}", "--workdir=none")
  assert done.returncode == 130 and done.stderr.count("\n") == 1 and done.stderr.startswith("interrupted")


def test_help_is_shown():
  assert "--workdir" in program("--help").stdout
