"""Times: FITS time strings, UTC and TAI, and the regular grid of slots.

Inside the package a time is a ``numpy.datetime64[ns]`` in UTC. Such a clock has no name for the second 23:59:60 of a
leap second; times inside it are mapped to the last nanosecond before midnight, which is at most one second off.
TAI appears only at the boundary: ``T_REC`` of HMI and JSOC queries. Leap seconds come from the table that ships with
pyerfa (IERS Bulletin C), so nothing is downloaded.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

import erfa
import numpy as np

_PATTERN = re.compile(
    r"^\s*(\d{4})[.\-/](\d{2})[.\-/](\d{2})(?:[T_ ](\d{2}):(\d{2})(?::(\d{2})(\.\d*)?)?)?\s*(?:_?(TAI|UTC|UT|Z))?\s*$",
    re.IGNORECASE,
)
_SECOND = np.timedelta64(1_000_000_000, "ns")
_DAY_SECONDS = 86400
YEARS = range(1678, 2262)
"""Whole years that ``datetime64[ns]`` can hold; beyond them it runs over without a word."""


@lru_cache(maxsize=1)
def _leap_table() -> tuple[np.ndarray, np.ndarray]:
    """Return the UTC instants from which TAI - UTC holds, and TAI - UTC in whole seconds, since 1972."""
    table = erfa.leap_seconds.get()
    table = table[table["year"] >= 1972]
    instants = np.array([f"{row['year']:04d}-{row['month']:02d}-01" for row in table], dtype="datetime64[ns]")
    return instants, table["tai_utc"].astype(np.int64)


def tai_minus_utc(time: Any) -> Any:
    """Return TAI - UTC in whole seconds at UTC times of 1972 or later."""
    instants, offsets = _leap_table()
    index = np.searchsorted(instants, time, side="right") - 1
    if np.any(index < 0):
        raise ValueError(f"TAI - UTC is a whole number only since 1972; got {np.min(time)}")
    return offsets[index]


def utc_to_tai(time: Any) -> Any:
    """Convert UTC to TAI, both as ``datetime64[ns]``."""
    return time + tai_minus_utc(time) * _SECOND


def tai_to_utc(time: Any) -> Any:
    """Convert TAI to UTC, both as ``datetime64[ns]``; inside a leap second the last nanosecond before it is given."""
    instants, offsets = _leap_table()
    starts_tai = instants + offsets * _SECOND
    index = np.searchsorted(starts_tai, time, side="right") - 1
    if np.any(index < 0):
        raise ValueError(f"TAI - UTC is a whole number only since 1972; got {np.min(time)} TAI")
    utc = time - offsets[index] * _SECOND
    next_start = np.append(instants[1:], np.datetime64("2262-01-01", "ns"))[index]
    return np.minimum(utc, next_start - np.timedelta64(1, "ns"))


def parse_fits_time(text: str, scale: Literal["utc", "tai"] | None = None) -> np.datetime64:
    """Read a time as AIA, HMI or EVE headers write it.

    Parameters
    ----------
    text : str
        For example ``2011-02-15T00:00:00.34Z`` or ``2011.02.15_00:00:00_TAI``. Seconds may read 60: that is the leap
        second where there was one, and the next minute otherwise (the pipelines round ``59.996`` up).
    scale : {"utc", "tai"}, optional
        Time scale. By default the suffix decides, and no suffix means UTC.

    Returns
    -------
    numpy.datetime64
        UTC, nanosecond unit.

    Raises
    ------
    ValueError
        If the text is not a time, or one of a year that cannot be held.
    """
    match = _PATTERN.match(text)
    if match is None:
        raise ValueError(f"not a FITS time: {text!r}")
    year, month, day, hour, minute, second, fraction, suffix = match.groups()
    if scale is None:
        scale = "tai" if (suffix or "").upper() == "TAI" else "utc"
    whole = int(second or 0)
    if int(year) not in YEARS or int(hour or 0) > 23 or int(minute or 0) > 59 or whole > 60:
        raise ValueError(f"not a FITS time: {text!r}")
    nanoseconds = round(float("0" + (fraction or ".0")) * 1e9)
    start = np.datetime64(f"{year}-{month}-{day}T{hour or '00'}:{minute or '00'}:00", "ns")
    time = start + np.timedelta64(whole * 1_000_000_000 + nanoseconds, "ns")
    if scale == "tai":
        return tai_to_utc(time)
    if whole == 60 and tai_minus_utc(time) != tai_minus_utc(start):
        return start + np.timedelta64(60 * 1_000_000_000 - 1, "ns")
    return time


def format_fits_time(time: np.datetime64, digits: int = 2) -> str:
    """Write a UTC time as ``YYYY-MM-DDTHH:MM:SS.ss``, rounded to `digits` decimals of a second."""
    step = 10 ** (9 - digits)
    rounded = (time.astype("datetime64[ns]").astype(np.int64) + step // 2) // step * step
    return str(np.datetime64(int(rounded), "ns"))[: 20 + digits if digits else 19]


def slots_per_day(cadence_s: int) -> int:
    """Return the number of slots in a day.

    Raises
    ------
    ValueError
        If the cadence does not divide a day: the grid would then drift against the calendar.
    """
    if cadence_s <= 0 or _DAY_SECONDS % cadence_s:
        raise ValueError(f"cadence of {cadence_s} s does not divide a day of {_DAY_SECONDS} s")
    return _DAY_SECONDS // cadence_s


def year_slots(year: int, cadence_s: int) -> int:
    """Return the number of slots in a year."""
    days = (np.datetime64(f"{year + 1}-01-01") - np.datetime64(f"{year}-01-01")).astype(int)
    return int(days) * slots_per_day(cadence_s)


def slot_times(year: int, cadence_s: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Return the UTC times of slots ``start`` to ``stop`` of a year, shape (stop - start,), ``datetime64[ns]``."""
    stop = year_slots(year, cadence_s) if stop is None else stop
    steps = np.arange(start, stop, dtype=np.int64) * (cadence_s * 1_000_000_000)
    times: np.ndarray = np.datetime64(f"{year}-01-01", "ns") + steps.astype("timedelta64[ns]")
    return times


def slot_index(time: np.datetime64, cadence_s: int, round_up: bool = False) -> tuple[int, int]:
    """Return (year, index) of the slot at or before a UTC time, or at or after it with `round_up`."""
    year = int(str(time.astype("datetime64[Y]")))
    elapsed = int((time.astype("datetime64[ns]") - np.datetime64(f"{year}-01-01", "ns")).astype(np.int64))
    step = cadence_s * 1_000_000_000
    return year, -(-elapsed // step) if round_up else elapsed // step
