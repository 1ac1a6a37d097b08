import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from colearn_jax import config as config_lib
from colearn_jax import schema
from colearn_jax.deploy.load import load_model
from colearn_jax.evaluation.results import Results
from colearn_jax.interop import released, yaml_settings
from colearn_jax.interop.state_dict import UNUSED_HEAD
from colearn_jax.methods.configured import encoder_settings
from colearn_jax.types import InputError
from colearn_jax.weights import torch_file
from tests.helpers import golden, save_torch_file

GOLDEN = Path(__file__).parent / "golden"
SMALL = {"model_type": "TempCNN", "layer_size": 8, "n_layers": 2, "kernel_size": 5, "dropout": 0.2}
LFMC = {
  "dataset": {"name": "lfmc", "data_dir": "/data", "view_names": ["S1_S1Ind", "S2_S2Ind"]},
  "training": {"batch_size": 16, "max_epochs": 2, "lr": "1e-3",
               "early_stopping": {"patience": 4, "min_delta": 0.02},
               "loss": {"name": "norm-mse", "mean": 104.0, "std": 40.0}},
  "architecture": {
    "emb_dim": 16, "contrastive_temp": 0.2, "predictive_model": "linear",
    "weights_loss": {"main": 1, "auxiliary": 1, "contrastive": 1, "discriminative": 0.5, "weighting": None},
    "encoder": {**SMALL, "seq_len": 4, "use_norm": True},
  },
}  # fmt: skip


def test_a_file_that_pytorch_wrote():
  """Of torch 2.13: views, all kinds of numbers, and beside the state dict what Lightning puts there."""
  content = torch_file.read(GOLDEN / "torch_save.ckpt")
  base = np.arange(24, dtype=np.float32).reshape(4, 6)
  expected = {
    "a": base[1:, ::2],
    "at": base.T,
    "shared": base,
    "scalar": np.int64(7),
    "half": np.array([1.5, -2], np.float16),
    "bf": np.array([1.5, 3.140625], np.float32),
    "b": np.array([True, False]),
    "i": np.arange(5),
    "p": np.ones(2, np.float32),
    "exp": np.ones(3, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "u8": np.array([1, 255], np.uint8),
  }
  tensors = content["state_dict"]
  assert type(tensors) is dict and tensors.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(tensors[name].astype(array.dtype), array)
    assert tensors[name].dtype == array.dtype or (name == "bf" and str(tensors[name].dtype) == "bfloat16")
  hyper = content["hyper_parameters"]
  np.testing.assert_array_equal(hyper.pop("w"), [[1.0, 3.0], [2.0, 4.0]])
  assert hyper == {
    "lr": 1e-3, "s": 2.5, "i": 3, "size": (2, 3), "dt": "torch.float32", "set": {1, 2}, "big": 2**40,
    "neg": -5, "t": ("x", None, True),
  }  # fmt: skip
  assert (content["epoch"], content["dev"]) == (3, "cpu")


def test_what_torch_saves_now(tmp_path):
  real = pytest.importorskip("torch")
  base = real.randn(3, 4)
  saved = {"view": base.t()[1:], "half": base.half(), "parameter": real.nn.Parameter(base)}
  for protocol in (2, 4):
    real.save(saved, tmp_path / "file.pt", pickle_protocol=protocol)
    for name, array in torch_file.read(tmp_path / "file.pt").items():
      np.testing.assert_array_equal(array, saved[name].detach().numpy())


CALL = b"cposix\nmkdir\n(X\x03\x00\x00\x00rantR"
ONE = b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\x01\x00\x00\x00tQ"
STORED = b"(X\x07\x00\x00\x00storage" + ONE
VIEW = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORED


@pytest.mark.parametrize(
  "content, message",
  [
    (CALL, "it asks for posix.mkdir; nothing of it was run"),
    ({"state_dict": {"a": CALL}}, "it asks for posix.mkdir"),
    (b"\x8c\x05posix\x8c\x05mkdir\x93(X\x03\x00\x00\x00rantR", "it asks for posix.mkdir"),
    (b"cbuiltins\neval\n(X\x01\x00\x00\x001tR", "it asks for builtins.eval"),
    (b"ctorch.storage\n_load_from_bytes\n(tR", "it asks for torch.storage._load_from_bytes"),
    (b"ctorch\nFloatStorage\n(tR", "a call of torch.FloatStorage"),
    (b"(X\x03\x00\x00\x00ranios\nmkdir\n", "the pickle operation INST"),
    (b"ctorch\nSize\n)\x81", "the pickle operation NEWOBJ"),
    (b"ctorch\nSize\n}X\x01\x00\x00\x00aNsb", "the state of a _Global"),
    (b"\x82\x01", "the pickle operation EXT1"),
    (b"cnumpy\ndtype\n(X\x01\x00\x00\x00OtR", "an array of object"),
    (b"(X\x05\x00\x00\x00otherctorch\nFloatStorage\nNNNtQ", "the other torch.FloatStorage"),
    (VIEW + b"J\x00\x00\x00\x00J\x02\x00\x00\x00\x85J\x01\x00\x00\x00\x85tR", "a tensor reaches beyond its"),
    (VIEW + b"J\xff\xff\xff\xffJ\x01\x00\x00\x00\x85J\x01\x00\x00\x00\x85tR", "a tensor of size"),
  ],
)
def test_nothing_but_data_is_read(content, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = save_torch_file(tmp_path / "file.ckpt", content, storages={"0": b"\0" * 4})
  with pytest.raises(InputError, match=message) as error:
    torch_file.read(path)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "ran").exists()


def test_damaged_and_other_files_are_one_line(tmp_path):
  path = tmp_path / "file.ckpt"

  def refused(message):
    with pytest.raises(InputError, match=message) as error:
      torch_file.read(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)

  tensors = {"a": np.ones((3, 2), np.float32)}
  refused("No such file")
  whole = save_torch_file(path, tensors).read_bytes()
  np.testing.assert_array_equal(torch_file.read(path)["a"], tensors["a"])
  for size in (len(whole) - 10, len(whole) // 2, 20, 0):
    path.write_bytes(whole[:size])
    refused("no zip archive")
  path.write_bytes(whole.replace(np.float32(1).tobytes(), np.float32(2).tobytes()))
  refused("Bad CRC-32")
  path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M")
  refused("before PyTorch 1.6; load it there and save it again")
  save_torch_file(path, tensors, byteorder=b"big")
  refused("in big endian order")
  save_torch_file(path, tensors, compression=zipfile.ZIP_DEFLATED)
  refused("is compressed")
  save_torch_file(path, tensors, **{"data.pkl": None})
  refused("without its data.pkl")
  save_torch_file(path, tensors, storages={"0": b"\0" * 20})
  refused("storage 0 has 20 bytes for 6 values of float32")
  save_torch_file(path, tensors, **{"data.pkl": b"\x80\x02}q\x00"})
  refused("is damaged")
  save_torch_file(path, b"]q\x00h\x00a")
  looped = torch_file.read(path)  # a list within itself is read as that
  assert looped[0] is looped


def write(path, tree):
  path.write_text(yaml.safe_dump(tree, sort_keys=False) if isinstance(tree, dict) else tree)
  return path


def test_yaml_to_a_configuration(tmp_path):
  out = tmp_path / "ours.py"
  notes = yaml_settings.read_yaml(write(tmp_path / "a.yaml", LFMC)).notes
  assert notes == []
  released.main(["config", str(tmp_path / "a.yaml"), str(out)])
  config = config_lib.load(str(out))
  assert config_lib.to_json(config) == config_lib.to_json(
    yaml_settings.make_config(yaml_settings.read_yaml(tmp_path / "a.yaml"))
  )
  assert config.data.name == "lfmc" and config.data.modalities == ("S1_S1Ind", "S2_S2Ind")
  assert config.train.to_dict() == schema.defaults().train.to_dict() | {
    "batch_size": 16, "max_epochs": 2, "learning_rate": 1e-3, "patience": 4, "min_delta": 0.02,
  }  # fmt: skip
  assert (config.loss.temperature, config.loss.discriminative, config.loss.main) == (0.2, 0.5, 1.0)
  assert (config.loss.variant, config.model.emb_dim, config.model.head_layers) == ("released", 16, ())
  assert config.model.encoder.to_dict() == {
    **SMALL, "model_type": "tempcnn", "use_norm": "layer", "seq_len": 4, "num_features": None,
  }  # fmt: skip
  assert config.model.encoders.to_dict() == {}


def test_yaml_with_an_encoder_for_each_sensor(tmp_path):
  tree = {
    "data_name": "cropharvest_multi_train",
    "architecture": {
      "predictive_model": {"model_type": "mlp", "n_layers": 1, "layer_size": 32, "batchnorm": True},
      "encoders": {
        "S1": {"model_type": "gru", "layer_size": 16, "num_layers": 1, "bidirectional": True},
        "S2_S2VI": {"class": "LTAE", "args": {"n_head": 4, "d_model": 64, "n_neurons": [64, 32]},
                    "wrap": {"latent_dims": 64, "use_norm": False}},
      },
    },
  }  # fmt: skip
  config = yaml_settings.make_config(yaml_settings.read_yaml(write(tmp_path / "a.yaml", tree)))
  config_lib.validate(config)
  assert config.data.name == "cropharvest/multi" and config.data.modalities == ("S1", "S2_S2VI")
  assert config.model.head_layers == (32,) and config.model.emb_dim == 64
  first, second = (encoder_settings(config, m) for m in config.data.modalities)
  assert (first["model_type"], first["layer_size"], first["n_layers"], first["bidirectional"]) == (
    "gru",
    16,
    1,
    True,
  )
  assert second == {
    "model_type": "ltae", "num_heads": 4, "d_model": 64, "n_neurons": (64, 32), "use_norm": "none",
  }  # fmt: skip


@pytest.mark.parametrize(
  "tree, message",
  [
    ("a: [", "is not YAML"),
    ("- 1", "holds no settings, but a list"),
    ("a: !!python/object/apply:os.mkdir [ran]", "is not YAML"),
    ({"dataset": "lfmc"}, "names no encoder"),
    ({**LFMC, "sampler": 1, "x": {"y": 2}}, "has unknown settings, --ignore=sampler,x.y skips them"),
    ({"encoder": {**SMALL, "widht": 3}}, "--ignore=encoder.widht"),
    ({"encoder": {"model_type": "resnet"}}, "unknown encoder 'resnet', have: convtran, galileo"),
    (
      {"dataset": "lfmc", "views": ["S1", "S2"], "encoders": {"S1": SMALL}},
      "encoders for S1, but the modalities are S1, S2",
    ),
    (
      {**LFMC, "architecture": {"encoder": {**SMALL, "sequence_length": 12}}},
      "for modality S1_S1Ind: encoder tempcnn: seq_len=12, but data of shape",
    ),
    (
      {"dataset": "lfmc", "encoder": {**SMALL, "seq_len": "all"}},
      "model.encoder.seq_len: 'all' is not allowed",
    ),
    (
      {"dataset": "lfmc", "encoder": {**SMALL, "seq_len": 4, "len_max_seq": 5}},
      "len_max_seq=5 of class TempCNN: its other arguments say 4",
    ),
    (
      {**LFMC, "predictive_model": {"model_type": "mlp", "batchnorm": True, "dropout": 0.1}},
      "and no dropout",
    ),
    ({**LFMC, "batch_size": "many"}, "batch_size: 'many' is not allowed; an integer, such as 32"),
    ({**LFMC, "dataset": {"name": "mine", "views": ["S1", "S2"]}}, "data.name: 'mine' is not allowed"),
  ],
)
def test_yaml_that_is_not_taken(tree, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = write(tmp_path / "a.yaml", tree)
  with pytest.raises(InputError, match=message) as error:
    released.convert_config(path, tmp_path / "ours.py")
  assert "\n" not in str(error.value)
  assert sorted(tmp_path.iterdir()) == [path]


def test_an_encoder_has_nothing_of_another_of_its_type(tmp_path):
  own = {"S1": {"model_type": "gru", "layer_size": 16, "input_dim": 2}, "S2": {"model_type": "gru"}}
  tree = {"dataset": "cropharvest_multi", "encoders": own}
  config = yaml_settings.make_config(yaml_settings.read_yaml(write(tmp_path / "a.yaml", tree)))
  config_lib.validate(config)
  first, second = (encoder_settings(config, m) for m in ("S1", "S2"))
  assert (first["layer_size"], first["num_features"]) == (16, 2)
  assert (second["layer_size"], second["num_features"]) == (128, None)


def test_sizes_that_are_ignored(tmp_path):
  tree = {**LFMC, "architecture": {"encoder": {**SMALL, "seq_len": 12, "T": 12}}}
  notes = yaml_settings.read_yaml(write(tmp_path / "a.yaml", tree), ["encoder.seq_len", "encoder.T"]).notes
  assert notes == [
    f"architecture.encoder.{size} is skipped, because of --ignore" for size in ("seq_len", "T")
  ]


def test_settings_without_a_counterpart_are_noted(tmp_path):
  tree = {**LFMC, "sampler": 1, "optimizer": "sgd", "weights_loss": {"weighting": "uncertainty"}}
  notes = yaml_settings.read_yaml(write(tmp_path / "a.yaml", tree), ["sampler"]).notes
  assert notes == [
    "sampler is skipped, because of --ignore",
    "optimizer: sgd is not supported; adam is used",
    "weights_loss.weighting: uncertainty is not supported; None is used",
  ]


def imported(folder, name, *, prefix="", more=None, wrap=True, run="seed10_fold0"):
  constructor, tensors, inputs, outputs, arrays = golden(name)
  statistics = {m: {"mean": [2.0] * x.shape[-1], "std": [4.0] * x.shape[-1]} for m, x in inputs.items()}
  (folder / "stats.json").write_text(json.dumps(statistics))
  write(folder / "a.yaml", {"architecture": constructor, "dataset": "mine"})
  tensors = {prefix + k: a for k, a in tensors.items()} | (more or {})
  content = {"epoch": 7, "state_dict": tensors, "hyper_parameters": {"lr": None}} if wrap else tensors
  save_torch_file(folder / "model.ckpt", content)
  notes = released.import_checkpoint(
    folder / "a.yaml", folder / "model.ckpt", folder / "run", folder / "stats.json", run=run
  )
  return folder / "run", {m: 4.0 * x + 2.0 for m, x in inputs.items()}, outputs, notes, arrays


@pytest.mark.parametrize("name", ["mdico_regression_released", "mdico_multiclass_released"])
def test_a_checkpoint_predicts_what_the_released_program_did(name, tmp_path, capsys):
  classes = "multiclass" in name
  more = {"criteria.weight": golden(name)[-1]["in/class_weight"]} if classes else {}
  more["awl.params"] = np.ones(4, np.float32)
  workdir, inputs, outputs, notes, arrays = imported(tmp_path, name, prefix="model.", more=more)
  assert "awl.params is dropped: learnt weights of the loss terms are needed in training only" in notes
  assert "model.modality_head_adv.linear_layer.bias is dropped: no output depends on it" in notes
  for m, x in inputs.items():
    model = load_model(workdir, m)
    assert model.runs == ["seed10_fold0"] and model.modality.shape == x.shape[1:]
    expected = outputs[m]
    if classes:
      expected = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    np.testing.assert_allclose(
      model.predict(x, batch_size=8), expected, rtol=0, atol=2e-5 * np.abs(expected).max()
    )

  released.main(["export", str(workdir), str(tmp_path / "back.npz"), "--run=seed10_fold0"])
  back, there = dict(np.load(tmp_path / "back.npz")), golden(name)[1]
  if classes:
    np.testing.assert_array_equal(back.pop("criteria.weight"), more["criteria.weight"])
  for key, tensor in there.items():
    kept = np.zeros_like(tensor) if key.startswith(UNUSED_HEAD) else tensor
    np.testing.assert_array_equal(back[key], kept)
    assert back[key].dtype == tensor.dtype
  assert back.keys() == there.keys()
  stats = json.loads((tmp_path / "back.json").read_text())
  assert stats == json.loads((tmp_path / "stats.json").read_text())


@pytest.mark.long
def test_folds_share_a_work_directory(tmp_path):
  name = "mdico_regression_released"
  workdir, inputs, outputs, *_ = imported(tmp_path, name, wrap=False)
  imported(tmp_path, name, run="seed10_fold1")
  assert load_model(workdir, "S1").runs == ["seed10_fold0", "seed10_fold1"]
  assert set(Results.read(workdir / "results.json").imported) == {"seed10_fold0", "seed10_fold1"}
  with pytest.raises(InputError, match="holds seed10_fold1 already"):
    imported(tmp_path, name, run="seed10_fold1")


def test_checkpoints_that_do_not_fit_leave_nothing(tmp_path):
  constructor, tensors, inputs, *_ = golden("mdico_regression_released")
  yaml_path = write(tmp_path / "a.yaml", {"architecture": constructor, "dataset": "mine"})
  stats = {m: {"mean": [0.0] * x.shape[-1], "std": [1.0] * x.shape[-1]} for m, x in inputs.items()}

  def refused(message, *, state=tensors, stats=stats, tree=None, **more):
    write(yaml_path, {"architecture": constructor, "dataset": "mine"} | (tree or {}))
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    save_torch_file(tmp_path / "m.pt", state)
    with pytest.raises(InputError, match=message) as error:
      released.import_checkpoint(
        yaml_path, tmp_path / "m.pt", tmp_path / "run", tmp_path / "stats.json", **more
      )
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()

  refused("missing none; not used extra", state=tensors | {"extra": np.ones(1, np.float32)})
  refused("holds no model of the released program", state={"a": np.ones(1, np.float32)})
  refused("holds no state dict", state={"a": 1})
  refused("modality 'S2' is not allowed", stats={"S1": stats["S1"]})
  refused("S1 has 2 means and 2 deviations, 3 bands", stats=stats | {"S1": {"mean": [0, 0], "std": [1, 1]}})
  refused("deviations above 0", stats=stats | {"S1": {"mean": [0, 0, 0], "std": [1, 0, 1]}})
  refused("is not of the form", stats={"S1": [0.0]})
  refused("run 'best' is not allowed", run="best")
  refused("the checkpoint has 1 outputs, not 2: a, b", outputs=("a", "b"))
  refused("num_features=3, but data of shape .4, 2. have 2", tree={"dataset": "lfmc"})
  five = {"encoder": {**SMALL, "T": 5}, "views": ["S1"]}
  refused(
    "the settings say {'seq_len': 5}, data set lfmc has", tree={"dataset": "lfmc", "architecture": five}
  )


def test_the_command_asks_for_statistics(tmp_path):
  with pytest.raises(SystemExit, match="--statistics is missing; JSON file with the statistics"):
    released.main(["checkpoint", "a.yaml", "a.ckpt", str(tmp_path / "run")])


def test_export_wants_a_training(tmp_path):
  with pytest.raises(SystemExit, match="holds no finished runs"):
    released.main(["export", str(tmp_path), str(tmp_path / "a.npz"), "--run=seed10_fold0"])
