"""Names and units of bands, for encoders that know what they read.

A band has one name here (`VV`, `B2`, `temperature_2m`), and is found by the usual spellings of it. A unit is
that of the data set, or the one that is listed first below if the data set says none. Values are never looked
at to guess it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from colearn_jax.types import InputError

# Other spellings of a band, in small letters, without spaces, `_` and `-`. `B02` is read as `B2`.
SPELLINGS = {
  "B2": ("blue",),
  "B3": ("green",),
  "B4": ("red",),
  "B5": ("rededge1", "re1"),
  "B6": ("rededge2", "re2"),
  "B7": ("rededge3", "re3"),
  "B8": ("nir", "nir1", "broadnir"),
  "B8A": ("rededge4", "re4", "nir08", "nir2", "narrownir", "nirnarrow"),
  "B11": ("swir", "swir1", "swir16"),
  "B12": ("swir2", "swir22"),
  "temperature_2m": ("temperature", "airtemperature", "t2m"),
  "total_precipitation": ("totalprecipitationsum", "precipitation", "rain", "rainfall", "tp"),
  "elevation": ("altitude", "dem"),
}
COVER = ("water", "trees", "grass", "flooded_vegetation", "crops", "shrub_and_scrub", "built", "bare",
         "snow_and_ice")  # fmt: skip
CROPS = ("temporarycrops", "maize", "wintercereals", "springcereals", "irrigation")
DYNAMIC_WORLD, WORLD_CEREAL = (
  tuple(f"{product}_{name}" for name in names) for product, names in (("DW", COVER), ("WC", CROPS))
)
OPTICAL = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
QUANTITIES = {
  **dict.fromkeys(("VV", "VH"), "backscatter"),
  **dict.fromkeys(OPTICAL, "reflectance"),
  "temperature_2m": "temperature",
  "total_precipitation": "precipitation",
  "elevation": "elevation",
  "slope": "slope",
  "NDVI": "index",
  "dynamic_world": "class",
  **dict.fromkeys(("def", "soil", "aet"), "water"),
  "avg_rad": "radiance",
  "population": "population",
  **dict.fromkeys(
    (name + more for name in (*DYNAMIC_WORLD, *WORLD_CEREAL) for more in ("", "_static")), "share"
  ),
}
POWER = "linear"  # unit of backscatter as power, which is converted to decibels
# For each quantity its units, each with the factor and the summand that convert it to the first one.
UNITS: dict[str, dict[str, tuple[float, float]]] = {
  "backscatter": {"dB": (1.0, 0.0), POWER: (1.0, 0.0)},
  "reflectance": {"reflectance x 10000": (1.0, 0.0), "reflectance": (1e4, 0.0)},
  "temperature": {"K": (1.0, 0.0), "°C": (1.0, 273.15)},
  "precipitation": {"m": (1.0, 0.0), "mm": (1e-3, 0.0)},
  "elevation": {"m": (1.0, 0.0)},
  "slope": {"degrees": (1.0, 0.0)},
  "index": {"1": (1.0, 0.0), "x 10000": (1e-4, 0.0)},
  "class": {"class": (1.0, 0.0)},
  "water": {"0.1 mm": (1.0, 0.0), "mm": (10.0, 0.0)},  # of TerraClimate, whose files are scaled by 0.1
  "radiance": {"nW/cm²/sr": (1.0, 0.0)},
  "population": {"people": (1.0, 0.0)},  # in a cell of LandScan
  "share": {"1": (1.0, 0.0), "%": (0.01, 0.0)},
}


class Band(NamedTuple):
  """A band of the input of an encoder.

  Attributes:
    position: on the last axis of the input.
    factor, summand: convert its unit to the first one in `UNITS`.
    power: whether it is power, of which 10 log10 is taken before that.
  """

  position: int
  factor: float = 1.0
  summand: float = 0.0
  power: bool = False


def match(
  encoder: str,
  own: Sequence[str],
  bands: Sequence[str],
  units: Sequence[str] = (),
  leave_out: Sequence[str] = (),
) -> dict[str, Band]:
  """Finds the bands of an encoder among those of a modality.

  Args:
    encoder: name of the encoder, for messages.
    own: names of the bands that the encoder knows.
    bands: names of the modality's bands.
    units: unit of each, empty if unknown; () if none is known.
    leave_out: bands of the modality that the encoder is not to read. Names that it has not are ignored.

  Returns:
    By the encoder's name, each band that the modality has.

  Raises:
    InputError: the encoder does not know a band or its unit, or two bands are the same one.
  """
  spelled = {_plain(spelling): name for name in own for spelling in (name, *SPELLINGS.get(name, ()))}
  used = {band: at for at, band in enumerate(bands) if band not in leave_out}
  if unknown := [band for band in used if _plain(band) not in spelled]:
    raise InputError(
      f"encoder {encoder} does not know the bands {', '.join(unknown)}; it knows {', '.join(own)}; "
      "leave_out names bands that it is not to read"
    )
  found: dict[str, Band] = {}
  for band, at in used.items():
    name = spelled[_plain(band)]
    if name in found:
      raise InputError(f"encoder {encoder}: {bands[found[name].position]} and {band} are both {name}")
    found[name] = Band(at, *_conversion(encoder, band, name, units[at] if units else ""))
  return found


def _plain(name: str) -> str:
  plain = re.sub(r"[\s_-]", "", name.lower())
  return re.sub(r"^b0(?=\d)", "b", plain)


def _conversion(encoder: str, band: str, name: str, unit: str) -> tuple[float, float, bool]:
  known = UNITS[QUANTITIES[name]]
  unit = unit or next(iter(known))
  if unit not in known:
    raise InputError(f"encoder {encoder}: {band} has the unit {unit!r}, it reads: {', '.join(known)}")
  return (*known[unit], unit == POWER)


def constants(
  found: Mapping[str, Band], own: Mapping[str, tuple[float, float]], size: int
) -> dict[str, np.ndarray]:
  """The normalisation of raw values that an encoder was trained with.

  Args:
    found: see `match`.
    own: `(offset, scale)` of each band of the encoder, in the first unit of `UNITS`.
    size: number of values on the last axis of the input. What is no band of the encoder is not changed.

  Returns:
    `offset` and `scale` `[size]` float32: the encoder reads (raw - offset) / scale. Power is not changed
    either; `from_power` normalises it.
  """
  offset, scale = np.zeros(size), np.ones(size)
  for name, band in found.items():
    if not band.power:
      offset[band.position] = (own[name][0] - band.summand) / band.factor
      scale[band.position] = own[name][1] / band.factor
  return {"offset": offset.astype(np.float32), "scale": scale.astype(np.float32)}


def from_power(x: jax.Array, found: Mapping[str, Band], own: Mapping[str, tuple[float, float]]) -> jax.Array:
  """Converts bands that are power to normalised decibels. Values that are not positive become missing."""
  x = jnp.asarray(x)
  for name, band in found.items():
    if band.power:
      power = x[..., band.position]
      offset, scale = own[name]
      decibels = 10.0 * jnp.log10(jnp.where(power > 0, power, jnp.nan))
      x = x.at[..., band.position].set((decibels - offset) / scale)
  return x
