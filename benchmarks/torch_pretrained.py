"""Presto and Galileo (of pixels) as plain PyTorch modules, to compare speeds; see `colearn_jax.encoders`.

They are only timed; they share no weights with the package. Like there, only tokens of groups that the
modality has are computed, and a mask leaves out those that a sample lacks.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from colearn_jax.encoders.galileo import KIND, PATCH, ground_table, kernel_resize, wave_table
from colearn_jax.encoders.groups import month_table
from colearn_jax.encoders.presto import STATIC, position_table


class Block(nn.Module):
  """Attention and two dense layers, with norms before them."""

  def __init__(self, width: int, heads: int, hidden: int):
    super().__init__()
    self.heads, self.norm, self.dense_norm = heads, nn.LayerNorm(width), nn.LayerNorm(width)
    self.project, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.dense = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

  def forward(self, x, mask):
    """One block."""
    batch, tokens, width = x.shape
    parts = self.project(self.norm(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(*parts, attn_mask=mask[:, None, None])
    x = x + self.merge(attended.transpose(1, 2).reshape(batch, tokens, width))
    return x + self.dense(self.dense_norm(x))


class Presto(nn.Module):
  """The encoder and a linear layer: `[B T C]`, months `[B T]` and places `[B 3]` to `[B width]`."""

  def __init__(self, groups: dict[str, list[int]], steps: int, width: int, size: int = 128):
    super().__init__()
    self.groups = groups
    self.embed = nn.ModuleList(nn.Linear(len(at), size) for at in groups.values())
    self.vectors = nn.Parameter(torch.randn(len(groups), size // 4) * 0.02)
    self.place, self.norm, self.linear = nn.Linear(3, size), nn.LayerNorm(size), nn.Linear(size, width)
    self.blocks = nn.ModuleList(Block(size, 8, 4 * size) for _ in range(2))
    self.months = nn.Buffer(torch.from_numpy(month_table(size // 4)))
    self.positions = nn.Buffer(torch.from_numpy(position_table(steps, size // 2)))

  def forward(self, x, months, place):
    """Encodes."""
    batch, steps, _ = x.shape
    tokens, there = [self.place(place)[:, None]], [torch.ones(batch, 1, dtype=torch.bool)]
    month, position = self.months[months], self.positions.expand(batch, -1, -1)
    for (group, at), embed, vector in zip(self.groups.items(), self.embed, self.vectors):
      values = x[..., at]
      known = ~values.isnan().any(-1)
      values = torch.where(known[..., None], values, 0.0)
      if group in STATIC:
        tokens.append(embed(values[:, :1]) + functional.pad(vector, (len(vector), 2 * len(vector))))
        there.append(known[:, :1])
      else:
        code = torch.cat([month, vector.expand(batch, steps, -1), position], -1)
        tokens.append(embed(values) + code)
        there.append(known)
    y, mask = torch.cat(tokens, 1), torch.cat(there, 1)
    for block in self.blocks:
      y = block(y, mask)
    share = mask / mask.sum(1, keepdim=True)
    return self.linear(self.norm((share[..., None] * y).sum(1)))


class Kernel(nn.Module):
  """The embedding of single pixels by a kernel for patches of 8 x 8."""

  def __init__(self, bands: int, size: int):
    super().__init__()
    self.weight = nn.Parameter(torch.randn(size, bands, PATCH, PATCH) * 0.02)
    self.bias = nn.Parameter(torch.zeros(size))
    self.resize = nn.Buffer(torch.from_numpy(kernel_resize(1)[:, 0].astype(np.float32)))

  def forward(self, x):
    """Embeds `[B T C]`."""
    weight = torch.einsum("dchw,h,w->dc", self.weight, self.resize, self.resize)
    return functional.linear(x, weight, self.bias)


class Galileo(nn.Module):
  """The encoder of pixels and a linear layer: `[B T C]`, months `[B T]` and places `[B 3]` to `[B width]`."""

  def __init__(self, groups: dict[str, list[int]], steps: int, width: int, size: int = 128):
    super().__init__()
    self.groups = groups
    layer = lambda group, at: (Kernel if "space" in KIND[group] else nn.Linear)(len(at), size)
    self.embed = nn.ModuleList(layer(group, at) for group, at in groups.items())
    self.vectors = nn.Parameter(torch.randn(len(groups) + 1, size // 4) * 0.02)
    self.place, self.norm, self.linear = nn.Linear(3, size), nn.LayerNorm(size), nn.Linear(size, width)
    self.blocks = nn.ModuleList(Block(size, 8, 4 * size) for _ in range(4))
    self.months = nn.Buffer(torch.from_numpy(month_table(size // 4)))
    self.positions = nn.Buffer(torch.from_numpy(wave_table(np.arange(steps), size // 4)))
    self.ground = nn.Buffer(torch.from_numpy(ground_table(1, 1, 1.0, size // 4)))

  def forward(self, x, months, place):
    """Encodes."""
    batch, steps, _ = x.shape
    tokens = [(self.place(place) + functional.pad(self.vectors[-1], (0, 3 * len(self.vectors[-1]))))[:, None]]
    there = [torch.ones(batch, 1, dtype=torch.bool)]
    month, position = self.months[months], self.positions.expand(batch, -1, -1)
    for (group, at), embed, vector in zip(self.groups.items(), self.embed, self.vectors):
      kind, values = KIND[group], x[..., at]
      known = ~values.isnan().any(-1)
      values = torch.where(known[..., None], values, 0.0)
      if "time" not in kind:
        known, values = known[:, :1], values[:, :1]
      shape = (batch, values.shape[1], -1)
      moment = (position, month) if "time" in kind else (torch.zeros(*shape[:2], 2 * len(vector)),)
      ground = self.ground.expand(shape) if "space" in kind else torch.zeros(*shape[:2], len(vector))
      tokens.append(embed(values) + torch.cat([vector.expand(shape), *moment, ground], -1))
      there.append(known)
    y, mask = torch.cat(tokens, 1), torch.cat(there, 1)
    for block in self.blocks:
      y = block(y, mask)
    share = mask / mask.sum(1, keepdim=True)
    return self.linear((share[..., None] * self.norm(y)).sum(1))


MODULES = {"galileo": Galileo, "presto": Presto}


def calls(module: nn.Module, batches: list[tuple[np.ndarray, ...]], threads: int, half: bool = False):
  """Two functions without arguments: forward in evaluation mode; forward, backward and Adam.

  With `half`, products are computed in bfloat16, by PyTorch's autocast.
  """
  cast = functools.partial(torch.autocast, "cpu", torch.bfloat16, enabled=half)
  batches = [tuple(map(torch.from_numpy, batch)) for batch in batches]
  optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, foreach=True)

  def forward():
    torch.set_num_threads(threads)
    with torch.no_grad(), cast():
      for batch in batches:
        module(*batch)

  def step():
    torch.set_num_threads(threads)
    for batch in batches:
      optimizer.zero_grad()
      with cast():
        loss = module(*batch).float().square().mean()
      loss.backward()
      optimizer.step()

  return forward, step
