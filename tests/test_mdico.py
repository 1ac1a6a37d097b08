import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from colearn_jax.methods.architecture import Architecture
from colearn_jax.methods.base import Batch, Values
from colearn_jax.methods.mdico import MDiCo
from colearn_jax.objectives.alignment import coral, discrepancy
from colearn_jax.objectives.contrastive import contrastive
from colearn_jax.objectives.discriminative import modality_loss
from colearn_jax.types import InputError, Task

SHAPES = {"radar": (4, 2), "optical": (6, 3), "thermal": (4, 1)}
ENCODER = {"model_type": "tempcnn", "layer_size": 8, "dropout": 0.2}
WEIGHTS = dict.fromkeys(MDiCo.terms[:4], 1.0)  # without a teacher
OFF = {"auxiliary": 0.0, "contrastive": 0.0, "discriminative": 0.0}


def architecture(names=tuple(SHAPES), encoder=ENCODER, emb_dim=16):
  task = Task("multiclass", ("a", "b", "c"))
  shapes = {m: SHAPES[m] for m in names}
  return Architecture(shapes, dict.fromkeys(names, encoder), task, emb_dim=emb_dim)


def make(names=tuple(SHAPES), encoder=ENCODER, only=None, **settings):
  return MDiCo(**settings).build(architecture(names, encoder), only=only, rngs=nnx.Rngs(0))


def forward(model, inputs, **mode):
  return MDiCo().forward(model, inputs, **mode)


def run(inputs, **kwargs):
  """Outputs of a model made and called in one program: op by op it would take ten times as long."""
  return jax.jit(lambda x: forward(make(**kwargs), x))(inputs)


def objective(kind, outputs, target, present, constants, weights, labelled=None):
  rows = jnp.arange(len(target))
  labelled = jnp.ones(len(target)) if labelled is None else labelled
  values = Values(constants, weights, {}, jnp.zeros(()), Task(kind, ("a", "b", "c")))
  return MDiCo().loss(outputs, Batch({}, present, target, labelled, rows), values)


def sample(names=tuple(SHAPES), batch=5, seed=0):
  rng = np.random.default_rng(seed)
  return {m: jnp.asarray(rng.normal(size=(batch, *SHAPES[m])), jnp.float32) for m in names}


def present(batch=5, **rows):
  ones = {m: jnp.ones(batch) for m in SHAPES}
  return ones | {m: jnp.asarray(mask, jnp.float32) for m, mask in rows.items()}


CONSTANTS = {"class_weights": jnp.array([1.0, 2.0, 0.5])}
TARGET = jnp.array([0, 1, 2, 1, 0])


@pytest.mark.long
@pytest.mark.parametrize("names", [("radar",), ("radar", "optical"), tuple(SHAPES)])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_shapes_for_any_number_of_modalities(names, variant):
  out = run(sample(names), names=names, variant=variant)
  for m in names:
    assert out.prediction[m].shape == out.auxiliary_shared[m].shape == (5, 3)
    assert out.specific[m].shape == out.unused[m].shape == out.shared[m].shape == (5, 8)
    assert out.modality_specific[m].shape == out.modality_unused[m].shape == (5, len(names))


def test_features_have_halves():
  with pytest.raises(InputError, match="emb_dim=15 is odd"):
    MDiCo().build(architecture(emb_dim=15), rngs=nnx.Rngs(0))


@pytest.mark.long
def test_a_modality_alone_needs_nothing_of_another():
  inputs = sample()
  together = run(inputs)
  for m in SHAPES:
    alone = run({m: inputs[m]})
    assert list(alone.prediction) == [m]
    np.testing.assert_allclose(alone.prediction[m], together.prediction[m], rtol=1e-5, atol=1e-6)
  small, whole = (nnx.eval_shape(lambda only=only: make(only=only)) for only in ("radar", None))
  paths = lambda model: {path for path, _ in nnx.to_flat_state(nnx.state(model))}
  assert {path[0] for path in paths(small)} == {"unique", "common", "shared", "heads"}
  assert paths(small) == {path for path in paths(whole) if "radar" in path}


@pytest.mark.long
def test_every_head_reads_the_features_that_it_is_named_after():
  inputs = sample()
  outputs = run(inputs)

  @jax.jit
  def heads(o):
    model, mode = make(), {"train": False, "present": None}
    both = {m: jnp.concatenate([o.specific[m], o.shared[m]], -1) for m in SHAPES}
    return {
      "auxiliary_specific": {m: model.auxiliary(z, **mode) for m, z in o.specific.items()},
      "auxiliary_shared": {m: model.auxiliary(z, **mode) for m, z in o.shared.items()},
      "modality_specific": {m: model.modality_specific(z, **mode) for m, z in o.specific.items()},
      "prediction": {m: model.heads[m](z, **mode) for m, z in both.items()},
    }

  for head, named in heads(outputs).items():
    for m, want in named.items():
      np.testing.assert_allclose(getattr(outputs, head)[m], want, rtol=1e-5, atol=1e-6, err_msg=head)


@pytest.mark.long
def test_the_variants_differ_in_what_the_second_modality_head_sees():
  inputs = sample()
  paper, released = run(inputs, variant="paper"), run(inputs, variant="released")
  head = jax.jit(lambda z: make().modality_unused(z, train=False, present=None))
  for m in SHAPES:
    np.testing.assert_allclose(paper.modality_unused[m], head(paper.unused[m]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(released.modality_unused[m], head(released.shared[m]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(paper.modality_specific[m], released.modality_specific[m])


def test_the_objective_is_the_sum_of_its_terms():
  outputs = run(sample())
  weights = {"main": 1.0, "auxiliary": 0.5, "contrastive": 2.0, "discriminative": 3.0}
  loss, terms = objective("multiclass", outputs, TARGET, present(), CONSTANTS, weights)
  mean = lambda term: np.mean([terms[f"{term}/{m}"] for m in SHAPES])
  pairs = [
    terms[f"contrastive/{a}__{b}"]
    for a, b in (("radar", "optical"), ("radar", "thermal"), ("optical", "thermal"))
  ]
  want = mean("main") + 0.5 * mean("auxiliary") + 2.0 * 2.0 * sum(pairs) + 3.0 * mean("discriminative")
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  np.testing.assert_allclose(loss, sum(terms[f"total/{term}"] for term in WEIGHTS), rtol=1e-6)
  assert terms["objective"] == loss


def test_modalities_are_numbered_in_the_order_they_are_given():
  """Not in their alphabetical order, in which dicts come out of jit."""
  outputs = run(sample())
  assert list(outputs.prediction) == sorted(SHAPES) != list(SHAPES)
  _, terms = objective("multiclass", outputs, TARGET, present(), CONSTANTS, WEIGHTS)
  for index, m in enumerate(SHAPES):
    logits = outputs.modality_specific[m], outputs.modality_unused[m]
    want = np.mean([modality_loss(z, index, jnp.ones(5)) for z in logits])
    np.testing.assert_allclose(terms[f"discriminative/{m}"], want, rtol=1e-6)


def test_a_weight_of_zero_switches_a_term_off():
  weights = {term: WEIGHTS[term] for term in ("main", "contrastive")}
  outputs = run(sample(), auxiliary=0.0, discriminative=0.0)
  assert not outputs.auxiliary_shared and not outputs.modality_unused
  _, terms = objective("multiclass", outputs, TARGET, present(), CONSTANTS, weights)
  assert not any(name.startswith(("auxiliary", "discriminative", "total/aux")) for name in terms)


@pytest.mark.long
def test_absent_sensors_count_nowhere():
  """Against a loop that leaves the samples out, in training mode with batch statistics; gradients too."""
  masks = {"radar": [1, 1, 0, 1, 1], "optical": [1, 0, 1, 1, 1], "thermal": [1, 1, 1, 1, 0]}
  no_dropout = {"encoder": ENCODER | {"dropout": 0.0}}
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(**no_dropout)))
  params, stats = jax.jit(lambda: nnx.split(make(**no_dropout), nnx.Param, nnx.BatchStat)[1:])()
  rngs = lambda: nnx.Rngs(dropout=0)

  def masked(params, inputs):
    model = nnx.merge(graphdef, params, stats, copy=True)
    there = present(**masks)
    outputs = forward(model, inputs, train=True, present=there, rngs=rngs())
    return objective("multiclass", outputs, TARGET, there, CONSTANTS, WEIGHTS)

  def left_out(params, inputs):
    model = nnx.merge(graphdef, params, stats, copy=True)
    rows = {m: np.flatnonzero(mask) for m, mask in masks.items()}
    outs = {m: forward(model, {m: inputs[m][rows[m]]}, train=True, rngs=rngs()) for m in SHAPES}
    total, terms = 0.0, {}
    for index, m in enumerate(SHAPES):
      ones, y = {m: jnp.ones(len(rows[m]))}, TARGET[rows[m]]
      one = objective("multiclass", outs[m], y, ones, CONSTANTS, WEIGHTS | {"discriminative": 0.0})[1]
      mod = [
        modality_loss(getattr(outs[m], f)[m], index, ones[m])
        for f in ("modality_specific", "modality_unused")
      ]
      terms[m] = one[f"main/{m}"] + one[f"auxiliary/{m}"] + 0.5 * sum(mod)
      total += terms[m] / 3
      for n in list(SHAPES)[index + 1 :]:
        both = np.intersect1d(rows[m], rows[n])
        a = outs[m].shared[m][np.searchsorted(rows[m], both)]
        b = outs[n].shared[n][np.searchsorted(rows[n], both)]
        total += 2 * contrastive(a, b, 0.1, jnp.ones(len(both)))
    return total

  inputs = sample()
  masked_loss = jax.jit(jax.value_and_grad(lambda p, x: masked(p, x)[0]))
  got, got_grads = masked_loss(params, inputs)
  want, want_grads = jax.jit(jax.value_and_grad(left_out))(params, inputs)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, np.abs(b).max()))
  jax.tree.map(close, got_grads, want_grads)
  hidden = {m: jnp.where(jnp.asarray(masks[m])[:, None, None] > 0, x, 1e6) for m, x in inputs.items()}
  np.testing.assert_allclose(masked_loss(params, hidden)[0], want, rtol=1e-5)


def test_a_modality_that_nobody_has_leaves_the_mean():
  outputs = run(sample())
  _, terms = objective("multiclass", outputs, TARGET, present(thermal=np.zeros(5)), CONSTANTS, WEIGHTS)
  want = (terms["main/radar"] + terms["main/optical"]) / 2
  np.testing.assert_allclose(terms["total/main"], want, rtol=1e-6)
  assert terms["main/thermal"] == 0.0 and terms["contrastive/radar__thermal"] == 0.0


@pytest.mark.long
@pytest.mark.parametrize("kind", ["multiclass", "regression", "multilabel"])
def test_samples_without_a_label_count_in_the_contrastive_and_modality_terms_alone(kind):
  """Against the task's terms of the labelled samples by themselves; gradients too."""
  outputs, labelled = run(sample()), np.array([1, 0, 1, 1, 0])
  rows, column = np.flatnonzero(labelled), np.linspace(0.0, 1.0, 5)[:, None]
  constants = CONSTANTS if kind == "multiclass" else {"mean": jnp.ones(3), "std": jnp.full(3, 2.0)}
  target = {"multiclass": TARGET, "regression": column * np.ones(3), "multilabel": column > np.ones(3) / 3}
  target = jnp.asarray(target[kind], jnp.int32 if kind == "multiclass" else jnp.float32)
  there = present(radar=[1, 1, 1, 0, 1])

  def some(outputs):
    return objective(kind, outputs, target, there, constants, WEIGHTS, labelled=jnp.asarray(labelled))

  def apart(outputs):
    task, other = WEIGHTS | {"contrastive": 0.0, "discriminative": 0.0}, WEIGHTS | {"auxiliary": 0.0}
    known = jax.tree.map(lambda a: a[rows], (outputs, target, there))
    main = objective(kind, *known, constants, task)[0]
    _, terms = objective(kind, outputs, target, there, constants, other)
    return main + terms["total/contrastive"] + terms["total/discriminative"]

  got, got_grads = jax.jit(jax.value_and_grad(lambda o: some(o)[0]))(outputs)
  want, want_grads = jax.jit(jax.value_and_grad(apart))(outputs)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got_grads, want_grads)


# Other alignments, other weights.


def given(method, **weights):
  every = {
    term: jnp.float32(getattr(method, term)) for term in method.terms if getattr(method, term)
  } | weights
  return Values(CONSTANTS, every, {}, jnp.zeros(()), Task("multiclass", ("a", "b", "c")))


def of_outputs(method, outputs, there, **weights):
  batch = Batch({}, there, TARGET, jnp.ones(5), jnp.arange(5))
  return method.loss(outputs, batch, given(method, **weights))


@pytest.mark.parametrize("name", ["mmd", "coral"])
def test_alignment_of_each_pair_over_the_samples_that_have_both(name):
  outputs, there = run(sample()), present(radar=[1, 1, 1, 0, 1], thermal=[0, 1, 1, 1, 1])
  _, terms = of_outputs(MDiCo(alignment=name, contrastive=3.0), outputs, there)
  loss = {"mmd": discrepancy, "coral": coral}[name]
  want = [
    loss(outputs.shared[a], outputs.shared[b], there[a] * there[b])
    for a, b in (("radar", "optical"), ("radar", "thermal"), ("optical", "thermal"))
  ]
  np.testing.assert_allclose(terms["contrastive/radar__optical"], want[0], rtol=1e-5)
  np.testing.assert_allclose(terms["total/contrastive"], 3.0 * 2.0 * sum(want), rtol=1e-5)


@pytest.mark.long
def test_gradient_reversal_in_place_of_the_contrastive_term():
  method, names, inputs = MDiCo(alignment="grl", contrastive=2.0), tuple(SHAPES), sample()
  there = present(radar=[1, 1, 1, 0, 1])
  architecture_ = architecture(names, ENCODER | {"dropout": 0.0})
  model = method.build(architecture_, rngs=nnx.Rngs(0))
  graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)

  def term(params, turned):
    model = nnx.merge(graphdef, params, stats, copy=True)
    outputs = method.forward(model, inputs)
    if not turned:
      logits = {m: model.adversary(z, train=False, present=None) for m, z in outputs.shared.items()}
      return 2.0 * sum(modality_loss(logits[m], k, there[m]) for k, m in enumerate(SHAPES)) / 3
    return of_outputs(method, outputs, there)[1]["total/contrastive"]

  both = jax.jit(lambda params: tuple(jax.value_and_grad(term)(params, turned) for turned in (True, False)))
  (got, got_grads), (want, want_grads) = both(params)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  got_grads, want_grads = nnx.to_pure_dict(got_grads), nnx.to_pure_dict(want_grads)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, got_grads["adversary"], want_grads["adversary"])
  jax.tree.map(lambda a, b: close(a, -b), got_grads["shared"], want_grads["shared"])
  assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(want_grads["shared"]))


@pytest.mark.long
@pytest.mark.parametrize("name", ["uncertainty", "corrected"])
def test_learned_weights(name):
  outputs, s = run(sample()), {"main": 0.5, "auxiliary": -1.0, "contrastive": 2.0, "discriminative": 1.5}
  plain = of_outputs(MDiCo(), outputs, present())[1]
  outputs = outputs.replace(weighting={term: jnp.full(5, value) for term, value in s.items()})
  method = MDiCo(weighting=name, contrastive=3.0)
  loss, terms = of_outputs(method, outputs, present())
  total = 0.0
  for term, value in s.items():
    own = float(plain[f"total/{term}"]) * (3.0 if term == "contrastive" else 1.0)
    if name == "uncertainty":
      want = np.exp(-value) * own + value
    else:
      want = own / (2 * value**2) + np.log(1 + value**2)
    np.testing.assert_allclose(terms[f"total/{term}"], want, rtol=1e-5)
    total += want
  np.testing.assert_allclose(loss, total, rtol=1e-5)
  # Where an ablation switches a term off, its learned weight has no part, and so no gradient.
  off = lambda outputs: of_outputs(method, outputs, present(), auxiliary=jnp.float32(0.0))[0]
  grads = jax.grad(off)(outputs).weighting
  assert not np.any(grads["auxiliary"]) and all(np.any(grads[term]) for term in s if term != "auxiliary")
  np.testing.assert_allclose(off(outputs), loss - terms["total/auxiliary"], rtol=1e-5)


@pytest.mark.long
def test_learned_weights_begin_as_the_given_ones():
  for name, first in (("uncertainty", 0.0), ("corrected", 1.0)):
    model = nnx.eval_shape(lambda name=name: make(weighting=name, discriminative=0.0))
    assert set(model.weighting) == {"main", "auxiliary", "contrastive"}
    built = make(names=("radar",), weighting=name)
    assert {float(value[...]) for value in built.weighting.values()} == {first}
  assert not make(names=("radar",), weighting="uncertainty", only="radar").weighting


@pytest.mark.long
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_without_unused_features_all_are_specific(variant):
  out = run(sample(), unused_features=False, variant=variant)
  for m in SHAPES:
    assert out.specific[m].shape == out.shared[m].shape == (5, 16) and not out.unused
    assert bool(out.modality_unused) == (variant == "released")
  _, terms = of_outputs(MDiCo(unused_features=False, variant=variant), out, present())
  heads = [out.modality_specific, out.modality_unused] if variant == "released" else [out.modality_specific]
  want = np.mean([modality_loss(head["radar"], 0, jnp.ones(5)) for head in heads])
  np.testing.assert_allclose(terms["discriminative/radar"], want, rtol=1e-6)
