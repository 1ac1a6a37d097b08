import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax.interop import names, state_dict
from colearn_jax.interop.state_dict import UNUSED_HEAD
from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.mdico import MDiCo
from colearn_jax.types import InputError, Task
from tests import small_methods
from tests.golden_replay import check, replay
from tests.golden_replay.golden import Case

GOLDEN = Path(__file__).parent / "golden"
KINDS = {path.stem: json.loads(path.read_text())["kind"] for path in sorted(GOLDEN.glob("*.json"))}
KEY_BIAS = "param/attention_heads.fc1_k.bias"
HEAD = [f"param/modality_head_adv.linear_layer.{which}" for which in ("weight", "bias")]


def read(name):
  """A case's settings and its state dict."""
  arrays = np.load(GOLDEN / f"{name}.npz")
  params = {key.removeprefix("param/"): arrays[key] for key in arrays.files if key.startswith("param/")}
  return json.loads((GOLDEN / f"{name}.json").read_text()), params


def load(name):
  spec, params = read(name)
  return (names.load_encoder if KINDS[name] == "module" else names.load_mdico)(spec, params)


def cases(*kinds):
  return [name for name, kind in KINDS.items() if kind in kinds]


# The others hold every kind of task and both variants.
SLOW = ("adam_regression_released", "mdico_multiclass_paper", "mdico_regression_released")


@pytest.mark.long
@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else ()) for n in KINDS]
)
def test_golden(name):
  """Every number: outputs, loss terms and statistics to 1e-5, gradients and objectives to 1e-4."""
  case = Case(GOLDEN / f"{name}.json")
  if name in ("mdico_regression_released", "mdico_multiclass_paper"):
    del case.spec["float64_max_abs_diff"]  # what float64 says of these, it says of the other variant
  found, missing = check.compare(case)
  assert [d for d in found if not d.ok] == []
  assert missing == []
  families = {d.key.split("/")[0] for d in found}
  assert families >= {
    "module": {"out", "train_out"},
    "loss": {"out", "grad"},
    "model": {"out", "train_out", "eval_loss", "loss", "train_buf", "grad"},
    "trajectory": {"traj", "traj64", "final", "final64", "final_out", "final_out64"},
  }[KINDS[name]]  # fmt: skip
  assert check.TOLERANCES == {
    "outputs": 1e-5, "losses": 1e-5, "gradients": 1e-4, "statistics": 1e-5, "trajectory": 1e-4,
  }  # fmt: skip


@pytest.mark.parametrize("name", [*cases("module"), "mdico_multiclass_released"])
def test_state_dict_round_trip(name):
  _, params = read(name)
  back = names.state_dict(load(name))
  assert set(back) == set(params)
  for key, tensor in params.items():
    if key.startswith(UNUSED_HEAD):
      tensor = np.zeros_like(tensor)
    assert back[key].dtype == tensor.dtype, key
    np.testing.assert_array_equal(back[key], tensor, err_msg=key)


MIXED = {
  "emb_dim": 8,
  "n_labels": 3,
  "predictive_core": {"model_type": "mlp", "layer_sizes": [6], "batchnorm": True},
  "modalities": [
    {"name": "thermal", "T": 5, "bands": 2, "class": "RNNet", "wrap": {"latent_dims": 8, "use_norm": True},
     "args": {"feature_size": 2, "layer_size": 4, "num_layers": 2, "bidirectional": True,
              "unit_type": "lstm"}},
    {"name": "radar", "T": 6, "bands": 3, "class": "ConvTran", "wrap": {"latent_dims": 8, "use_bnorm": True},
     "args": {"feature_size": 3, "layer_size": 8, "num_layers": 4, "num_heads": 2, "len_max_seq": 6,
              "pos_encoding": "Learn", "rel_pos_encoding": "Vector", "dim_feedforward": 4}},
    {"name": "optical", "T": 4, "bands": 8, "class": "TransformerNet", "wrap": {"latent_dims": 8},
     "args": {"feature_size": 8, "num_heads": 2, "num_layers": 1, "len_max_seq": 4, "pre_embedding": False,
              "fixed_pos_encoding": False, "dim_feedforward": 4, "activation": "gelu"}},
  ],
}  # fmt: skip


def arbitrary(entries):
  rng = np.random.default_rng(0)
  return {name: rng.normal(size=a.shape).astype(a.dtype) for name, a in entries.items()}


def build(method, architecture):
  return method.build(architecture, rngs=nnx.Rngs(0))


@pytest.mark.long
def test_mixed_encoders_heads_and_norms_round_trip():
  """Settings that no golden case has, with the shapes that the layers of that program have."""
  zeros = nnx.eval_shape(lambda: build(MDiCo(), names.make_architecture(MIXED)))
  for _, variable in nnx.iter_graph(zeros):
    if isinstance(variable, nnx.Variable):
      variable.set_value(jnp.zeros(variable.shape, variable.dtype))
  tensors = names.state_dict(zeros)
  expected = {
    "modality_encoders_unique.thermal.pre_encoder.rnn.weight_ih_l1_reverse": (16, 8),
    "modality_encoders_unique.thermal.pre_encoder.rnn.weight_hh_l0": (16, 4),
    "modality_encoders_common.thermal.norm_layer.weight": (8,),
    "modality_encoders_unique.radar.pre_encoder.embed_layer.3.weight": (24, 32, 6, 1),
    "modality_encoders_unique.radar.pre_encoder.embed_layer.7.running_var": (16,),
    "modality_encoders_unique.radar.pre_encoder.embed_layer2.0.weight": (8, 16, 1, 3),
    "modality_encoders_unique.radar.pre_encoder.Fix_Position.pe": (6, 8),
    "modality_encoders_unique.radar.pre_encoder.attention_layer.Er": (6, 4),
    "modality_encoders_unique.radar.pre_encoder.attention_layer.mask": (1, 1, 6, 6),
    "modality_encoders_unique.radar.norm_layer.running_mean": (8,),
    "modality_encoders_unique.optical.pre_encoder.cls_token": (1, 1, 8),
    "modality_prediction_heads.optical.pre_decoder.layers.0.0.weight": (6, 8),
    "modality_prediction_heads.optical.pre_decoder.layers.0.2.running_mean": (6,),
    "aux_prediction_head.linear_layer.weight": (3, 6),
    "modality_head_awr_irr.pre_decoder.layers.0.0.weight": (6, 4),
    "modality_head_adv.linear_layer.weight": (3, 6),
  }
  assert {name: tensors[name].shape for name in expected} == expected
  assert not any("optical" in name and ("embedding" in name or "norm_layer" in name) for name in tensors)
  mask = {name: a for name, a in tensors.items() if name.endswith(".mask")}
  unused = {name: a for name, a in tensors.items() if name.startswith(UNUSED_HEAD)}  # always zeros
  params = arbitrary(tensors) | mask | unused
  back = names.state_dict(names.load_mdico(MIXED, params))
  assert {name: a.tobytes() for name, a in back.items()} == {name: a.tobytes() for name, a in params.items()}


def test_one_backbone_goes_out_as_two_that_are_equal():
  method, a = MDiCo(backbones="one"), small_methods.architecture(names=("radar", "optical"))
  model = small_methods.filled(lambda: method.build(a, rngs=nnx.Rngs(0)))
  params = names.state_dict(model)
  two = nnx.eval_shape(lambda: MDiCo().build(a, rngs=nnx.Rngs(0)))
  state_dict.fill(two, params)
  inputs = {m: small_methods.random(small_methods.B, *a.shapes[m]) for m in a.sensors}
  expected, got = (small_methods.forward(method, m, inputs, small_methods.masks()) for m in (model, two))
  for sensor in a.sensors:
    np.testing.assert_allclose(got.prediction[sensor], expected.prediction[sensor], rtol=1e-6)
    np.testing.assert_allclose(got.shared[sensor], expected.shared[sensor], rtol=1e-6)

  back = nnx.eval_shape(lambda: method.build(a, rngs=nnx.Rngs(0)))
  state_dict.fill(back, params)
  for name, tensor in names.state_dict(back).items():
    np.testing.assert_array_equal(tensor, params[name])
  key = "modality_encoders_common.radar.pre_encoder.layers.0.0.bias"
  with pytest.raises(InputError, match=f"unique.radar.* and {key} differ, but the model has one backbone"):
    state_dict.fill(back, params | {key: params[key] + 1})


@pytest.mark.long
def test_a_model_without_heads_goes_back_with_zeros():
  """The released program builds every head; so that it can load ours, they are there."""
  spec, params = read("mdico_regression_paper")
  architecture = Architecture(
    {"S1": (4, 3), "S2": (4, 8)},
    dict.fromkeys(("S1", "S2"), {"model_type": "tempcnn", "layer_size": 8, "dropout": 0.0}),
    Task("regression", ("y",)),
    emb_dim=16,
  )
  method = MDiCo(auxiliary=0.0, contrastive=0.0, discriminative=0.0)
  make = lambda: build(method, architecture)
  graphdef = nnx.graphdef(nnx.eval_shape(make))
  back = names.state_dict(nnx.merge(graphdef, jax.jit(lambda: nnx.state(make()))()))
  assert {name: a.shape for name, a in back.items()} == {name: a.shape for name, a in params.items()}
  zero = {name for name, a in back.items() if name.startswith(("aux_pred", "modality_head")) and not a.any()}
  assert len(zero) == 8
  names.load_mdico(spec, back)


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda p: p.pop("linear_layer.bias"), "missing linear_layer.bias; not used none"),
    (lambda p: p.update(extra=np.zeros(3)), "missing none; not used extra"),
    (
      lambda p: p.update({"linear_layer.bias": np.zeros(3)}),
      r"linear_layer.bias has shape \(3,\), .* \(16,\)",
    ),
  ],
)
def test_state_dicts_that_do_not_fit(change, message):
  spec, params = read("tempcnn")
  change(params)
  with pytest.raises(InputError, match=message):
    names.load_encoder(spec, params)


@pytest.mark.parametrize("name, table", [("ltae", "position_enc.weight"), ("convtran", "relative_index")])
def test_other_tables_are_refused(name, table):
  spec, params = read(name)
  key = next(key for key in params if key.endswith(table))
  params[key] = params[key].copy()
  params[key].flat[5] += 1
  with pytest.raises(InputError, match=f"table {key} has other values than its settings give"):
    names.load_encoder(spec, params)


@pytest.mark.parametrize(
  "name, change, message",
  [
    ("mlp", lambda c: c.update({"class": "KAN"}), "unknown class 'KAN' of an encoder, have: TempCNN, MLP"),
    ("mlp", lambda c: c["args"].update(width=3), "unknown argument 'width' of class MLP, have: layer_sizes"),
    (
      "gru",
      lambda c: c["args"].update(output_state="h"),
      "output_state='h' of class RNNet: have False, True",
    ),
    (
      "convtran",
      lambda c: c["args"].update(pos_encoding="RoPE"),
      "pos_encoding='RoPE' of class ConvTran: have",
    ),
  ],
)
def test_settings_that_are_not_known(name, change, message):
  spec, params = read(name)
  change(spec["constructor"])
  with pytest.raises(InputError, match=message):
    names.load_encoder(spec, params)


def test_sizes_by_any_of_their_names():
  spec, params = read("gru")
  args = spec["constructor"]["args"]
  args |= {"num_features": args.pop("feature_size"), "seq_len": 12}
  names.load_encoder(spec, params)
  args["feature_size"] = 4
  with pytest.raises(InputError, match="feature_size=4 of class RNNet: its other arguments say 3"):
    names.load_encoder(spec, params)
  del args["feature_size"], args["num_features"]
  with pytest.raises(InputError, match="settings of a RNNet do not say its num_features"):
    names.load_encoder(spec, params)
  spec, params = read("ltae")
  del spec["constructor"]["args"]["len_max_seq"]
  with pytest.raises(InputError, match="settings of a LTAE do not say its seq_len"):
    names.load_encoder(spec, params)


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda c: c["modalities"][1].update(T=5), "tempcnn: seq_len=4, but data of shape .5, 8. have 5"),
    (
      lambda c: c["modalities"][0]["args"].update(input_dim=4),
      "num_features=4, but data of shape .4, 3. have",
    ),
    (lambda c: c["modalities"][0]["args"].update(n_layers=0), "tempcnn: n_layers=0 is not allowed"),
    (lambda c: c["modalities"][0].pop("bands"), "the settings have no 'bands', only 'name', 'T', 'class'"),
    (lambda c: c.update(emb_dim=17), "latent_dims=16 is not emb_dim=17"),
    (lambda c: c.pop("modalities"), "the settings have no 'modalities', only 'batch', 'emb_dim'"),
    (
      lambda c: c.update(predictive_core={"model_type": "mlp", "batchnorm": True, "dropout": 0.2}),
      "have linear, and mlp with batchnorm and no dropout",
    ),
  ],
)
def test_models_that_make_no_sense(change, message):
  spec, params = read("mdico_regression_paper")
  change(spec["constructor"])
  with pytest.raises(InputError, match=message) as error:
    names.load_mdico(spec, params)
  assert "\n" not in str(error.value)


def test_load_mdico_takes_the_variant_from_where_it_is_said():
  spec, params = read("mdico_regression_paper")
  assert names.load_mdico(spec, params).variant == "paper"
  assert names.load_mdico(spec["constructor"], params).variant == "released"
  assert names.load_mdico(spec["constructor"], params, variant="paper").variant == "paper"
  with pytest.raises(InputError, match="variant='other', have paper, released"):
    names.load_mdico(spec, params, variant="other")


def copy(folder, name, change=lambda arrays, spec: None):
  """A case in a folder of its own, changed."""
  arrays, spec = dict(np.load(GOLDEN / f"{name}.npz")), read(name)[0]
  change(arrays, spec)
  np.savez(folder / f"{name}.npz", **arrays)
  (folder / f"{name}.json").write_text(json.dumps(spec))


def command(folder, capsys):
  status = check.main(["check", str(folder)])
  return status, capsys.readouterr().out


def altered(array):
  array = array.copy()
  array.flat[array.size // 2] += 1 if array.dtype.kind == "i" else 0.01 * np.abs(array).max()
  return array


@pytest.mark.parametrize("name", ["mlp", "loss_ce_weighted"])
def test_a_single_altered_number_fails(name, tmp_path, capsys):
  """Of any array. (One encoder and one loss stand for all: these compile fast.)"""
  copy(tmp_path, name)
  assert command(tmp_path, capsys)[0] == 0
  for key, array in dict(np.load(GOLDEN / f"{name}.npz")).items():
    copy(tmp_path, name, lambda arrays, _, key=key, array=array: arrays.update({key: altered(array)}))
    status, out = command(tmp_path, capsys)
    assert status == 1 and f"FAILED {name}" in out, key


def fails(name, key):
  """Whether a case does not pass with a number of one array altered."""
  case = Case(GOLDEN / f"{name}.json")
  case.arrays[key] = altered(case.arrays[key])
  found, missing = check.compare(case)
  return not all(d.ok for d in found) and not missing


def of_each_family(name):
  """An array of each family of a case."""
  return {key.split("/")[0]: key for key in np.load(GOLDEN / f"{name}.npz").files}


@pytest.mark.long
@pytest.mark.parametrize(
  "name", ["mdico_regression_paper", pytest.param("adam_regression_paper", marks=pytest.mark.slow)]
)
def test_a_single_altered_number_of_a_model_or_a_training_fails(name, monkeypatch):
  replayed = {}

  def replay(case, dtype=np.float32):
    """Replays once for all arrays that it does not read."""
    key = dtype, *(a.tobytes() for k, a in case.arrays.items() if k.startswith(("in/", "param/", "final")))
    if key not in replayed:
      replayed[key] = original(case, dtype), case.read
    case.read |= replayed[key][1]
    return replayed[key][0]

  original = check.replay
  monkeypatch.setattr(check, "replay", replay)
  keys = of_each_family(name)
  families = {"mdico": "in param out train_out eval_loss loss train_buf grad"}
  families["adam"] = "in param traj traj64 final final64 final_out final_out64"
  assert set(keys) == set(families[name.split("_")[0]].split())
  zero = "modality_encoders_common.S1.linear_layer.bias"  # its gradient is: only rounding moves it
  more = [f"param/{zero}"] if "mdico" in name else [f"{f}/{zero}" for f in ("final", "final64")]
  if "mdico" not in name:  # the head that no output depends on does not train: what it ends with is compared
    more += [key.replace("param", "final64") for key in HEAD]
    assert set(HEAD) <= check.left_out(Case(GOLDEN / f"{name}.json")).keys()  # what it begins with is not
  for key in [*keys.values(), *more]:
    assert fails(name, key), key


@pytest.mark.parametrize(
  "name, change, message",
  [
    (
      "adam_regression_paper",
      lambda s: s["optimizer"].update(lr=2e-3),
      "lr is 0.002, 0.001 in different pla",
    ),
    (
      "adam_regression_paper",
      lambda s: s["constructor"].update(steps=6),
      "steps is 5, 6 in different places",
    ),
    ("adam_regression_paper", lambda s: s["optimizer"].update(weight_decay=0.1), "weight_decay is 0.1, 0 in"),
    ("mdico_regression_paper", lambda s: s["constructor"].update(batch=9), "the batch's size is 8, 9 in"),
    (
      "mdico_regression_paper",
      lambda s: s.update(modality_order=["S2", "S1"]),
      "modality_order is .'S2', 'S1",
    ),
    ("mdico_regression_paper", lambda s: s["constructor"]["loss"].update(name="mae"), "loss='mae', have mse"),
    ("gru", lambda s: s["constructor"]["args"].update(seq_len=5), "the series' length is 12, 5 in different"),
    ("gru", lambda s: s.update(kind="encoder"), "kind='encoder', have module, loss, model, trajectory"),
    ("gru", lambda s: s.pop("kind"), "its .json file has no 'kind'"),
  ],
)
def test_settings_that_contradict_each_other(name, change, message):
  case = Case(GOLDEN / f"{name}.json")
  change(case.spec)
  with pytest.raises(InputError, match=message):
    check.compare(case)


@pytest.mark.long
def test_what_no_number_depends_on_is_named():
  reasons = check.left_out(Case(GOLDEN / "ltae.json"))
  assert reasons == {KEY_BIAS: "adds a constant to all scores of a query, which the softmax cancels"}
  case = Case(GOLDEN / "transformer.json")
  # Only rounding keeps the derivatives of a key's bias from zero, so that some may be zero by chance.
  silent = lambda case: {k: n for k, n in replay.silent(case).items() if "in_proj_bias" not in k}
  before = silent(case)
  case.arrays["param/tr_encoder.layers.1.linear1.bias"][:] = -1000.0  # all of this layer's ReLUs are off
  layer = "tr_encoder.layers.1.linear"
  off = {f"{layer}1.bias": 24, f"{layer}1.weight": 24 * 16, f"{layer}2.weight": 24 * 16}
  assert silent(case) == off and before.keys() == off.keys()
  assert all(0 < before[key] < off[key] for key in off)
  biases = [f"param/tr_encoder.layers.{i}.self_attn.in_proj_bias" for i in range(2)]
  assert set(biases) < set(check.left_out(case)) and "values in 3 arrays of param/" in str(
    check.left_out(case)
  )


def test_rounding_is_told_from_mistakes():
  """Beyond the tolerance only what is no further from float64 than float32 programs are passes."""
  case = Case(GOLDEN / "gru.json")
  rng, key = np.random.default_rng(0), "out/rep"
  double = {key: case.arrays[key].astype(np.float64)}
  noise = lambda: (1e-3 * rng.normal(size=double[key].shape)).astype(np.float32)
  case.arrays[key] = case.arrays[key] + noise()

  def ok(ours):
    size, allowed = check._rounding(case, key, {key: ours}, double, 1e-5)
    return size <= allowed

  exact = double[key].astype(np.float32)
  assert ok(exact + noise())
  assert not ok(exact)  # theirs is far off
  assert not ok(exact + 100 * noise()) and not ok(exact * np.nan)  # and here ours is


def test_check_says_what_is_wrong(tmp_path, capsys):
  copy(tmp_path, "loss_bce", lambda arrays, _: arrays.update({"out/value": arrays["out/value"] * 1.001}))
  status, out = command(tmp_path, capsys)
  assert status == 1 and re.search(
    r"FAILED loss_bce: losses 1.0e-03 OVER \S+ \(out/.*\), gradients \S+ ok", out
  )
  copy(tmp_path, "loss_bce", lambda arrays, _: arrays.update({"grad/logits": arrays["grad/logits"] * np.nan}))
  assert command(tmp_path, capsys)[0] == 1

  def more(arrays, spec):
    arrays["out/odd"] = np.zeros(2, np.float32)
    spec["arrays"]["out/odd"] = {"shape": [2], "dtype": "float32"}

  copy(tmp_path, "loss_bce", more)
  status, out = command(tmp_path, capsys)
  assert status == 1 and "not compared: out/odd" in out
  copy(tmp_path, "loss_bce", lambda arrays, _: arrays.pop("grad/logits"))
  status, out = command(tmp_path, capsys)
  assert status == 1 and "grad/logits is not in the .npz file as the .json file lists it" in out
  (tmp_path / "loss_bce.npz").unlink()
  status, out = command(tmp_path, capsys)
  assert status == 1 and "FAILED loss_bce: case loss_bce cannot be read" in out


def test_check_compares_what_the_variants_share(tmp_path):
  for variant in ("paper", "released"):
    copy(tmp_path, f"mdico_regression_{variant}")
  assert check._siblings(tmp_path, ["mdico_regression"]) == []
  copy(tmp_path, "mdico_regression_paper", lambda arrays, _: arrays.update({HEAD[1]: arrays[HEAD[1]] + 0.01}))
  assert check._siblings(tmp_path, ["mdico_regression"]) == [f"mdico_regression_*: {HEAD[1]}"]


def test_check_wants_a_folder_with_cases(tmp_path, capsys):
  assert check.main(["check"]) == 2
  assert check.main(["check", str(tmp_path / "none")]) == 2
  assert check.main(["check", str(tmp_path)]) == 1
  assert "holds no case" in capsys.readouterr().err
