"""Daily solar radio flux from the text of a file: F10.7 of Penticton, F30 of Toyokawa and Nobeyama, and their kin.

Formats
-------
Comma-separated text with a header; blank lines and those that begin with ``#`` do not count. Two kinds are known:

==========================  =========================================================================================
``date, f107``              one value a day (SDO-FM's ``f10.7.csv``); days without a value are a bare date
``time (...), ...``         LISIRD of LASP (https://lasp.colorado.edu/lisird): ``penticton_radio_flux`` with
                            ``observed_flux`` and ``adjusted_flux``, three times a day; ``cls_radio_flux_f30``, ``_f107``,
                            ... of CLS with ``absolute_f30`` and ``adjusted_f30``, once a day (and ``_c``, ``_p``, ``_f``:
                            corrected value, uncertainty, flag); names have their units behind them
==========================  =========================================================================================

Times are UTC. Their form is read from the units that LISIRD writes into the header, and never guessed from a number:

- ``Julian Date``;
- ``<days, hours, minutes, seconds or milliseconds> since <date>``;
- a pattern of year, month, day and perhaps hour, minute, second in this order (``yyyy MM dd``, ``yyyyMMdd``,
  ``yyyy-MM-dd'T'HH:mm:ss.SSS``, ``yyyyMMdd_HHmmss.SSS``), padded with zeros or not;
- no units: ``yyyymmdd``, or ISO 8601 with or without the time.

Flux is in solar flux units, 1 sfu = 1e-22 W m-2 Hz-1. Absent, blank, NaN and non-positive values (0 and -99999 stand for
"none" in published files) are missing.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

PENTICTON_NOON_HOUR = 20.0
"""Local noon at Penticton, 119.6 degrees west, in UT hours: the middle one of its three daily observations."""
_UNIX_EPOCH_JD = 2440587.5  # Julian date of 1970-01-01T00:00
_DAY = 86400
_YEARS = (1940, 2200)  # the longest record, Penticton's, begins in 1947; other years mean that units were misread
_SECONDS = {"millisecond": 1e-3, "second": 1.0, "minute": 60.0, "hour": 3600.0, "day": float(_DAY)}
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)(?:[T _]?(\d\d)(\d\d)(?:(\d\d)(?:\.\d*)?)?)?Z?")
_SPACED = re.compile(r"(\d{4})[-/ ](\d\d?)[-/ ](\d\d?)(?:[T _](\d\d?):(\d\d)(?::(\d\d)(?:\.\d*)?)?)?Z?")
_SINCE = re.compile(r"(millisecond|second|minute|hour|day)s? since (.+)", re.IGNORECASE)
_NAMED = re.compile(r"(?:(?:observed|absolute|adjusted)_)?f(\d+(?:[._]\d+)?)(?:_[a-z]+)?", re.IGNORECASE)
# Flux as it arrives at the Earth goes before flux adjusted to one astronomical unit.
_PREFERRED = ("", "observed_", "absolute_", "adjusted_")


@dataclass(frozen=True, eq=False)
class RadioFlux:
    """Solar radio flux, one value a day.

    Attributes
    ----------
    times : ndarray of datetime64[D]
        All UTC days from the first to the last of the file, without a gap, shape (n,).
    values : ndarray of float64
        Flux in sfu, shape (n,); NaN where the file has none.
    quantity : str
        What it is, e.g. ``F10.7`` or ``F30``.
    column : str
        Column of the file it was read from.
    rows : int
        Lines of data in the file.
    repeated : int
        Values left out because another line had the same time and value.
    conflicting : int
        Times for which lines disagree; their mean is taken.
    other_hours : int
        Values left out because another one of their day was nearer to local noon.
    """

    times: np.ndarray
    values: np.ndarray
    quantity: str
    column: str
    rows: int
    repeated: int
    conflicting: int
    other_hours: int

    @property
    def missing(self) -> int:
        """Return the number of days without a value between the first and the last."""
        return int(np.isnan(self.values).sum())

    def on_days(self, days: np.ndarray) -> np.ndarray:
        """Return the flux on UTC days.

        Parameters
        ----------
        days : ndarray of datetime64
            Days, or times within them, any shape.

        Returns
        -------
        ndarray of float64
            Flux in sfu, shape of `days`; NaN where the file has none, and before and after it.
        """
        places = (np.asarray(days).astype("datetime64[D]") - self.times[0]).astype(np.int64)
        inside = (places >= 0) & (places < self.times.size)
        return np.where(inside, self.values[np.where(inside, places, 0)], np.nan)


def read_radio_flux(
    text: str, *, column: str | None = None, quantity: str | None = None, noon_hour: float = PENTICTON_NOON_HOUR
) -> RadioFlux:
    """Read daily flux; formats on top of this module.

    Of several observations on a UTC day the one nearest to local noon counts, the earlier of two as near; those without
    a value do not take part. Nothing is interpolated.

    Parameters
    ----------
    text : str
        The file.
    column : str, optional
        Column of the flux, without its units. By default the only one that is named as a flux, and in files with
        several the flux as it arrives at the Earth (``observed_``, ``absolute_``).
    quantity : str, optional
        Name of the quantity; by default from the name of the column: ``f107`` is F10.7, ``f30`` is F30, and
        ``observed_flux`` or ``adjusted_flux`` Penticton's F10.7.
    noon_hour : float
        Local noon of the observatory, UT hours.

    Returns
    -------
    RadioFlux
        The flux of all days.

    Raises
    ------
    ValueError
        If the format is none of those known; the message names line and column.
    """
    lines = _lines(text)
    number, header = next(lines, (1, []))
    time_at, moment = _time_column(number, header)
    flux_at, name = _flux_column(number, header, time_at, column)
    quantity = quantity or _quantity(number, flux_at, name)
    seconds, values = [], []
    for number, fields in lines:
        if len(fields) > len(header):
            raise ValueError(f"line {number}, column {len(header) + 1}: the header has {len(header)} columns only")
        if time_at >= len(fields):
            raise ValueError(f"line {number}, column {time_at + 1}: no time")
        try:
            seconds.append(moment(fields[time_at]))
        except ValueError as error:
            raise ValueError(f"line {number}, column {time_at + 1}: {error}") from error
        try:
            values.append(_flux(fields[flux_at] if flux_at < len(fields) else ""))
        except ValueError as error:
            raise ValueError(f"line {number}, column {flux_at + 1} ({name}): {error}") from error
    if not seconds:
        raise ValueError(f"line {number}, column 1: no data after the header")
    return _daily(np.array(seconds, np.int64), np.array(values), noon_hour, quantity, name)


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield numbers and fields of all lines that count."""
    reader = csv.reader(text.removeprefix("\ufeff").splitlines(), skipinitialspace=True)
    for fields in reader:
        stripped = [field.strip() for field in fields]
        if any(stripped) and not stripped[0].startswith("#"):
            yield reader.line_num, stripped


def _parts(title: str) -> tuple[str, str]:
    """Split ``name (units)``; units may hold parentheses themselves."""
    name, _, units = title.partition("(")
    return name.strip(), units.strip().removesuffix(")").strip()


def _time_column(line: int, header: list[str]) -> tuple[int, Callable[[str], int]]:
    """Return the place of the time, and the function that makes seconds since 1970 of its text."""
    for at, title in enumerate(header):
        name, units = _parts(title)
        if name.lower() in ("time", "date", "datetime", "timestamp"):
            try:
                return at, _moment(units)
            except ValueError as error:
                raise ValueError(f"line {line}, column {at + 1} ({title}): {error}") from error
    raise ValueError(f"line {line}, column 1: a header with 'time' or 'date' is expected, found {','.join(header)!r}")


def _moment(units: str) -> Callable[[str], int]:
    """Return the function for times of these units."""
    if units.lower() in ("julian date", "jd"):
        return lambda text: _plausible((_number(text) - _UNIX_EPOCH_JD) * _DAY)
    if since := _SINCE.fullmatch(units):
        step, start = _SECONDS[since[1].lower()], _calendar(since[2])
        return lambda text: _plausible(start + _number(text) * step)
    # A pattern may have quoted letters ('T'); what is left must be year, month, day, hour, minute, second in order.
    letters = re.sub(r"'[^']*'|Z$|[^A-Za-z]+", " ", units).replace(" ", "")
    if units and not re.fullmatch(r"yyyyM{1,2}d{1,2}(H{1,2}mm(ssS*)?)?", letters.replace("YYYY", "yyyy")):
        raise ValueError(f"times in {units!r} are not known")
    return lambda text: _plausible(_calendar(text))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def _calendar(text: str) -> int:
    """Return seconds since 1970 of a date with or without its time; fractions of a second are cut off."""
    found = _COMPACT.fullmatch(text.strip()) or _SPACED.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no known form of a time")
    year, month, day, *clock = (int(part or 0) for part in found.groups())
    hour, minute, second = clock
    try:
        when = np.datetime64(f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", "s")
    except ValueError:
        raise ValueError(f"{text!r} is not in the calendar") from None
    return int(when.astype(np.int64))


def _plausible(seconds: float) -> int:
    if not math.isfinite(seconds) or not _YEARS[0] <= 1970 + seconds / (365.2425 * _DAY) < _YEARS[1]:
        raise ValueError(f"a time outside the years {_YEARS[0]} to {_YEARS[1]}; are the units in the header right?")
    return round(seconds)


def _flux_column(line: int, header: list[str], time_at: int, wanted: str | None) -> tuple[int, str]:
    """Return place and name of the column of flux."""
    names = {_parts(title)[0]: at for at, title in enumerate(header) if at != time_at}
    if wanted is None:
        candidates = [
            name for name in names if _NAMED.fullmatch(name) or re.fullmatch("(observed|adjusted)_flux", name)
        ]
        plain = [name for name in candidates if not re.search(r"_[cpf]$", name)]
        for prefix in _PREFERRED:
            these = [name for name in plain if (name.startswith(prefix) if prefix else "_" not in name)]
            if len(these) == 1:
                wanted = these[0]
                break
    if wanted not in names:
        asked = f"no column {wanted!r}" if wanted else "no column, or several, named as a flux; say which"
        raise ValueError(f"line {line}, columns {', '.join(names) or '(none)'}: {asked}")
    at = names[wanted]
    units = _parts(header[at])[1].lower()
    if units and "sfu" not in units and "solar flux unit" not in units:
        raise ValueError(f"line {line}, column {at + 1} ({header[at]}): solar flux units are expected")
    return at, wanted


def _quantity(line: int, at: int, column: str) -> str:
    """Return the quantity from the name of its column."""
    if column in ("observed_flux", "adjusted_flux"):
        return "F10.7"
    if found := _NAMED.fullmatch(column):
        number = found[1].replace("_", ".")
        return "F10.7" if number == "107" else f"F{number}"
    raise ValueError(f"line {line}, column {at + 1} ({column}): its name does not tell the quantity; say which it is")


def _flux(text: str) -> float:
    """Return flux in sfu, NaN if there is none."""
    value = _number(text) if text else math.nan
    if math.isinf(value):
        raise ValueError(f"{text!r} is not finite")
    return value if value > 0 else math.nan


def _daily(seconds: np.ndarray, values: np.ndarray, noon_hour: float, quantity: str, column: str) -> RadioFlux:
    """Choose one observation a day."""
    day_of = np.floor_divide(seconds, _DAY)
    days = np.arange(day_of.min(), day_of.max() + 1)
    good = np.isfinite(values)
    moments, place, number = np.unique(seconds[good], return_inverse=True, return_counts=True)
    mean = np.bincount(place, values[good]) / np.maximum(number, 1)
    lowest, highest = np.full(moments.size, np.inf), np.full(moments.size, -np.inf)
    np.minimum.at(lowest, place, values[good])
    np.maximum.at(highest, place, values[good])
    same = lowest == highest
    mean[same] = lowest[same]
    observed = np.floor_divide(moments, _DAY)
    order = np.lexsort((moments, np.abs(moments - observed * _DAY - noon_hour * 3600), observed))
    chosen_days, first = np.unique(observed[order], return_index=True)
    daily = np.full(days.size, np.nan)
    daily[chosen_days - days[0]] = mean[order[first]]
    return RadioFlux(
        times=days.astype("datetime64[D]"),
        values=daily,
        quantity=quantity,
        column=column,
        rows=seconds.size,
        repeated=int((number[same] - 1).sum()),
        conflicting=int((~same).sum()),
        other_hours=moments.size - chosen_days.size,
    )
