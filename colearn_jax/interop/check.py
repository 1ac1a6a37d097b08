"""Replays golden cases, numbers that the PyTorch program gave: `python -m colearn_jax.interop.check FOLDER`.

A case is `<case>.npz` beside `<case>.json`: one encoder, one loss, a whole model, or some steps of training.
It goes through the doors of `interop.torch` and the train step, and every array of it is compared, or said to
be left out. The exit status is 1 if any difference is over its tolerance.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from colearn_jax import layers, losses, mdico, sharding, steps
from colearn_jax.encoders import ltae, transformer
from colearn_jax.interop import torch
from colearn_jax.spec import InputError, Task

# What is compared, and how far apart it may be: the greatest difference over the greatest magnitude.
TOLERANCES = {"outputs": 1e-5, "losses": 1e-5, "gradients": 1e-4, "statistics": 1e-5, "trajectory": 1e-4}
# How far a gradient that is exactly zero may be from it: absolutely, or of the model's greatest gradient.
NOISE, RELATIVE_NOISE = 5e-6, 5e-7

KINDS = {
  "mse": "regression",
  "norm-mse": "regression",
  "ce": "multiclass",
  "bce": "multilabel",
}  # of tasks, by the loss's name
OUTPUTS = {
  "prediction": "prediction",
  "aux_prediction/specific": "auxiliary_specific",
  "aux_prediction/shared": "auxiliary_shared",
  "rep/specific": "specific",
  "rep/shared": "shared",
  "rep/unused": "unused",
  "modality_discr/specific": "modality_specific",
  "modality_discr/unused": "modality_unused",
}


@dataclasses.dataclass(frozen=True)
class Difference:
  """One comparison: its group in `TOLERANCES`, its array, how far apart it is, and how far it may be."""

  group: str
  key: str
  size: float
  allowed: float

  @property
  def ok(self) -> bool:
    """Whether it is within its tolerance (NaN is not)."""
    return self.size <= self.allowed


class Case:
  """The arrays of a case; keeps account of what was read and compared.

  Attributes:
    spec: what the JSON file holds.
    differences: of the comparisons made.
    left_out: reasons why arrays were not compared, by key.
  """

  def __init__(self, path: Path):
    """Reads `path`, the JSON file, and the arrays beside it.

    Raises:
      InputError: a file is missing, or the arrays are not those that the JSON file lists.
    """
    try:
      self.spec = json.loads(path.read_text())
      with np.load(path.with_suffix(".npz")) as arrays:
        self._arrays = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError) as error:
      raise InputError(f"case {path.stem} cannot be read: {' '.join(str(error).split())}") from None
    listed = {key: (tuple(a["shape"]), a["dtype"]) for key, a in self.spec["arrays"].items()}
    found = {key: (a.shape, str(a.dtype)) for key, a in self._arrays.items()}
    if odd := sorted(key for key in listed.keys() | found.keys() if listed.get(key) != found.get(key)):
      raise InputError(f"case {path.stem}: {odd[0]} is not in the .npz file as the .json file lists it")
    self.differences: list[Difference] = []
    self.left_out: dict[str, str] = {}
    self._seen: set[str] = set()

  def family(self, name: str) -> dict[str, np.ndarray]:
    """The arrays `<name>/<key>` by key."""
    return {k.split("/", 1)[1]: a for k, a in self._arrays.items() if k.split("/", 1)[0] == name}

  def read(self, name: str) -> dict[str, np.ndarray]:
    """A family that the replay starts from: what is wrong in it shows in what comes out."""
    family = self.family(name)
    self._seen |= {f"{name}/{key}" for key in family}
    return family

  def compare(
    self,
    group: str,
    name: str,
    ours: Mapping[str, np.ndarray],
    *,
    allowed: Callable[[str], float | None] = lambda key: None,
  ) -> None:
    """Compares a family with what we computed; `allowed` gives a key's absolute tolerance, if it has one."""
    for key, theirs in self.family(name).items():
      if key not in ours:
        continue
      theirs, mine = np.asarray(theirs, np.float64), np.asarray(ours[key], np.float64)
      if theirs.shape != mine.shape:
        size = np.inf
      else:
        size = np.abs(theirs - mine).max(initial=0.0)
      bound = allowed(key)
      if bound is None:
        size, bound = size / max(np.abs(theirs).max(initial=0.0), 1e-30), TOLERANCES[group]
      self.differences.append(Difference(group, f"{name}/{key}", float(size), bound))
      self._seen.add(f"{name}/{key}")

  def missing(self) -> list[str]:
    """The arrays that were neither read nor compared."""
    return [key for key in self._arrays if key not in self._seen]


def replay(path: Path) -> Case:
  """Replays the case of a JSON file.

  Raises:
    InputError: the case cannot be read, or the doors do not take it.
  """
  case = Case(path)
  kinds = {"module": _module, "loss": _loss, "model": _model, "trajectory": _trajectory}
  if case.spec.get("kind") not in kinds:
    raise InputError(f"case {path.stem}: kind={case.spec.get('kind')!r}, have {', '.join(kinds)}")
  with jax.default_matmul_precision("float32"):  # accelerators round the factors of products by default
    kinds[case.spec["kind"]](case)
  return case


def _without_dropout(module: nnx.Module) -> nnx.Module:
  for _, layer in nnx.iter_modules(module):
    if isinstance(layer, layers.Dropout):
      layer.rate = 0.0
  return module


def _split(module: nnx.Module) -> tuple[nnx.GraphDef, dict, dict]:
  graphdef, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
  return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def _tables(case: Case) -> None:
  """Position tables that no state dict holds."""
  tables = {
    key: transformer.positions(*table.shape[1:])[None]
    for key, table in case.family("const").items()
    if key.endswith("pos_encoder.position_encoding")
  }
  case.compare("outputs", "const", tables)


def _module(case: Case) -> None:
  module = _without_dropout(torch.load_encoder(case.spec, case.read("param")))
  graphdef, params, stats = _split(module)

  @jax.jit(static_argnums=3)
  def run(params, stats, x, train):
    module = nnx.merge(graphdef, params, stats)
    if isinstance(module, ltae.LTAE | ltae.TAE):
      rep, attention = module.attend(x, train=train)
      out = {"rep": rep, "attention": attention.transpose(1, 0, 2)}
    else:
      out = {"rep": module(x, train=train)}
    return out, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

  x = case.read("in")["x"]
  case.compare("outputs", "out", run(params, stats, x, False)[0])
  train_out, stats_after = run(params, stats, x, True)
  case.compare("outputs", "train_out", train_out)
  case.compare("statistics", "train_buf", torch.state_dict(nnx.merge(graphdef, params, stats_after)))
  _tables(case)
  _cannot_show(case)


def _loss(case: Case) -> None:
  given, settings = case.read("in"), case.spec["constructor"]
  everywhere = jnp.ones(len(next(iter(given.values()))))
  if case.spec["loss"] == "contrastive":
    fixed, moving = {}, given
    loss = lambda x_q, x_v: losses.contrastive(x_q, x_v, settings["temperature"], everywhere)
  elif case.spec["loss"] in KINDS:
    moving = {k: a for k, a in given.items() if k in ("pred", "logits")}
    fixed = {k: a for k, a in given.items() if k not in moving}
    kind = KINDS[case.spec["loss"]]
    constants = _task_constants(settings, fixed, next(iter(moving.values())).shape[-1])
    loss = lambda **moving: losses.task_loss(
      kind, *moving.values(), _target(kind, fixed["target"]), constants, everywhere
    )
  else:
    raise InputError(f"loss={case.spec['loss']!r}, have contrastive, {', '.join(KINDS)}")
  value, grads = jax.jit(jax.value_and_grad(lambda moving: loss(**moving)))(moving)
  case.compare("losses", "out", {"value": value})
  case.compare("gradients", "grad", grads)


def _target(kind: str, target: np.ndarray) -> np.ndarray:
  return target.reshape(-1) if kind == "multiclass" else target


def _task_constants(loss: Mapping, given: Mapping[str, np.ndarray], outputs: int) -> dict[str, np.ndarray]:
  """What `losses.task_loss` wants, of a loss's settings and a case's inputs."""
  each = lambda value: np.full(outputs, value, np.float32)
  weights = given.get("class_weight", each(1.0))
  return {"mean": each(loss.get("mean", 0.0)), "std": each(loss.get("std", 1.0)), "class_weights": weights}


def _training(
  case: Case, optimizer: optax.GradientTransformation
) -> tuple[steps.Recipe, steps.TrainState, dict]:
  """The case's model before its first step: a recipe, a state, and its one batch."""
  settings = case.spec["constructor"]
  given, kind = case.read("in"), KINDS[settings["loss"]["name"]]
  names = case.spec["modality_order"]
  target = _target(kind, given["target"])
  recipe = steps.Recipe(
    build=lambda rngs: _without_dropout(torch.make_mdico(case.spec, rngs=rngs)),
    task=Task(kind, tuple(map(str, range(settings["n_labels"])))),
    temperature=settings["contrastive_temp"],
    negatives="both",
    similarity="dense",
    optimizer=optimizer,
    batch_size=len(target),
    microbatches=1,
    patience=1,
    min_delta=0.0,
    mesh=sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), 1, jax.devices()[:1]),
  )
  inputs = {m: given[f"x/{m}"] for m in names}
  every = np.ones(len(target), np.float32)
  batch = {"inputs": inputs, "target": target, "labelled": every, "present": dict.fromkeys(names, every)}
  as_they_are = {m: {"offset": np.zeros(1, np.float32), "scale": np.ones(1, np.float32)} for m in names}
  constants = {
    "inputs": as_they_are,
    "task": _task_constants(settings["loss"], given, settings["n_labels"]),
    "weights": {term: weight for term, weight in settings["weights_loss"].items() if weight > 0},
  }
  _, params, stats = _split(torch.load_mdico(case.spec, case.read("param")))
  zero, inf = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf)
  state = steps.TrainState(
    step=zero,
    epoch=zero,
    params=params,
    stats=stats,
    opt_state=optimizer.init(params),
    key=jax.random.key(0),
    constants=constants,
    stop=steps.Stop(reference=inf, wait=zero, done=jnp.zeros((), bool)),
    best=steps.Best(objective=inf, epoch=zero, params=params, stats=stats),
  )
  return recipe, state, batch


def _terms(terms: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Our terms of the objective by their names there.

  A pair's contrastive term is the same both ways; a term that is switched off contributes nothing.
  """
  totals = dict.fromkeys((f"total_{term}" for term in mdico.TERMS), jnp.zeros(()))
  pairs = [name.removeprefix("contrastive/").split("__") for name in terms if name.startswith("contrastive/")]
  mirrored = {f"contrastive/{n}__{m}": terms[f"contrastive/{m}__{n}"] for m, n in pairs}
  return totals | {name.replace("total/", "total_"): value for name, value in terms.items()} | mirrored


def _outputs(kind: str, outputs: mdico.Outputs) -> dict[str, jax.Array]:
  """Our outputs by their names there."""
  named = {there: getattr(outputs, here) for there, here in OUTPUTS.items()}
  named["prediction_softmax" if kind == "multiclass" else "prediction_sigmoid"] = {
    m: steps.activate(kind, logits) for m, logits in outputs.prediction.items()
  }
  return {f"{name}/{m}": value for name, values in named.items() for m, value in values.items()}


def _cannot_show(case: Case) -> None:
  """Notes the parameters that are loaded, and yet could be anything: no output depends on them."""
  for key in case.family("param"):
    if key.startswith(f"{torch.UNREAD}."):
      case.left_out[f"param/{key}"] = "is a head that nothing reads"
    elif key.endswith("attention_heads.fc1_k.bias"):
      case.left_out[f"param/{key}"] = "adds the same to all scores of a query, and the softmax takes it away"


def _model(case: Case) -> None:
  # An optimizer that does not move, whose state is the gradients.
  keep = optax.GradientTransformation(
    lambda params: params, lambda grads, _, params: (jax.tree.map(jnp.zeros_like, grads), grads)
  )
  recipe, state, batch = _training(case, keep)

  @jax.jit
  def evaluate(state, batch):
    outputs = recipe.model(state.params, state.stats)(batch["inputs"])
    return _outputs(recipe.task.kind, outputs), _terms(steps.eval_step(recipe, state, batch))

  @jax.jit
  def train(state, batch):
    outputs = recipe.model(state.params, state.stats)(batch["inputs"], train=True)
    after, terms = steps.train_step(recipe, state, batch)
    return _outputs(recipe.task.kind, outputs), after, _terms(terms)

  outputs, terms = evaluate(state, batch)
  case.compare("outputs", "out", outputs)
  case.compare("losses", "eval_loss", terms)
  outputs, after, terms = train(state, batch)
  case.compare("outputs", "train_out", outputs)
  case.compare("losses", "loss", terms)
  named = torch.state_dict(recipe.model(after.params, after.stats))
  case.compare("statistics", "train_buf", named)
  gradients = torch.state_dict(recipe.model(after.opt_state, after.stats))
  greatest = max(np.abs(gradient).max() for gradient in case.family("grad").values())
  noise, null = max(NOISE, RELATIVE_NOISE * float(greatest)), case.spec["null_gradient_params"]
  case.compare("gradients", "grad", gradients, allowed=lambda key: noise if key in null else None)
  _tables(case)
  _cannot_show(case)


def _trajectory(case: Case) -> None:
  given = case.spec["optimizer"]
  adam = optax.adam(given["lr"], b1=given["betas"][0], b2=given["betas"][1], eps=given["eps"])
  recipe, state, batch = _training(case, adam)
  step = jax.jit(functools.partial(steps.train_step, recipe))
  history = []
  for _ in range(given["steps"]):
    state, terms = step(state, batch)
    history.append(_terms(terms))
  history = {name: np.stack([terms[name] for terms in history]) for name in history[0]}
  # Over many steps rounding grows; the case says how far its own single precision went from its double one.
  apart = case.spec.get("float64_max_abs_diff", {}).get("traj", 0.0)
  greatest = {key: float(np.abs(terms).max()) for key, terms in case.family("traj64").items()}
  rounding = 3.0 * apart / max(greatest.values())
  beyond = lambda key: rounding * greatest[key] if rounding > TOLERANCES["trajectory"] else None
  case.compare("trajectory", "traj", history, allowed=beyond)
  case.compare("trajectory", "traj64", history, allowed=beyond)
  final = torch.state_dict(recipe.model(state.params, state.stats))
  allowed = _final_tolerance(case)
  case.compare("trajectory", "final", final, allowed=allowed)
  case.compare("trajectory", "final64", final, allowed=allowed)
  # What rounding moves in the final parameters moves the predictions too. So these are compared with what the
  # case's own final parameters give: that must agree, and it reads every one of them.
  for suffix in ("", "64"):
    params = case.family("final") | case.family(f"final{suffix}")
    model = torch.load_mdico(case.spec, params)
    outputs = jax.jit(lambda model, x: model(x).prediction)(model, batch["inputs"])
    case.compare("outputs", f"final_out{suffix}", {f"prediction/{m}": y for m, y in outputs.items()})
  _precisions(case)
  _unmoved(case)
  _tables(case)


def _final_tolerance(case: Case) -> Callable[[str], float]:
  """How far a parameter may be after the last step: float32 is what separates two right answers.

  Adam makes steps of the learning rate out of the rounding noise of a gradient that is zero; those
  parameters, and the running means behind them, are only known to be within all its steps.
  """
  family, given = case.family("final"), case.spec["optimizer"]
  spread = case.spec.get("final_diff_float32_float64_above_2e-6", {})

  def allowed(key: str) -> float:
    if key.endswith("num_batches_tracked"):
      return 0.0
    behind = key.endswith("running_mean") and key in spread
    if key in case.spec["null_gradient_params"] or behind:
      return 2.0 * given["lr"] * given["steps"]
    return max(1e-4 * np.abs(family[key]).max(), 10.0 * spread.get(key, 0.0))

  return allowed


def _precisions(case: Case) -> None:
  """The case's single against its double precision: the file says how far apart they are."""
  spread = case.spec.get("final_diff_float32_float64_above_2e-6")
  if spread is None:
    return
  single, double = case.family("final"), case.family("final64")
  for key, array in double.items():
    apart = np.abs(single[key].astype(np.float64) - array).max(initial=0.0)
    rounding = float(np.spacing(np.abs(array).max(initial=0.0)))  # the double precision is stored in single
    off, allowed = (abs(apart - spread[key]), 0.01 * spread[key]) if key in spread else (apart, 2e-6)
    name = f"final/{key} and final64/{key}"
    case.differences.append(Difference("trajectory", name, float(off), allowed + rounding))


def _unmoved(case: Case) -> None:
  """In double precision a gradient that is exactly zero moves nothing: such a parameter is as it began."""
  first, last = case.family("param"), case.family("final64")
  for key in case.spec["null_gradient_params"] + case.spec["no_gradient_params"]:
    off = np.abs(first[key].astype(np.float64) - last[key]).max()
    allowed = 1e-6 * max(1.0, float(np.abs(first[key]).max()))
    case.differences.append(Difference("trajectory", f"param/{key} and final64/{key}", float(off), allowed))


def _siblings(folder: Path, names: Iterable[str]) -> list[str]:
  """The two variants of a model start from the same numbers; returns the arrays in which a pair does not."""
  odd = []
  for name in names:
    pair = [folder / f"{name}_{variant}.npz" for variant in mdico.VARIANTS]
    first, second = (dict(np.load(path)) for path in pair)
    same = lambda key: np.array_equal(first[key], second.get(key))  # noqa: B023
    odd += [f"{name}_*: {key}" for key in first if key.startswith(("in/", "param/")) and not same(key)]
  return odd


def _line(name: str, case: Case) -> str:
  """What is printed of a case: each group's greatest difference, and whether all are within tolerance."""
  parts = []
  for group, tolerance in TOLERANCES.items():
    found = [d for d in case.differences if d.group == group]
    if bad := [d for d in found if not d.ok]:
      worst = max(bad, key=lambda d: d.size / max(d.allowed, 1e-30) if d.size == d.size else np.inf)
      parts.append(f"{group} {worst.size:.1e} OVER {worst.allowed:.1e} ({worst.key})")
    elif found:
      relative = [d.size for d in found if d.allowed == tolerance]
      parts.append(f"{group} {max(relative, default=0.0):.1e} ok")
  return f"{name}: {', '.join(parts)}"


def main(argv: list[str]) -> int:
  """Replays every case of the folder that is named; returns the exit status."""
  if len(argv) != 2 or not Path(argv[1]).is_dir():
    print("usage: python -m colearn_jax.interop.check FOLDER, where FOLDER holds cases", file=sys.stderr)
    return 2
  folder = Path(argv[1])
  names = sorted({path.stem for path in folder.iterdir() if path.suffix in (".json", ".npz")})
  if not names:
    print(f"{folder} holds no case: no .json and .npz files", file=sys.stderr)
    return 1
  failed, left_out = 0, {}
  for name in names:
    try:
      case = replay(folder / f"{name}.json")
    except InputError as error:
      failed += 1
      print(f"FAILED {name}: {error}", flush=True)
      continue
    missing = case.missing()
    ok = all(d.ok for d in case.differences) and not missing
    failed += not ok
    more = f", not compared: {', '.join(missing)}" if missing else ""
    print(f"{'passed' if ok else 'FAILED'} {_line(name, case)}{more}", flush=True)
    for key, reason in case.left_out.items():
      left_out.setdefault((key, reason), []).append(name)
  for (key, reason), cases in left_out.items():
    print(f"left out: {key} {reason} (in {', '.join(cases)})")
  both = [n.removesuffix("_paper") for n in names if n.endswith("_paper") and f"{n[:-6]}_released" in names]
  for odd in _siblings(folder, both):
    failed += 1
    print(f"FAILED {odd} is not the same in both variants")
  print(f"{len(names)} cases, {failed} failed")
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
