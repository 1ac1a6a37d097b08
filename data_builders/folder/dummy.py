"""Writes a directory in the layout that the builder reads, for tests and to look at."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

SPLITS = ("train",) * 6 + ("validation",) * 2 + ("test",) * 4


def write_dummy(folder, seed: int = 0) -> dict[str, dict]:
  """Writes twelve fields of two crops, in official splits and three regions.

  `S1` are series of a length of their own with dates (`.npz`), which the third sample lacks; `photo` are
  images of whole numbers (`.npy`), which the fourth and the last lack; `soil` are three values of each, all
  in one file. The second sample has no target. The crop shows in every sensor.

  Args:
    folder: directory to write into; it is made.
    seed: of NumPy's generator.

  Returns:
    What was written: for each id its `S1`, `days`, `photo` and `soil`, None where there is none.
  """
  folder, rng = Path(folder), np.random.default_rng(seed)
  for view in ("S1", "photo"):
    (folder / view).mkdir(parents=True)
  rows, written = [["id", "split", "target", "group_region", "note"]], {}
  for i, split in enumerate(SPLITS):
    name, crop = f"field{i}", i % 2
    days = 19_000 + rng.choice(365, rng.integers(3, 7), replace=False)
    series = rng.normal(-12 + 3 * crop, 1.0, (len(days), 2)).astype(np.float32)
    photo = rng.integers(100 * crop, 100 * crop + 100, (6, 5, 3)).astype(np.uint8)
    soil = rng.normal(10.0 * crop, 1.0, 3)
    series, photo = None if i == 2 else series, None if i in (3, 11) else photo
    if series is not None:
      np.savez(folder / "S1" / f"{name}.npz", values=series, dates=days.astype("datetime64[D]"))
    if photo is not None:
      np.save(folder / "photo" / f"{name}.npy", photo)
    rows.append([name, split, "" if i == 1 else ("maize", "wheat")[crop], f"region{i % 3}", "seen in May"])
    written[name] = {"S1": series, "days": days, "photo": photo, "soil": soil}
  np.save(folder / "soil.npy", np.stack([sample["soil"] for sample in written.values()]))
  with open(folder / "samples.csv", "w", encoding="utf-8", newline="") as file:
    csv.writer(file).writerows(rows)
  return written
