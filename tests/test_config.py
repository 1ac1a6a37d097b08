"""The schema, presets, the command line, and what is told of mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from colearn_jax import config as config_lib
from colearn_jax import encoders, main, methods, rules, schema, schema_pages
from colearn_jax.methods.configured import encoder_settings
from colearn_jax.training import optimizer
from colearn_jax.types import InputError, resolve_views
from colearn_jax.values import from_text

ROOT = Path(__file__).parent.parent
ENCODERS = [schema.ENCODER, encoders.AUTO, *sorted(set(encoders.ENCODERS) - {schema.ENCODER})]
OF_LFMC = "from colearn_jax.configs import lfmc\ndef get_config():\n  c = lfmc.get_config()\n"
PRESETS = ("cropharvest:multi", "folder", "lfmc", "synthetic", "treesat_ts")


@pytest.fixture
def lfmc():
  return config_lib.load("lfmc")


def command(*words, workdir="runs/none"):
  """The configuration of a command line with these words."""
  values = flags.FlagValues()
  main.define(values)
  return main.parse(["main", *words, *([f"--workdir={workdir}"] if workdir else [])], values).config


def refused(*words, **options):
  """The one line that a wrong command line gives."""
  with pytest.raises(InputError) as error:
    command(*words, **options)
  assert "\n" not in str(error.value)
  return str(error.value)


def value(config, key):
  for part in key.split("."):
    config = config[part]
  return config


def program(*words, **options):
  environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
  words = [sys.executable, "-m", "colearn_jax.main", *words]
  return subprocess.run(words, env=environment, capture_output=True, text=True, **options)


# Rules.


@pytest.mark.parametrize(
  "rule, good, bad",
  [
    (rules.integer(2), [2, 9], [1, 2.0, True, "2", None]),
    (rules.POSITIVE, [1, 0.5], [0, -1.0, float("nan"), float("inf"), True, "1"]),
    (rules.SHARE, [0, 0.99], [1, -0.1, "0"]),
    (rules.choice("a", "b"), ["a"], ["c", "", 1, ["a"]]),
    (rules.each(rules.TEXT.ok, "", distinct=True), [("a",), ("a", "b")], [(), ("a", "a"), ["a"], "a", (1,)]),
    (rules.WIDTHS, [(), (3, 3)], [(0,), (1.0,), 3]),
    (rules.mapping(rules.integer(1).ok, ""), [{}, {"a": 1}, ConfigDict({"a": 2})], [{"a": 0}, (), "a"]),
    (rules.SWITCH, [True, False], [0, 1, "True", None]),
    (schema.SCHEMA["mesh.data"].rule, [-1, 1], [0, -2, True]),
    (schema.SCHEMA["model.emb_dim"].rule, [2, 128], [0, 127, 4.0]),
    (schema.SCHEMA["protocol.seeds"].rule, [(0, 2**32 - 1)], [(2**32,), (-1,), (1, 1), (), (True,)]),
    (schema.SCHEMA["data.context"].rule, [(), ("date", "soil")], [("date", "date"), (1,), "date"]),
    (
      schema.SCHEMA["data.fixed"].rule,
      [{}, {"S1": {"offset": [1, 2.5], "scale": 5}}],
      [{"S1": 3}, {"S1": {"offset": 0}}, {"S1": {"offset": 0, "scale": [1, 0]}}],
    ),
    (schema.SCHEMA["train.rates"].rule, [{}, {"a.*/b$": 0, "c": 2.0}], [{"(": 1}, {"a": -1}, ()]),
    (
      schema.SCHEMA["loss.ablations"].rule,
      [{}, {"off-2_B": {"contrastive": 0}}, {"a": {"main": 1, "auxiliary": 0.5}}],
      [{"a b": {"main": 1}}, {"": {"main": 1}}, {"a": {}}, {"a": 1}, {"a": {"main": -1}}, "a"],
    ),
    (schema.SCHEMA["data.data_dir"].rule, ["", "/dev/null/none", str(ROOT)], [__file__, None]),
    (schema.SCHEMA["data.manual_dir"].rule, ["", str(ROOT)], ["/dev/null/none", __file__, None]),
    (encoders.settings("tempcnn")["seq_len"].rule, [None, 3], [0, "3"]),
  ],
)  # fmt: skip
def test_rules(rule, good, bad):
  assert all(map(rule.ok, good)) and not any(map(rule.ok, bad))


# The schema.


def test_every_key_is_described_and_its_default_passes_and_a_wrong_type_does_not():
  for method in methods.METHODS:
    for encoder in ENCODERS:
      known = schema.settings(method, encoder)
      defaults = dict(schema.flat(schema.defaults(encoder, method)))
      assert list(defaults) == list(known) and set(schema.SCHEMA) <= set(known)
      for key, setting in known.items():
        assert setting.help.endswith(".") and setting.rule.allowed, key
        assert setting.rule.ok(defaults[key]) or key == "data.modalities", key
        assert not setting.rule.ok(object()), key
        if not isinstance(setting.default, str):
          assert not setting.rule.ok("no"), key
        if not isinstance(setting.default, bool):
          assert not setting.rule.ok(True), key


def test_help_and_the_reference_page_have_every_key():
  page = schema_pages.reference(schema.sections())
  text = schema_pages.help_text(schema.sections())
  every = {
    key for method in methods.METHODS for encoder in ENCODERS for key in schema.settings(method, encoder)
  }
  assert len(every) > 90
  for key in every:
    assert f"--config.{key}=" in text and f"| `{key}` |" in page


def test_the_names_that_the_schema_repeats_are_those_of_the_code():
  # The schema does not import these modules, because they are slow to load.
  assert schema.OPTIMIZERS == tuple(sorted(optimizer.SCALINGS)) and schema.SCHEDULES == optimizer.SCHEDULES


def test_with_method():
  old = config_lib.load(
    "synthetic", {"loss.main": 3, "loss.class_weights": "none", "train.rates": {"a.b": 0}}
  )
  new = schema.with_method(old, "individual")
  config_lib.validate(new)
  assert new.is_locked and (new.method, new.baseline, new.loss.main) == ("individual", False, 1.0)
  common = {key.removeprefix("loss."): s.default for key, s in schema.SCHEMA.items() if "loss." in key}
  assert new.loss.to_dict() == common | {"main": 1.0, "class_weights": "none"}
  apart = lambda c: {k: v for k, v in c.to_dict().items() if k not in ("method", "baseline", "loss")}
  assert apart(new) == apart(old)


# Presets and files.


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_found_by_name_and_by_path_and_have_every_key(preset, monkeypatch, tmp_path):
  name, colon, words = preset.partition(":")
  by_path = config_lib.read(f"{ROOT}/configs/{name}.py{colon}{words}")
  monkeypatch.chdir(tmp_path)
  config = config_lib.read(preset)
  assert config == by_path
  assert list(dict(schema.flat(config))) == list(config_lib.settings_of(config))
  released = config_lib.read(f"{preset}{colon and ','}{'' if colon else ':'}released")
  assert released.loss.variant == "released" and config.loss.variant == "paper"


@pytest.mark.parametrize(
  "words", ["", ":released", ": clean , encoder=gru", ":individual", ":method=individual"]
)
def test_words(words):
  config = config_lib.load(f"lfmc{words}")
  alone = "individual" in words
  assert config.method == ("individual" if alone else "mdico")
  common = {key.removeprefix("loss.") for key in schema.SCHEMA if key.startswith("loss.")}
  assert set(config.loss) == common | set(methods.settings(config.method))
  assert alone or config.loss.variant == ("released" if "released" in words else "paper")
  assert config.protocol.group_by == ("site" if "clean" in words else "")
  model_type = "gru" if "gru" in words else "tempcnn"
  assert config.model.encoder.to_dict() == {
    "model_type": model_type,
    **encoders.arguments(model_type),
    "use_norm": "layer",
  }


def test_the_baseline_of_a_baseline_is_not_trained():
  assert config_lib.read("synthetic").baseline and not config_lib.read("synthetic:individual").baseline


@pytest.mark.parametrize(
  "spec, told",
  [
    (
      "lfmc:nonsense",
      "'nonsense' is not allowed; separated by commas: released, individual, clean, year, encoder=NAME",
    ),
    ("lfmc:encoder=", "'encoder=' is not allowed"),
    ("lfmc:released,released", "'released' is given twice"),
    ("lfmc:individual,method=mdico", "'method' is given twice"),
    ("lfmc:individual,released", "'released' is a variant of mdico"),
    ("lfmc:encoder=tcnn", "unknown encoder 'tcnn', have: auto, "),
    ("lfmc:method=mdic", "unknown method 'mdic', have: decur, "),
    ("cropharvest", "a word is missing after the colon: binary or multi"),
    ("cropharvest:binary,multi", "binary and multi both set data.name"),
    ("lfcm", "did you mean lfmc? presets: cropharvest, cropharvest_best, folder, lfmc, "),
    (str(ROOT), "there is no file "),
  ],
)
def test_wrong_words_and_files(spec, told):
  line = refused(f"--config={spec}")
  assert line.startswith(f"--config={spec}: ") and told in line


def test_a_configuration_file_is_executed_once(tmp_path):
  file, count = tmp_path / "own.py", tmp_path / "count"
  file.write_text(
    f"from colearn_jax.configs.lfmc import get_config\nwith open({str(count)!r}, 'a') as f:\n  f.write('x')\n"
  )
  command(f"--config={file}:released", "--config.train.max_epochs=3", "--config.loss.main=2")
  assert count.read_text() == "x"


@pytest.mark.parametrize(
  "text, told",
  [
    ("x = 1", "has no get_config() that returns a ConfigDict"),
    ("x = (", "SyntaxError: "),
    ("import math\n\ndef get_config():\n  return math.nope", "line 4: AttributeError: "),
    ("def get_config():\n  raise ValueError('two\\nlines')", "line 2: ValueError: two lines"),
    (f"{OF_LFMC}  c.x = 1\n  return c", "unknown key 'x'"),
    (f"{OF_LFMC}  del c.train\n  return c", "train.batch_size is missing"),
    ("from ml_collections import ConfigDict as C\ndef get_config():\n  return C()", "method is missing"),
  ],
)  # fmt: skip
def test_a_wrong_configuration_file(text, told, tmp_path):
  file = tmp_path / "wrong.py"
  file.write_text(text)
  assert told in refused(f"--config={file}")


# Values.


@pytest.mark.parametrize(
  "words, key, expected",
  [
    ("--config.train.max_epochs=3", "train.max_epochs", 3),
    ("-config.train.max_epochs=3 --config.train.max_epochs=4", "train.max_epochs", 4),
    ("--config.train.learning_rate=1e-4", "train.learning_rate", 1e-4),
    ("--config.baseline", "baseline", True),
    ("--config.baseline --noconfig.baseline", "baseline", False),
    ("--config.data.modalities=S1,S2_S2Ind", "data.modalities", ("S1", "S2_S2Ind")),
    ("--config.data.modalities=['S1','S2']", "data.modalities", ("S1", "S2")),
    ("--config.data.context=date,DEM", "data.context", ("date", "DEM")),
    ("--config.data.context=", "data.context", ()),
    ("--config.protocol.seeds=1,2", "protocol.seeds", (1, 2)),
    ("--config.protocol.seeds (1,2)", "protocol.seeds", (1, 2)),
    ("--config.model.head_layers=()", "model.head_layers", ()),
    ("--config.data.data_dir=", "data.data_dir", ""),
    ("--config.model.encoder.seq_len=4", "model.encoder.seq_len", 4),
    ("--config.model.encoders={'S1_S1Ind':{'dropout':0}}", "model.encoders.S1_S1Ind.dropout", 0),
    ("--config.model.encoders.S1_S1Ind=gru", "model.encoders.S1_S1Ind.model_type", "gru"),
    ("--config.model.encoders.S1_S1Ind={'layer_size':32}", "model.encoders.S1_S1Ind.layer_size", 32),
    ("--config.loss.ablations={'off':{'contrastive':0}}", "loss.ablations.off.contrastive", 0),
  ],
)
def test_values_from_the_command_line(words, key, expected):
  got = value(command("--config=lfmc", *words.split()), key)
  assert got == expected and type(got) is type(expected)


def test_names_may_look_like_numbers_and_mappings_keep_their_order():
  assert from_text("10,20", schema.SCHEMA["data.modalities"]) == ("10", "20")
  config = command("--config=lfmc", "--config.train.rates={'z.*': 0, 'a.b': 0.5}")
  assert list(config.train.rates.items()) == [("z.*", 0), ("a.b", 0.5)]
  assert list(config_lib.restore(json.loads(json.dumps(config_lib.to_json(config)))).train.rates) == [
    "z.*",
    "a.b",
  ]


def test_load_sets_python_values(tmp_path):
  overrides = {
    "train.max_epochs": np.int64(3),
    "loss.main": 2,
    "data.modalities": ["S1", "S2"],
    "protocol.seeds": 4,
    "baseline": True,
    "data.manual_dir": tmp_path,
    "model.encoders.S1": "gru",
    "model.encoders.S2": {"layer_size": 8},
    "train.rates": {'it\'s: "odd".*': 0.5},
  }
  config = config_lib.load("lfmc", overrides)
  assert config.is_locked and config.data.manual_dir == str(tmp_path) and config.loss.main == 2.0
  assert config.data.modalities == ("S1", "S2") and config.protocol.seeds == (4,)
  assert config.model.encoders.to_dict() == {"S1": {"model_type": "gru"}, "S2": {"layer_size": 8}}
  assert config.train.rates.to_dict() == overrides["train.rates"]
  with pytest.raises(InputError, match="^train.batch_size: True is not allowed; an integer >= 2$"):
    config_lib.load("lfmc", {"train.batch_size": True})


# Encoders.


@pytest.mark.parametrize(
  "shape, name", [((3,), "mlp"), ((12, 3), "tempcnn"), ((8, 8, 3), "resnet"), ((12, 8, 8, 3), "pse_ltae")]
)
def test_auto_is_resolved_by_shape(shape, name):
  own = {"b": "gru", "c": {"dropout": 0.5}}
  config = schema.defaults("auto")
  config.model.encoder.use_norm = "batch"
  known = config_lib.settings_of(config)
  for modality, arguments in own.items():
    config_lib.assign(config, known, f"model.encoders.{modality}", arguments)
  of = lambda modality: encoder_settings(config, modality, shape)
  assert of("a") == {"model_type": name, "use_norm": "batch"}
  assert of("b") == {"model_type": "gru", "use_norm": "batch"}
  assert of("c") == {"model_type": name, "use_norm": "batch", "dropout": 0.5}
  other = config_lib.load("lfmc", {"model.encoders.S1_S1Ind": "auto"})
  assert encoder_settings(other, "S1_S1Ind", shape) == {"model_type": name}


def test_encoder_settings(lfmc):
  common = lfmc.model.encoder.to_dict()
  config = config_lib.load("lfmc", {"model.encoders": {"S1_S1Ind": {"layer_size": 8}, "S2_S2Ind": "gru"}})
  assert encoder_settings(config, "S1_S1Ind", (4, 3)) == common | {"layer_size": 8}
  assert encoder_settings(config, "S2_S2Ind", (4, 8)) == {"model_type": "gru"}
  assert encoder_settings(lfmc, "S1_S1Ind", (4, 3)) == common


def test_auto_reads_sensors_of_every_shape_and_is_the_default_of_folder():
  assert config_lib.read("folder").model.encoder.to_dict() == {"model_type": "auto", "use_norm": "none"}
  config_lib.load("treesat_ts:encoder=auto", {"model.encoders": {}})
  config_lib.load("lfmc:encoder=auto", {"data.modalities": ("S1", "DEM")})


@pytest.mark.parametrize("folds", [5, "each", "5,each", "5,4"])
def test_folds_are_a_number_or_each_or_one_of_them_for_each_feature(folds):
  features = "site,year" if "," in str(folds) else "site"
  config = config_lib.load("lfmc", {"protocol.group_by": features, "protocol.folds": folds})
  again = config_lib.restore(config_lib.to_json(config))
  config_lib.validate(again)
  assert again.protocol.folds == config.protocol.folds == folds


def test_rules_in_time_need_samples_with_dates():
  with pytest.raises(
    InputError, match="purge: 3 is not allowed; 0, for samples of synthetic do not have a d"
  ):
    config_lib.load("synthetic", {"protocol.purge": 3})


# What is told of mistakes.


@pytest.mark.parametrize(
  "key, given, told",
  [
    ("method", "individual", "method: 'individual' has other keys than 'mdico'; set the method and its"),
    ("method", "both", "method: 'both' is not allowed; one of: decur, "),
    ("model.encoder.model_type", "gru", "set the encoder and its arguments by a word, as in "),
    ("data.name", "mnist", "data.name: 'mnist' is not allowed; one of: "),
    ("data.modalities", "S1,S3", "data.modalities: modality 'S3' is not allowed; a view, or several"),
    ("data.modalities", "S1,DEM", "model.encoder, for modality DEM: encoder tempcnn reads series"),
    ("data.context", "date,S1", "data.context: 'S1' is not allowed; names that lfmc has: date, "),
    ("data.normalisation", "fixed", "data.fixed: {} is not allowed; with data.normalisation=fixed"),
    ("protocol.group_by", "region", "'region' is not allowed; nothing, or a group of lfmc: site"),
    ("protocol.group_by", "site,site", "lfmc: site, year, month, season; several different ones as in a,b"),
    ("protocol.group_by", "block", "month, season (block needs protocol.block_km); several different ones"),
    ("protocol.block_km", "50", "50.0 is not allowed; 0, or block among the features of protocol.group_by"),
    ("protocol.folds", "5,all", "'5,all' is not allowed; an integer >= 2, each, or one of them for each"),
    ("protocol.folds", "5,each", "2 numbers for 0 features in protocol.group_by"),
    ("protocol.seeds", "(1,", "protocol.seeds: '(1,' is not allowed; one or more different integers"),
    ("model.encoder.seq_len", "12", "tempcnn: seq_len=12, but data of shape (4, 3) have 4"),
    ("model.encoders.S1", "gru", "model.encoders: 'S1' is not allowed; a configured modality: S1_S1Ind"),
    ("model.encoders.S1_S1Ind", "gruu", "model.encoders, for modality S1_S1Ind: unknown encoder 'gruu'"),
    ("model.encoders.S1_S1Ind", "{'layersize': 8}", "'layersize' is not allowed; an argument of encoder "),
    ("model.encoders.S1_S1Ind", "{'layer_size': -8}", "model.encoders.S1_S1Ind.layer_size: -8 is not "),
    ("loss.ablations", "{'a': {'cont': 0}}", "loss.ablations.a: 'cont' is not allowed; a loss term of mdico"),
    ("loss.ablations", "{'a': {'main': 0}}", "loss.ablations.a.main: 0 is not allowed; a number > 0, "),
    ("train.batch_size", "a: b", "train.batch_size: 'a: b' is not allowed; an integer >= 2"),
    ("train.lerning_rate", "1", "did you mean train.learning_rate? have: train.batch_size, "),
    ("temperature", "1", "unknown key 'temperature', did you mean loss.temperature? have: "),
    ("xyz", "1", "unknown key 'xyz', have: method, baseline, data, "),
    ("train.batch_size.x", "1", "unknown key train.batch_size.x: train.batch_size is a single value"),
    ("train", "1", "train is a group of keys, set them one by one: train.batch_size, "),
  ],
)  # fmt: skip
def test_values_and_keys_that_are_not_allowed(key, given, told):
  assert told in refused("--config=lfmc", f"--config.{key}={given}")


@pytest.mark.parametrize(
  "words, told",
  [
    ([], "--config is missing"),
    (["--config", "--workdir=x"], "--config is missing"),
    (["--config.train.max_epochs=3"], "--config is missing"),
    (
      ["--config=lfmc", "--config.train.max_epochs"],
      "--config.train.max_epochs has no value; an integer >= 0",
    ),
    (["--config=lfmc", "--noconfig.train.max_epochs"], "train.max_epochs: False is not allowed"),
    (
      ["--config=lfmc", "--noconfig.baseline=1"],
      "--noconfig.baseline=1 is not allowed; --config.baseline=False",
    ),
    (["--config=lfmc", "--wrkdir=x"], "Did you mean: workdir"),
    (["--config=lfmc", "--config.protocol.seeds=1,", "2"], "unexpected argument '2'"),
    (["lfmc"], "unexpected argument 'lfmc'"),
  ],
)
def test_a_wrong_command_line(words, told):
  assert told in refused(*words, workdir="" if words[-1:] == ["--config.train.max_epochs"] else "runs/none")


def test_workdir_is_required_and_can_be_made():
  assert refused("--config=lfmc", workdir=None).startswith("--workdir is missing")
  values = flags.FlagValues()
  main.define(values)
  made = main.parse(["main", "--config=lfmc", f"--workdir={__file__}"], values)
  with pytest.raises(InputError, match="^--workdir=.*: File exists; a directory to create$"):
    main.main(made)


# JSON.


def test_json_and_back():
  config = config_lib.load("lfmc", {"model.encoders": {"S1_S1Ind": {"layer_size": 8}}})
  tree = json.loads(json.dumps(config_lib.to_json(config), allow_nan=False))
  assert tree["data"]["modalities"] == ["S1_S1Ind", "S2_S2Ind"] and tree["model"]["head_layers"] == []
  again = config_lib.restore(tree)
  assert again.is_locked and again == config and again.data.modalities == config.data.modalities
  config_lib.validate(again)


def test_differences(lfmc):
  old = config_lib.to_json(lfmc)
  assert config_lib.differences(old, old) == []
  changes = {"train.batch_size": 64, "data.data_dir": "/there", "mesh.data": 1, "data.modalities": "S1"}
  new = config_lib.to_json(config_lib.load("lfmc", changes))
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
    ("S2_S1_S2", ("S2", "S1_S2")),
    ("S1_S2_x", ("S1", "S2_x")),  # the longest view first leads nowhere
  ],
)
def test_resolve_views(name, expected):
  assert resolve_views(name, ["S1", "S2", "S1Ind", "S2Ind", "S1_S2", "S2_x", "soil"]) == expected


def test_views_that_do_not_exist():
  for name in ("", "S3", "S1_", "_S1", "S1__S2", "S1Ind2", "S1_S1"):
    with pytest.raises(
      InputError, match="^modality '.*' is not allowed; a view, or several joined with _: S1, S2$"
    ):
      resolve_views(name, ["S1", "S2"])


# The program itself.


def test_the_program_says_one_line_and_leaves_nothing(tmp_path):
  done = program("--config=lfmc", "--workdir=none", "--config.train.folds=3", cwd=tmp_path)
  assert done.returncode == 1 and not done.stdout and not (tmp_path / "none").exists()
  assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_a_wrong_key_is_told_before_jax_is_loaded():
  code = (
    "import sys\nfrom colearn_jax import main\nmain.define()\n"
    "try: main.parse(['main', '--config=lfmc', '--workdir=x', '--config.train.x=1'])\n"
    "except ValueError: sys.exit('jax' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_interrupt_is_one_line_and_130(tmp_path):
  # A program that was started in the background ignores interrupts unless it says otherwise.
  listen = "signal.signal(signal.SIGINT, signal.default_int_handler)"
  (tmp_path / "own.py").write_text(f"import os, signal\n{listen}\nos.kill(os.getpid(), signal.SIGINT)")
  done = program("--config=own.py", "--workdir=none", cwd=tmp_path)
  assert done.returncode == 130 and done.stderr.count("\n") == 1 and done.stderr.startswith("interrupted")


def test_help(tmp_path):
  done = program("--help", cwd=tmp_path)
  assert done.returncode == 0 and "--workdir" in done.stdout and "--config.train.rates={}" in done.stdout
