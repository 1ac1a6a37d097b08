"""Dates in the conventions that people use, as days since 1970-01-01.

Every convention that has one meaning is read. What could mean two different days, or lies outside of the
years 1900 to 2100, is refused.
"""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Iterable

import numpy as np

from colearn_jax.types import InputError

FIRST, LAST = (datetime.date(year, *day) for year, *day in ((1900, 1, 1), (2100, 12, 31)))
EPOCH = datetime.date(1970, 1, 1)
EXCEL = (26_299, 65_746)  # days that a spreadsheet may count from 1900: 1972 to 2079 there, 2042 on from 1970
OWN = 934  # days since 1970 of the first Landsat image: smaller numbers count from a day that is not given
UNKNOWN = ("", "nan", "nat", "na", "n/a", "<na>", "null", "none")  # in a column of dates or degrees
EPOCHS = ((10**8, 86_400), (10**11, 86_400 * 10**3), (10**14, 86_400 * 10**6), (10**17, 86_400 * 10**9))

_YEAR = r"(?P<y>(?:19|20|21)\d\d)"
_TIME = r"(?:[T _]?\d{2}:?\d{2}(?::?\d{2}(?:[.,]\d+)?)?)"
_ZONE = r"(?P<zone>\s*(?:Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))"
_ISO = re.compile(rf"{_YEAR}(?P<s>[-./_]?)(?P<m>\d\d?)(?P=s)(?P<d>\d\d?)(?P<time>{_TIME}{_ZONE}?)?", re.I)
_DAY_OF_YEAR = re.compile(rf"{_YEAR}[-./_]?(?P<n>\d{{3}})(?P<time>{_TIME}{_ZONE}?)?", re.I)
_WEEK = re.compile(r"\d{4}-?W\d\d-?\d", re.I)
_DIGITS = re.compile(r"((?:19|20)\d{6})(\d\d)(\d\d)?(\d\d)?")  # 2018011510, 201801151030, 20180115103021
_HOUR = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])[0-3]\d[0-2]\d")  # 2018011510
_NUMBER = re.compile(r"\d{7,8}\.0+|\d{9,}(?:\.0+)?|\d(?:\.\d+)?e\+?\d\d?", re.I)
_SINCE = re.compile(r"(?P<unit>nanosec\w*|ns)\s+since\b", re.I)
_YEAR_LAST = re.compile(r"\d\d?[-./ ]\d\d?[-./ ]\d{2,4}(?:\s.*)?")
_IN_NAME = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)([01]\d)\2([0-3]\d)(?!\d)")
_DAY_IN_NAME = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_.]?([0-3]\d\d)(?!\d)")


def to_days(dates, where: str, units: str | None = None, calendar: str | None = None) -> np.ndarray:
  """Dates as days since 1970-01-01, `[T]` int32; a moment is its day in UTC.

  Args:
    dates: NumPy datetimes; date objects of Python, pandas or cftime; texts such as 2018-01-15,
      2018-01-15T10:30:00+02:00, 20180115, 2018.01.15 or 2018-015 (day of the year); the numbers 20180115,
      2018015, 2018011510 (with the hour) and 201801151030; days, seconds, milliseconds, microseconds or
      nanoseconds since 1970-01-01.
    where: what messages call the place of these dates.
    units: of numbers, as the CF conventions write it: `days since 2015-06-30`.
    calendar: of numbers with units, as in the CF conventions.

  Raises:
    InputError: a date is missing, no day, ambiguous, or outside of 1900 to 2100.
  """
  dates = np.asarray(dates)
  if dates.ndim != 1:
    raise InputError(f"{where}: its dates have shape {dates.shape}, not one date for each time step")
  if units and dates.dtype.kind in "iuf":
    dates = _decode(dates, units, calendar, where)
  if dates.dtype.kind == "M":
    if dates.size and np.datetime_data(dates.dtype)[0] in ("Y", "M", "W"):
      raise InputError(f"{where}: its dates are years, months or weeks, such as {dates[0]}; write days")
    if np.isnat(dates).any():
      raise InputError(f"{where}: a date is missing (NaT)")
    days = dates.astype("datetime64[D]").astype(np.int64).tolist()
  elif dates.dtype.kind in "iuf":
    _check_precision(dates, where)
    days = _numbers(dates, where)
  else:
    days = [_day(value, where) for value in dates.tolist()]
  for value, day in zip(dates.tolist(), days):
    if not (FIRST - EPOCH).days <= day <= (LAST - EPOCH).days:
      shown = repr(value) if isinstance(value, str | int | float) else value
      raise InputError(f"{where}: the date {shown} is outside of {FIRST.year} to {LAST.year}")
  return np.array(days, np.int32)


def to_iso(day: int) -> str:
  """A number of days since 1970-01-01 as 2018-01-15."""
  return (EPOCH + datetime.timedelta(days=int(day))).isoformat()


def in_name(name: str) -> int | None:
  """The first date in a file's name, e.g. S2A_MSIL2A_20230501T103621_N0509.tif; None if there is none."""
  for pattern, read in ((_IN_NAME, (1, 3, 4)), (_DAY_IN_NAME, (1, 2))):
    for match in pattern.finditer(name):
      parts = [int(match[i]) for i in read]
      if (day := _calendar(*parts) if len(parts) == 3 else _of_year(*parts)) is not None:
        return day
  return None


def _calendar(year: int, month: int, day: int) -> int | None:
  try:
    return (datetime.date(year, month, day) - EPOCH).days
  except ValueError:
    return None


def _of_year(year: int, number: int) -> int | None:
  first = (datetime.date(year, 1, 1) - EPOCH).days
  return first + number - 1 if 1 <= number <= (datetime.date(year, 12, 31) - EPOCH).days - first + 1 else None


def _day(value, where: str) -> int:
  """One date that is text or an object."""
  if isinstance(value, bytes):
    value = value.decode("utf-8", "replace")
  if isinstance(value, str):
    return _text(value.strip(), where)
  if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
    raise InputError(f"{where}: a date is missing")
  if hasattr(value, "freqstr") and value.freqstr not in ("D", "B", "h", "min", "s"):  # a period of pandas
    raise InputError(f"{where}: {value} is a period of many days; write days")
  if isinstance(value, datetime.datetime) and value.tzinfo is not None:
    value = value.astimezone(datetime.UTC)
  if isinstance(value, int | float) and not isinstance(value, bool):
    return _numbers(np.array([value]), where)[0]
  parts = [getattr(value, name, None) for name in ("year", "month", "day")]  # cftime's objects have them too
  known = [part for part in parts if isinstance(part, int)]
  day = _calendar(*known) if len(known) == 3 else None
  if day is None:
    raise InputError(_no_day(value, where))
  return day


def _text(text: str, where: str) -> int:
  if _HOUR.fullmatch(text):
    return _numbers(np.array([int(text)], np.int64), where)[0]
  if match := _ISO.fullmatch(text):
    whole = match["s"] or len(match["m"]) == len(match["d"]) == 2  # 2018115 may be 15 January or day 115
    day = _calendar(int(match["y"]), int(match["m"]), int(match["d"])) if whole else None
  elif match := _DAY_OF_YEAR.fullmatch(text):
    day = None
  elif _YEAR_LAST.fullmatch(text):
    raise InputError(f"{where}: {text!r} may mean two days; write dates as 2018-01-15, the year first")
  elif _WEEK.fullmatch(text):
    return (datetime.date.fromisoformat(text.upper()) - EPOCH).days
  elif _NUMBER.fullmatch(text):  # with decimals: a column with gaps as pandas writes it; 1.5e12: Earth Engine
    return _numbers(np.array([int(decimal.Decimal(text))], np.int64), where)[0]
  else:
    raise InputError(_no_day(text, where))
  if day is None and (match := _DAY_OF_YEAR.fullmatch(text)):
    day = _of_year(int(match["y"]), int(match["n"]))
  if day is None:
    raise InputError(_no_day(text, where))
  day += _later(match["time"], text, where)
  if match["zone"] and (hours := re.search(r"([+-])(\d{2}):?(\d{2})?$", match["zone"])):
    digits = re.sub(r"\D", "", match["time"])
    minutes = int(hours[2]) * 60 + int(hours[3] or 0)
    local = int(digits[:2]) * 60 + int(digits[2:4])
    day += (local - minutes * (-1 if hours[1] == "-" else 1)) // 1440
  return day


def _later(time: str | None, text: str, where: str) -> int:
  """How many days after its date a time of a day is: 1 for 24:00, else 0. InputError if there is none."""
  clock = [int(part) for part in re.findall(r"\d\d", (time or "00")[:9].partition(".")[0])[:3]]
  hour, minute, second = (*clock, 0, 0)[:3]
  if (hour, minute, second) == (24, 0, 0):
    return 1
  if hour > 23 or minute > 59 or second > 60:
    raise InputError(_no_day(text, where))
  return 0


def _check_precision(numbers: np.ndarray, where: str) -> None:
  """Raises InputError for days that a float is too short for: float32 has 20180116 and 20180118 alone."""
  if numbers.dtype.kind != "f" or numbers.dtype.itemsize > 4:
    return
  bits = np.finfo(numbers.dtype).nmant + 1
  most = float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0))
  if most > 2**bits and (most < EPOCHS[0][0] or numbers.dtype.itemsize == 2):
    raise InputError(
      f"{where}: its dates are {numbers.dtype}, which cannot hold {most:.0f} exactly; write integers"
    )


def _with_hours(values: list[int]) -> list[int | None] | None:
  """The days of numbers that end with the hour, the minute and the second; None if they are no such."""
  matches = [_DIGITS.fullmatch(str(value)) for value in values]
  parts = [[int(part or 0) for part in match.groups()] for match in matches if match]
  if len(parts) < len(values) or any(h > 23 or m > 59 or s > 60 for _, h, m, s in parts):
    return None
  if all(value % (86_400 * 10**3) == 0 for value in values):  # midnights in milliseconds
    return None
  days = [_calendar(day // 10_000, day // 100 % 100, day % 100) for day, *_ in parts]
  return None if None in days else days


def _numbers(numbers: np.ndarray, where: str) -> list[int]:
  """Numbers without units: all of them are of one convention, the only one in which they are plausible."""
  if not np.isfinite(numbers).all():
    raise InputError(f"{where}: a date is missing (NaN)")
  values = [int(value) for value in numbers.tolist()]
  if values != numbers.tolist():
    raise InputError(_no_day(numbers.tolist()[0], where))
  least, most = min(values, default=0), max(values, default=0)
  say = f"{where}: numbers such as {values[0] if values else 0} may be"
  if not values:
    return []
  days: list[int | None]
  if 19_000_000 <= least and most < 22_000_000:
    days = [_calendar(value // 10_000, value // 100 % 100, value % 100) for value in values]
  elif 1_900_000 <= least and most < 2_200_000:
    days = [_of_year(value // 1000, value % 1000) for value in values]
  elif (hourly := _with_hours(values)) is not None:
    days = hourly
  elif least >= EPOCHS[0][0]:
    unit = next(unit for lower, unit in reversed(EPOCHS) if least >= lower)
    days = [value // unit for value in values]
  elif 0 <= least and most <= 366:
    raise InputError(f"{say} days of a year that is not given; write 2018-01-15 or 2018-015")
  elif 1900 <= least and most <= 2100:
    raise InputError(f"{say} years; write days as 2018-01-15")
  elif EXCEL[0] <= most <= EXCEL[1]:
    raise InputError(f"{say} days since 1970 or since 1900; write 2018-01-15")
  elif least < OWN:
    raise InputError(f"{say} days since a day that is not given; write 2018-01-15")
  else:
    days = list(values)
  out = [day for day in days if day is not None]
  if len(out) < len(days):
    raise InputError(_no_day(values[days.index(None)], where))
  return out


def _decode(numbers: np.ndarray, units: str, calendar: str | None, where: str) -> np.ndarray:
  """Numbers with the units and the calendar of the CF conventions, as objects with year, month and day.

  `day as %Y%m%d.%f`, which CDO writes, are the numbers 20180115.
  """
  if np.ma.is_masked(numbers) or not np.isfinite(numbers).all():
    raise InputError(f"{where}: a date is missing")
  if re.match(r"day as %Y%m%d", units):
    return np.floor(numbers)
  if _SINCE.match(units):  # cftime counts microseconds
    numbers, units = numbers // 1000, _SINCE.sub("microseconds since", units)
  units = re.sub(r"(since\s+\d{4})/(\d\d?)/(\d\d?)\b", r"\1-\2-\3", units)
  say = f"{where}: its dates in {units!r} cannot be read; write 'days since 2018-01-15', or 2018-01-15"
  if re.search(r"since\s+\d\d?[-./]\d\d?[-./]\d{4}", units):
    raise InputError(f"{say} (the year comes first)")
  try:
    import cftime
  except ImportError:
    raise InputError(
      f"{where}: dates in {units!r} are read with cftime: pip install 'colearn_jax[zarr]'"
    ) from None
  try:
    return np.asarray(cftime.num2date(numbers, units, calendar or "standard"), object)
  except (ValueError, TypeError, OverflowError) as error:
    why = " ".join(str(error).split())
    raise InputError(say + f" ({why})" * (len(why) < 90)) from error


def _no_day(value, where: str) -> str:
  return f"{where}: its dates are no days such as 2018-01-15: {value!r}"


def column(cells: Iterable, where) -> list[str]:
  """The dates of a table's column as 2018-01-15, empty where a cell is; `where(i)` names a sample."""
  unknown = lambda cell: cell is None or cell != cell or str(cell).lower() in UNKNOWN
  return ["" if unknown(cell) else to_iso(to_days([cell], where(i))[0]) for i, cell in enumerate(cells)]
