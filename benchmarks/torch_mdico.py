"""The whole train step of MDiCo in PyTorch, to compare speeds: encoders, heads, all four losses and Adam.

Written from the definition of the method, as one would write it in PyTorch to be fast: the contrastive term
is one product and one cross entropy, and the optimizer is the fused one. All samples have all sensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_encoders import TempCNN

TEMPERATURE = 0.1


class MDiCo(nn.Module):
  """The networks and the loss of a regression, in the released variant.

  Args:
    shapes: steps and bands of each sensor.
    width: features of an encoder.
    std: deviation of the target over the training part; predictions are in the target's unit.
  """

  def __init__(self, shapes: Mapping[str, tuple[int, int]], width: int, std: float):
    super().__init__()
    half, count = width // 2, len(shapes)
    encoder = lambda m: nn.Sequential(
      TempCNN(*shapes[m]), nn.Linear(TempCNN.width, width), nn.LayerNorm(width)
    )
    shared = lambda: nn.Sequential(nn.Linear(width, half), nn.BatchNorm1d(half), nn.ReLU())
    self.unique, self.common = (nn.ModuleDict({m: encoder(m) for m in shapes}) for _ in range(2))
    self.shared = nn.ModuleDict({m: shared() for m in shapes})
    self.heads = nn.ModuleDict({m: nn.Linear(width, 1) for m in shapes})
    self.auxiliary = nn.Linear(half, 1)
    self.modality_specific, self.modality_unused = nn.Linear(half, count), nn.Linear(half, count)
    self.std = std

  def forward(self, inputs: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """The loss of a batch: inputs `[B T C]` by sensor, target `[B 1]`."""
    task = lambda y: functional.mse_loss(y, target) / self.std**2
    terms, features = [], {}
    for number, (m, x) in enumerate(inputs.items()):
      specific, _ = self.unique[m](x).chunk(2, 1)
      features[m] = shared = self.shared[m](self.common[m](x))
      label = torch.full((len(x),), number, device=x.device)
      main = task(self.heads[m](torch.cat([specific, shared], 1)))
      auxiliary = 0.5 * (task(self.auxiliary(specific)) + task(self.auxiliary(shared)))
      first = functional.cross_entropy(self.modality_specific(specific), label)
      second = functional.cross_entropy(self.modality_unused(shared), label)
      terms.append(main + auxiliary + 0.5 * (first + second))
    pairs = itertools.combinations(features.values(), 2)  # each counts twice, as both orders are equal
    return sum(terms) / len(terms) + 2.0 * sum(nt_xent(one, other) for one, other in pairs)


def nt_xent(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
  """The contrastive loss of features `[B D]` of two sensors, over the 2B rows of both."""
  rows = functional.normalize(torch.cat([one, other]), dim=1)
  similar = rows @ rows.T / TEMPERATURE
  similar.fill_diagonal_(-torch.inf)
  positive = torch.arange(len(rows), device=rows.device).roll(len(one))
  return functional.cross_entropy(similar, positive)


def epoch_of(
  model: MDiCo, table: Mapping[str, np.ndarray], target: np.ndarray, batches: np.ndarray, *, compiled: bool
) -> Callable[[], np.ndarray]:
  """A function that makes the train steps of one epoch and returns their losses, `[S]`.

  Args:
    model: the networks.
    table: normalised inputs of all samples, `[N T C]` by sensor.
    target: `[N 1]`.
    batches: row numbers, `[S B]`.
    compiled: whether the loss and its gradient are compiled by `torch.compile`.
  """
  model.train()
  inputs, labels = {m: torch.from_numpy(x) for m, x in table.items()}, torch.from_numpy(target)
  rows = [torch.from_numpy(batch).long() for batch in batches]
  loss_of = torch.compile(model) if compiled else model
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

  def epoch() -> np.ndarray:
    losses = []
    for batch in rows:
      optimizer.zero_grad()
      loss = loss_of({m: x[batch] for m, x in inputs.items()}, labels[batch])
      loss.backward()
      optimizer.step()
      losses.append(loss.detach())
    return torch.stack(losses).numpy()

  return epoch


def copy(params: Mapping, model: MDiCo) -> None:
  """Copies the parameters of the package's model, a nested dict, to the one here."""
  with torch.no_grad():
    for m in model.heads:
      for name in ("unique", "common"):
        _encoder(params[name][m], getattr(model, name)[m])
      _linear(params["shared"][m]["linear"], model.shared[m][0])
      _norm(params["shared"][m]["norm"], model.shared[m][1])
      _linear(params["heads"][m]["out"], model.heads[m])
    for name in ("auxiliary", "modality_specific", "modality_unused"):
      _linear(params[name]["out"], getattr(model, name))


def _encoder(params: Mapping, module: nn.Sequential) -> None:
  own, (backbone, linear, norm) = params["backbone"], module
  convolutions = [layer for layer in backbone.layers if isinstance(layer, nn.Conv1d)]
  norms = [layer for layer in backbone.layers if isinstance(layer, nn.BatchNorm1d)]
  for k, layer in enumerate(convolutions):
    layer.weight.copy_(_tensor(own["convs"][k]["kernel"]).permute(2, 1, 0))
    layer.bias.copy_(_tensor(own["convs"][k]["bias"]))
    _norm(own["norms"][k], norms[k])
  dense = next(layer for layer in backbone.layers if isinstance(layer, nn.Linear))
  # The steps come first in one program, the channels in the other.
  by_step = _tensor(own["dense"]["kernel"]).reshape(-1, len(convolutions[-1].bias), len(dense.bias))
  dense.weight.copy_(by_step.permute(2, 1, 0).reshape(dense.weight.shape))
  dense.bias.copy_(_tensor(own["dense"]["bias"]))
  _norm(own["dense_norm"], norms[-1])
  _linear(params["linear"], linear)
  _norm(params["norm"], norm)


def _linear(params: Mapping, layer: nn.Linear) -> None:
  layer.weight.copy_(_tensor(params["kernel"]).T)
  layer.bias.copy_(_tensor(params["bias"]))


def _norm(params: Mapping, layer: nn.Module) -> None:
  layer.weight.copy_(_tensor(params["scale"]))
  layer.bias.copy_(_tensor(params["bias"]))


def _tensor(array: np.ndarray) -> torch.Tensor:
  return torch.from_numpy(np.array(array))
