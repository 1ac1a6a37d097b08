import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax import mdico
from colearn_jax.interop import check, torch
from colearn_jax.spec import InputError

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
  return (torch.load_encoder if KINDS[name] == "module" else torch.load_mdico)(spec, params)


def cases(*kinds):
  return [name for name, kind in KINDS.items() if kind in kinds]


@pytest.mark.parametrize("name", KINDS)
def test_golden(name):
  """Every number: outputs, loss terms and statistics to 1e-5, gradients and objectives to 1e-4."""
  case = check.replay(GOLDEN / f"{name}.json")
  assert [d for d in case.differences if not d.ok] == []
  assert case.missing() == []
  cannot_show = {"ltae": [KEY_BIAS], "tae": [KEY_BIAS]}.get(name, HEAD if KINDS[name] == "model" else [])
  assert sorted(case.left_out) == sorted(cannot_show)
  families = {d.key.split("/")[0] for d in case.differences}
  assert families >= {
    "module": {"out", "train_out"},
    "loss": {"out", "grad"},
    "model": {"out", "train_out", "eval_loss", "loss", "train_buf", "grad"},
    "trajectory": {"traj", "traj64", "final", "final64", "final_out", "final_out64"},
  }[KINDS[name]]  # fmt: skip
  assert check.TOLERANCES == {
    "outputs": 1e-5, "losses": 1e-5, "gradients": 1e-4, "statistics": 1e-5, "trajectory": 1e-4,
  }  # fmt: skip


@pytest.mark.parametrize("name", cases("module", "model", "trajectory"))
def test_state_dict_round_trip(name):
  _, params = read(name)
  back = torch.state_dict(load(name))
  assert set(back) == set(params)
  for key, tensor in params.items():
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


def test_mixed_encoders_heads_and_norms_round_trip():
  """Settings that no golden case has, with the shapes that the layers of that program have."""
  zeros = nnx.eval_shape(lambda: torch.make_mdico(MIXED, rngs=nnx.Rngs(0)))
  for _, variable in nnx.iter_graph(zeros):
    if isinstance(variable, nnx.Variable):
      variable.set_value(jnp.zeros(variable.shape, variable.dtype))
  names = torch.state_dict(zeros)
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
  assert {name: names[name].shape for name in expected} == expected
  assert not any("optical" in name and ("embedding" in name or "norm_layer" in name) for name in names)
  mask = {name: a for name, a in names.items() if name.endswith(".mask")}
  params = arbitrary(names) | mask
  back = torch.state_dict(torch.load_mdico(MIXED, params))
  assert {name: a.tobytes() for name, a in back.items()} == {name: a.tobytes() for name, a in params.items()}


def test_a_model_without_heads_goes_back_with_zeros():
  """The released program builds every head; so that it can load ours, they are there."""
  spec, params = read("mdico_regression_paper")
  build = lambda: mdico.MDiCo(
    {"S1": (4, 3), "S2": (4, 8)},
    dict.fromkeys(("S1", "S2"), {"model_type": "tempcnn", "layer_size": 8, "dropout": 0.0}),
    1,
    emb_dim=16,
    terms=("main",),
    rngs=nnx.Rngs(0),
  )
  graphdef = nnx.graphdef(nnx.eval_shape(build))
  back = torch.state_dict(nnx.merge(graphdef, jax.jit(lambda: nnx.state(build()))()))
  assert {name: a.shape for name, a in back.items()} == {name: a.shape for name, a in params.items()}
  zero = {name for name, a in back.items() if name.startswith(("aux_pred", "modality_head")) and not a.any()}
  assert len(zero) == 8
  torch.load_mdico(spec, back)


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
    torch.load_encoder(spec, params)


@pytest.mark.parametrize("name, table", [("ltae", "position_enc.weight"), ("convtran", "relative_index")])
def test_other_tables_are_refused(name, table):
  spec, params = read(name)
  key = next(key for key in params if key.endswith(table))
  params[key] = params[key].copy()
  params[key].flat[5] += 1
  with pytest.raises(InputError, match=f"table {key} has other values than its settings give"):
    torch.load_encoder(spec, params)


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
    torch.load_encoder(spec, params)


def test_sizes_by_any_of_their_names():
  spec, params = read("gru")
  args = spec["constructor"]["args"]
  args |= {"num_features": args.pop("feature_size"), "seq_len": 12}
  torch.load_encoder(spec, params)
  args["feature_size"] = 4
  with pytest.raises(InputError, match="feature_size=4 of class RNNet: its other arguments say 3"):
    torch.load_encoder(spec, params)
  del args["feature_size"], args["num_features"]
  with pytest.raises(InputError, match="settings of a RNNet do not say its num_features"):
    torch.load_encoder(spec, params)
  spec, params = read("ltae")
  del spec["constructor"]["args"]["len_max_seq"]
  with pytest.raises(InputError, match="settings of a LTAE do not say its seq_len"):
    torch.load_encoder(spec, params)


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda c: c["modalities"][1].update(T=5), "tempcnn: seq_len=4, but data of shape .5, 8. have 5"),
    (
      lambda c: c["modalities"][0]["args"].update(input_dim=4),
      "num_features=4, but data of shape .4, 3. have",
    ),
    (lambda c: c["modalities"][0]["args"].update(n_layers=0), "tempcnn: n_layers=0 is not allowed"),
    (lambda c: c["modalities"][0].pop("bands"), "the settings have no 'bands' beside 'name', 'T', 'class'"),
    (lambda c: c.update(emb_dim=17), "latent_dims=16 is not emb_dim=17"),
    (lambda c: c.pop("modalities"), "the settings have no 'modalities' beside 'batch', 'emb_dim'"),
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
    torch.load_mdico(spec, params)
  assert "\n" not in str(error.value)


def test_load_mdico_takes_the_variant_from_where_it_is_said():
  spec, params = read("mdico_regression_paper")
  assert torch.load_mdico(spec, params).variant == "paper"
  assert torch.load_mdico(spec["constructor"], params).variant == "released"
  assert torch.load_mdico(spec["constructor"], params, variant="paper").variant == "paper"
  with pytest.raises(InputError, match="variant='other', have paper, released"):
    torch.load_mdico(spec, params, variant="other")


def copy(folder, name, change=lambda arrays, spec: None):
  """A case in a folder of its own, changed."""
  arrays, spec = dict(np.load(GOLDEN / f"{name}.npz")), read(name)[0]
  change(arrays, spec)
  np.savez(folder / f"{name}.npz", **arrays)
  (folder / f"{name}.json").write_text(json.dumps(spec))


def command(folder, capsys):
  status = check.main(["check", str(folder)])
  return status, capsys.readouterr().out


@pytest.mark.parametrize("name", ["mlp", "gru", "loss_ce_weighted"])
def test_a_single_altered_number_fails(name, tmp_path, capsys):
  """Of any array. (One encoder and one loss stand for all: these compile fast.)"""
  copy(tmp_path, name)
  assert command(tmp_path, capsys)[0] == 0
  for key, array in dict(np.load(GOLDEN / f"{name}.npz")).items():

    def alter(arrays, _, key=key, array=array):
      altered = array.copy()
      altered.flat[altered.size // 2] += 1 if altered.dtype.kind == "i" else 0.01 * np.abs(array).max()
      arrays[key] = altered

    copy(tmp_path, name, alter)
    status, out = command(tmp_path, capsys)
    assert status == 1 and f"FAILED {name}" in out, key


def test_check_says_what_is_wrong(tmp_path, capsys):
  copy(tmp_path, "loss_bce", lambda arrays, _: arrays.update({"out/value": arrays["out/value"] * 1.001}))
  status, out = command(tmp_path, capsys)
  assert status == 1 and "losses 1.0e-03 OVER 1.0e-05 (out/value), gradients" in out
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
  for variant in mdico.VARIANTS:
    copy(tmp_path, f"mdico_regression_{variant}")
  assert check._siblings(tmp_path, ["mdico_regression"]) == []
  copy(tmp_path, "mdico_regression_paper", lambda arrays, _: arrays.update({HEAD[1]: arrays[HEAD[1]] + 0.01}))
  assert check._siblings(tmp_path, ["mdico_regression"]) == [f"mdico_regression_*: {HEAD[1]}"]


def test_check_wants_a_folder_with_cases(tmp_path, capsys):
  assert check.main(["check"]) == 2
  assert check.main(["check", str(tmp_path / "none")]) == 2
  assert check.main(["check", str(tmp_path)]) == 1
  assert "holds no case" in capsys.readouterr().err
