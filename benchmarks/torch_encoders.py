"""The encoders of the package with their default settings as plain PyTorch modules, to compare speeds.

Each maps a series `[B T C]` to `[B 128]`. They are only timed; they share no weights with the package.
"""

from __future__ import annotations

import torch
from torch import nn

from colearn_jax.nn.layers import sinusoid


class _Series(nn.Module):
  """Common to the backbones: the width of their output."""

  width = 128


class TempCNN(_Series):
  """See `colearn_jax.encoders.tempcnn`."""

  width = 512

  def __init__(self, steps: int, bands: int):
    super().__init__()
    block = lambda i, o: [nn.Conv1d(i, o, 5, padding=2), nn.BatchNorm1d(o), nn.ReLU(), nn.Dropout(0.2)]
    dense = [nn.Linear(128 * steps, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Dropout(0.2)]
    self.layers = nn.Sequential(*block(bands, 128), *block(128, 128), nn.Flatten(), *dense)

  def forward(self, x):
    """Encodes."""
    return self.layers(x.transpose(1, 2))


class MLP(_Series):
  """See `colearn_jax.encoders.mlp`."""

  def __init__(self, steps: int, bands: int):
    super().__init__()
    block = lambda i: [nn.Linear(i, 128), nn.ReLU(), nn.BatchNorm1d(128), nn.Dropout(0.2)]
    self.layers = nn.Sequential(nn.Flatten(), *block(steps * bands), *block(128))

  def forward(self, x):
    """Encodes."""
    return self.layers(x)


class Recurrent(_Series):
  """See `colearn_jax.encoders.recurrent`."""

  def __init__(self, unit: type, steps: int, bands: int):
    super().__init__()
    self.unit = unit(bands, 128, num_layers=2, dropout=0.2, batch_first=True)

  def forward(self, x):
    """Encodes."""
    return self.unit(x)[0][:, -1]


def _table(steps: int, width: int, first: int = 0, base: float = 10000.0, factor: float = 1.0):
  positions = torch.arange(first, first + steps).numpy() * factor
  return nn.Buffer(torch.from_numpy(sinusoid(positions, width, base=base)))


def _dense(*widths: int) -> list[nn.Module]:
  blocks = [[nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()] for i, o in zip(widths, widths[1:])]
  return [layer for block in blocks for layer in block] + [nn.Dropout(0.2), nn.LayerNorm(widths[-1])]


class LTAE(_Series):
  """See `colearn_jax.encoders.ltae`."""

  def __init__(self, steps: int, bands: int):
    super().__init__()
    self.bands_norm, self.embed = nn.LayerNorm(bands), nn.Linear(bands, 256)
    self.embed_norm = nn.LayerNorm((steps, 256))
    self.table = nn.Buffer(_table(steps, 16, 1, 1000.0).repeat(1, 16))
    self.query, self.key = nn.Parameter(torch.randn(16, 8)), nn.Linear(256, 16 * 8)
    self.drop, self.dense = nn.Dropout(0.1), nn.Sequential(*_dense(256, 128))

  def forward(self, x):
    """Encodes."""
    x = self.embed_norm(self.embed(self.bands_norm(x))) + self.table
    batch, steps, _ = x.shape
    keys = self.key(x).view(batch, steps, 16, 8)
    attention = self.drop(torch.softmax((keys * self.query).sum(-1) * 8**-0.5, 1))
    merged = (attention[..., None] * x.view(batch, steps, 16, 16)).sum(1)
    return self.dense(merged.reshape(batch, -1))


class TAE(_Series):
  """See `colearn_jax.encoders.ltae`."""

  def __init__(self, steps: int, bands: int):
    super().__init__()
    self.bands_norm, self.embed = nn.LayerNorm(bands), nn.Linear(bands, 128)
    self.embed_norm, self.table = nn.LayerNorm((steps, 128)), _table(steps, bands, 1, 1000.0)
    self.query, self.key = nn.Linear(128, 128), nn.Linear(128, 128)
    self.query_out = nn.Sequential(nn.BatchNorm1d(128), nn.Linear(128, 128))
    self.drop, self.dense = nn.Dropout(0.1), nn.Sequential(*_dense(512, 128, 128))

  def forward(self, x):
    """Encodes."""
    x = self.embed_norm(self.embed(self.bands_norm(x) + self.table))
    batch, steps, _ = x.shape
    query = self.query_out(self.query(x.mean(1))).view(batch, 4, 1, 32)
    keys = self.key(x).view(batch, steps, 4, 32).permute(0, 2, 3, 1)
    attention = self.drop(torch.softmax((query @ keys)[:, :, 0] * 32**-0.5, -1))
    return self.dense((attention @ x).reshape(batch, -1))


class Transformer(_Series):
  """See `colearn_jax.encoders.transformer`."""

  def __init__(self, steps: int, bands: int):
    super().__init__()
    self.embed, self.token = nn.Linear(bands, 128), nn.Parameter(torch.zeros(1, 1, 128))
    self.table, self.drop = _table(steps + 1, 128), nn.Dropout(0.2)
    layer = lambda: nn.TransformerEncoderLayer(128, 8, 256, dropout=0.2, batch_first=True)
    self.layers = nn.Sequential(layer(), layer())

  def forward(self, x):
    """Encodes."""
    x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
    return self.layers(self.drop(x + self.table))[:, 0]


class ConvTran(_Series):
  """See `colearn_jax.encoders.convtran`."""

  width = 64

  def __init__(self, steps: int, bands: int):
    super().__init__()
    over_time = nn.Conv2d(1, 256, (min(8, steps), 1), padding="same")
    self.over_time = nn.Sequential(over_time, nn.BatchNorm2d(256), nn.GELU())
    self.collapse = nn.Sequential(nn.Conv2d(256, 64, (1, bands)), nn.BatchNorm2d(64), nn.GELU())
    self.table = _table(steps, 64, factor=64 / steps)
    self.project = nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(3))
    self.bias = nn.Parameter(torch.zeros(2 * steps - 1, 8))
    self.difference = nn.Buffer(torch.arange(steps)[:, None] - torch.arange(steps)[None] + steps - 1)
    self.merge, self.norm, self.dense_norm = nn.LayerNorm(64), nn.LayerNorm(64), nn.LayerNorm(64)
    dense = nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, 64), nn.Dropout(0.2)
    self.dense, self.drop = nn.Sequential(*dense), nn.Dropout(0.2)

  def forward(self, x):
    """Encodes."""
    x = self.collapse(self.over_time(x[:, None]))[..., 0].transpose(1, 2)
    positioned = self.drop(x + self.table)
    heads = lambda layer: layer(positioned).view(*x.shape[:2], 8, 8).transpose(1, 2)
    query, key, value = map(heads, self.project)
    attention = torch.softmax(query @ key.transpose(2, 3) * 64**-0.5, -1)
    attention = attention + self.bias[self.difference].permute(2, 0, 1)
    x = self.norm(x + self.merge((attention @ value).transpose(1, 2).reshape(x.shape)))
    return self.dense_norm(x + self.dense(x)).mean(1)


class PSELTAE(_Series):
  """See `colearn_jax.encoders.pse_ltae`; of tiles without missing values `[B T H W C]`."""

  def __init__(self, steps: int, bands: int):
    super().__init__()
    block = lambda i, o: [nn.Linear(i, o, bias=False), nn.BatchNorm1d(o), nn.ReLU()]
    self.pixels = nn.Sequential(*block(bands, 32), *block(32, 64))
    self.steps, self.over_time = nn.Sequential(*block(128, 128)), LTAE(steps, 128)

  def forward(self, x):
    """Encodes."""
    batch, steps = x.shape[:2]
    pixels = self.pixels(x.reshape(-1, x.shape[-1])).view(batch * steps, -1, 64)
    deviation = (pixels.var(1, correction=0) + 1e-5).sqrt()
    both = torch.cat([pixels.mean(1), deviation], 1)
    return self.over_time(self.steps(both).view(batch, steps, -1))


BACKBONES = {
  "convtran": ConvTran,
  "gru": lambda *shape: Recurrent(nn.GRU, *shape),
  "lstm": lambda *shape: Recurrent(nn.LSTM, *shape),
  "ltae": LTAE,
  "mlp": MLP,
  "pse_ltae": PSELTAE,
  "rnn": lambda *shape: Recurrent(nn.RNN, *shape),
  "tae": TAE,
  "tempcnn": TempCNN,
  "transformer": Transformer,
}


def make(name: str, steps: int, bands: int, width: int) -> nn.Module:
  """A backbone followed by a linear layer."""
  backbone = BACKBONES[name](steps, bands)
  return nn.Sequential(backbone, nn.Linear(backbone.width, width))


def calls(module: nn.Module, batches, threads: int):
  """Two functions without arguments: forward in evaluation mode; forward and backward in training mode."""
  batches = torch.from_numpy(batches)

  def forward():
    torch.set_num_threads(threads)
    module.eval()
    with torch.no_grad():
      for x in batches:
        module(x)

  def backward():
    torch.set_num_threads(threads)
    module.train()
    for x in batches:
      module(x).square().mean().backward()

  return forward, backward
