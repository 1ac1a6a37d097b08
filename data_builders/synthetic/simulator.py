"""Simulates agricultural fields as Sentinel-1, Sentinel-2 and a weather station would observe them.

The latent factors of a field are drawn first. Then a model of each sensor computes its observations:

- growth: a double-logistic leaf area index over the year (Fisher et al. 2006, doi 10.1016/j.rse.2005.10.022);
- Sentinel-2: leaf, senescent and soil spectra mixed by the canopy's gap fraction (Beer-Lambert law, for
  canopies Monsi & Saeki 1953), the soil darkened by its moisture (Lobell & Asner 2002, doi
  10.2136/sssaj2002.7220), then haze, and clouds as NaN;
- Sentinel-1: the water cloud model (Attema & Ulaby 1978, doi 10.1029/RS013i002p00357) over a soil whose
  backscatter grows with moisture and roughness, under gamma speckle;
- soil moisture: a monthly bucket filled by rain and emptied by evaporation.

`LATENTS` lists which sensors observe each factor and whether the factor depends on the crop. It can be
compared with learnt shared and sensor-specific features. The numbers are plausible, but not calibrated to a
place. Shapes: N fields, T = 12 months, C bands.
"""

from __future__ import annotations

import numpy as np

# For each crop its share of the fields, the days of year of half green-up and half senescence, their rates
# (1/day), the maximum leaf area index, and the means of the two traits that only one sensor observes. The
# crops are pairs by design: wheat and barley differ only in structure (radar), maize and sunflower only in
# pigment (optical), sugar beet and potato in the date of senescence (both).
CROPS = {
  #                  share, up,  down, rate up, rate down, LAI, pigment, structure
  "winter_wheat": (0.24, 105.0, 195.0, 0.06, 0.10, 5.0, 0.0, -1.0),
  "winter_barley": (0.13, 105.0, 195.0, 0.06, 0.10, 5.0, 0.0, 1.0),
  "maize": (0.22, 175.0, 262.0, 0.08, 0.08, 4.5, -1.0, 0.0),
  "sunflower": (0.12, 175.0, 262.0, 0.08, 0.08, 4.5, 1.0, 0.0),
  "sugar_beet": (0.15, 150.0, 305.0, 0.06, 0.06, 4.0, 0.0, 0.0),
  "potato": (0.14, 150.0, 235.0, 0.06, 0.06, 4.0, 0.0, 0.0),
}

# factor: (sensors whose series depend on it, whether its distribution depends on the crop, meaning and unit)
LATENTS = {
  "sowing_shift": (("S1", "S2"), False, "days that the field's season starts after its crop's usual day"),
  "season_end": (("S1", "S2"), True, "day of year at which half of the canopy has died back"),
  "vigour": (("S1", "S2"), False, "leaf area relative to the crop's usual one"),
  "pigment": (("S2",), True, "leaf colour, standard deviations towards pale and yellow"),
  "structure": (("S1",), True, "stems and heads, standard deviations towards cross-polarising canopies"),
  "soil_moisture_mean": (("S1", "S2"), False, "mean over the year, share of the pore space"),
  "soil_brightness": (("S2",), False, "reflectance of the dry soil relative to the usual one"),
  "cloudiness": (("S2",), False, "probability that a month has no clear image"),
  "haze": (("S2",), False, "mean path reflectance in the blue band"),
  "incidence": (("S1",), False, "incidence angle, degrees"),
  "roughness": (("S1",), False, "effect of the soil's roughness on its backscatter, dB"),
  "row_direction": (("S1",), False, "angle between rows and radar beam, degrees"),
  "field_size": (("S1",), False, "hectares; larger fields have less speckle"),
}

S1_BANDS = ("VV", "VH")
S2_BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
WEATHER_BANDS = ("temperature", "precipitation")
TERRAIN_BANDS = ("elevation", "slope")

DAYS = 15.2 + 30.4 * np.arange(12)  # the middle of each month, day of year

# Reflectances in the order of S2_BANDS. The pale leaf has less chlorophyll.
GREEN_LEAF = np.array([0.030, 0.070, 0.035, 0.105, 0.300, 0.390, 0.430, 0.450, 0.210, 0.100])
PALE_LEAF = np.array([0.032, 0.102, 0.062, 0.150, 0.315, 0.390, 0.430, 0.450, 0.212, 0.102])
DEAD_LEAF = np.array([0.060, 0.095, 0.130, 0.170, 0.210, 0.240, 0.270, 0.290, 0.350, 0.260])
DRY_SOIL = np.array([0.090, 0.120, 0.155, 0.180, 0.200, 0.215, 0.235, 0.250, 0.330, 0.300])
WAVELENGTH = np.array([0.490, 0.560, 0.665, 0.705, 0.740, 0.783, 0.842, 0.865, 1.610, 2.190])  # µm


def leaf_area(days, start, end, rate_up, rate_down, peak):
  """Leaf area index by the double logistic of Fisher et al. 2006, without its winter level.

  Args:
    days: day of year, (T,).
    start: day of half green-up, (N,).
    end: day of half senescence, (N,).
    rate_up: 1/day, (N,).
    rate_down: 1/day, (N,).
    peak: maximum leaf area index, m²/m², (N,).

  Returns:
    Leaf area index, (N, T), never negative.
  """
  up = 1 / (1 + np.exp(-rate_up[:, None] * (days - start[:, None])))
  down = 1 / (1 + np.exp(-rate_down[:, None] * (days - end[:, None])))
  return peak[:, None] * np.maximum(up - down, 0)


def bucket(rain, temperature, first, capacity=150.0):
  """Soil moisture by a monthly bucket model: dm = (rain - evaporation m) / capacity, clipped to 0.05 to 0.95.

  Args:
    rain: mm a month, (N, T).
    temperature: °C, (N, T). Potential evaporation is 4 mm a month per degree above -5 °C.
    first: moisture before the first month, share of the pore space, (N,).
    capacity: mm of water between empty and full.

  Returns:
    Soil moisture, share of the pore space, (N, T).
  """
  moisture, series = first, []
  for month in range(rain.shape[1]):
    evaporation = 4.0 * np.maximum(temperature[:, month] + 5, 0)
    moisture = np.clip(moisture + (rain[:, month] - evaporation * moisture) / capacity, 0.05, 0.95)
    series.append(moisture)
  return np.stack(series, axis=1)


def canopy_reflectance(lai, dead, pale, moisture, brightness, extinction=0.5):
  """Top-of-canopy reflectance, a mixture of leaves and of soil that is visible through gaps.

  With the gap fraction exp(-k LAI) of the Beer-Lambert law, ρ = (1 - gap) ρ_leaf + gap ρ_soil. The leaf is a
  mixture of green, pale and dead tissue. Wet soil is darker (Lobell & Asner 2002).

  Args:
    lai: leaf area index, (N, T).
    dead: share of the leaf area that is senescent, (N, T).
    pale: share of the live tissue that is pale, (N,). Values outside of 0 to 1 extrapolate.
    moisture: soil moisture, share of the pore space, (N, T).
    brightness: relative brightness of the dry soil, (N,).
    extinction: k; the default is for leaves of random orientation, seen from above.

  Returns:
    Reflectance, (N, T, 10), in the order of `S2_BANDS`.
  """
  gap = np.exp(-extinction * lai)[..., None]
  live = GREEN_LEAF + pale[:, None, None] * (PALE_LEAF - GREEN_LEAF)
  leaf = live + dead[..., None] * (DEAD_LEAF - live)
  soil = brightness[:, None, None] * DRY_SOIL * (1 - 0.5 * moisture[..., None])
  return (1 - gap) * leaf + gap * soil


def backscatter(water, moisture, roughness, incidence, row_direction, structure):
  """Backscatter by the water cloud model of Attema & Ulaby 1978, before speckle.

  σ° = A V cosθ (1 - τ²) + σ°_soil τ² with τ² = exp(-2 B V / cosθ), where V is the canopy's water. Structure
  moves power from VV to VH: it scales A of the two in opposite directions. The angle of crop rows changes VV
  of bare soil.

  Args:
    water: canopy water V, kg/m², (N, T).
    moisture: soil moisture, share of the pore space, (N, T).
    roughness: dB, (N,).
    incidence: θ, degrees, (N,).
    row_direction: degrees, (N,).
    structure: standard deviations, (N,).

  Returns:
    Backscatter coefficient, linear, (N, T, 2): VV, VH.
  """
  cos = np.cos(np.radians(incidence))[:, None]
  rows = 1.0 * np.cos(np.radians(2 * row_direction))[:, None]
  soil_vv = -17.0 + 12.0 * moisture + roughness[:, None] - 0.15 * (incidence[:, None] - 37.5) + rows
  soil_vh = -26.0 + 9.0 * moisture + 1.5 * roughness[:, None] - 0.10 * (incidence[:, None] - 37.5)
  scale = 10 ** (0.12 * structure[:, None])
  bands = []
  for soil, a, b in ((soil_vv, 0.055 / scale, 0.25), (soil_vh, 0.020 * scale, 0.22)):
    through = np.exp(-2 * b * water / cos)
    bands.append(a * water * cos * (1 - through) + 10 ** (soil / 10) * through)
  return np.stack(bands, axis=-1)


def simulate(regions=50, fields_per_region=100, seed=2025, sharedness=0.0):
  """Draws fields, region by region, and simulates their observations.

  `sharedness` s couples the traits `pigment` and `structure`, each of which one sensor observes. Crops that
  differ in one trait by d differ in the other by s d. The correlation of the traits within a crop is s. So
  with 0 each trait is known to one sensor only, and with 1 both sensors observe the same number.

  Args:
    regions: number of regions. Climate, altitude and soil are similar within a region.
    fields_per_region: number of fields in each region.
    seed: seed of NumPy's generator.
    sharedness: from 0 to 1.

  Returns:
    A dict: `target` (N,) int64, index into `CROPS`; `region` (N,) int64; `views`, a dict of float32 arrays:
    `S1` (N, 12, 2) dB, `S2` (N, 12, 10) reflectance and `S2VI` (N, 12, 1) NDVI, both NaN in cloudy months,
    `weather` (N, 12, 2) °C and mm a month, `terrain` (N, 2) m and degrees; `latent`, a dict of float32 (N,)
    with the names of `LATENTS`.
  """
  rng = np.random.default_rng(seed)
  count = regions * fields_per_region
  region = np.repeat(np.arange(regions), fields_per_region)
  share, start, end, rate_up, rate_down, peak, pigment, structure = np.array(list(CROPS.values())).T
  pigment, structure = pigment + sharedness * structure, structure + sharedness * pigment
  crop = rng.choice(len(CROPS), size=count, p=share)

  # Terrain and weather, which do not depend on the crop.
  altitude = rng.gamma(2.0, 120.0, regions)
  elevation = np.maximum(altitude[region] + rng.normal(0, 30, count), 0)
  slope = rng.gamma(1.5, 1.5, count)
  season = -np.cos(2 * np.pi * (DAYS - 20) / 365)
  temperature = rng.normal(10, 1.5, regions)[region, None] + 9 * season - 0.0065 * elevation[:, None]
  temperature = temperature + rng.normal(0, 1.0, (regions, 12))[region] + rng.normal(0, 0.3, (count, 12))
  rain = rng.gamma(4.0, 15.0, (regions, 12))[region] * rng.lognormal(0, 0.15, (count, 12))
  moisture = bucket(rain, temperature, rng.uniform(0.4, 0.8, count))

  # The field and its crop.
  warmth = temperature.mean(axis=1) - 9  # colder places are later
  sowing_shift = rng.normal(0, 8, count)
  season_start = start[crop] + sowing_shift - 3.0 * warmth
  season_end = end[crop] + 0.6 * sowing_shift - 3.0 * warmth + rng.normal(0, 7, count)
  vigour = rng.lognormal(0, 0.22, count)
  lai = leaf_area(DAYS, season_start, season_end, rate_up[crop], rate_down[crop], peak[crop] * vigour)
  dead = 1 / (1 + np.exp(-0.07 * (DAYS - season_end[:, None] + 5)))
  deviation = rng.normal(0, 0.5, (2, count))
  latent = {
    "sowing_shift": sowing_shift,
    "season_end": season_end,
    "vigour": vigour,
    "pigment": pigment[crop] + deviation[0],
    "structure": structure[crop] + sharedness * deviation[0] + np.sqrt(1 - sharedness**2) * deviation[1],
    "soil_moisture_mean": moisture.mean(axis=1),
    "soil_brightness": rng.lognormal(0, 0.15, regions)[region] * rng.lognormal(0, 0.15, count),
    "cloudiness": rng.beta(2.0, 5.5, count),
    "haze": rng.gamma(2.0, 0.008, count),
    "incidence": rng.uniform(30, 45, count),
    "roughness": rng.normal(0, 0.8, count),
    "row_direction": rng.uniform(0, 180, count),
    "field_size": rng.lognormal(1.0, 0.8, count),
  }

  # Sentinel-2: haze decreases with the wavelength. Instrument and processing add 2 % of noise.
  clear = canopy_reflectance(lai, dead, 0.5 + 0.5 * latent["pigment"], moisture, latent["soil_brightness"])
  haze = latent["haze"][:, None] * rng.gamma(2.0, 0.5, (count, 12))
  s2 = clear * rng.normal(1, 0.02, clear.shape) + haze[..., None] * (WAVELENGTH / WAVELENGTH[0]) ** -1.3
  s2 = np.clip(s2, 1e-4, 1.0)
  s2[rng.random((count, 12)) < latent["cloudiness"][:, None]] = np.nan
  red, infrared = s2[..., S2_BANDS.index("B4")], s2[..., S2_BANDS.index("B8")]
  ndvi = (infrared - red) / (infrared + red)

  # Sentinel-1: canopy water is proportional to the live leaf area. Speckle has a gamma distribution, whose
  # number of looks grows with the field's size.
  water = 0.7 * lai * (1 - 0.6 * dead)
  names = ("roughness", "incidence", "row_direction", "structure")
  power = backscatter(water, moisture, **{name: latent[name] for name in names})
  looks = np.clip(10 + 10 * latent["field_size"], 10, 150)[:, None, None]
  s1 = 10 * np.log10(power * rng.gamma(looks, 1 / looks, power.shape))

  views = {
    "S1": s1,
    "S2": s2,
    "S2VI": ndvi[..., None],
    "weather": np.stack([temperature, rain], axis=-1),
    "terrain": np.stack([elevation, slope], axis=-1),
  }
  return {
    "target": crop,
    "region": region,
    "views": {name: view.astype(np.float32) for name, view in views.items()},
    "latent": {name: values.astype(np.float32) for name, values in latent.items()},
  }
