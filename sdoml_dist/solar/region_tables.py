"""Tables of regions to follow, as CSV."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from sdoml_dist.solar.regions import Region
from sdoml_dist.solar.times import parse_fits_time

_REQUIRED = ("region", "latitude_deg", "longitude_deg", "reference", "start", "end")
_COLUMNS = (*_REQUIRED, "emergence", "area_msh")


def _number(text: str, low: float, high: float, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{where}: not a number: {text!r}") from None
    if not low <= value <= high:
        raise ValueError(f"{where}: {text} is not between {low:g} and {high:g}")
    return value


def _utc(text: str, where: str) -> np.datetime64:
    if "TAI" in text.upper():
        raise ValueError(f"{where}: times are UTC, not TAI: {text!r}")
    try:
        return parse_fits_time(text)
    except ValueError:
        raise ValueError(f"{where}: not a UTC time such as 2011-02-08T15:00:00: {text!r}") from None


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of the lines of a CSV file."""
    rows = csv.reader(io.StringIO(text), strict=True)
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {rows.line_num}: {error}") from None


def read_regions(text: str) -> list[Region]:
    """Read a table of regions.

    Parameters
    ----------
    text : str
        CSV with the columns ``region, latitude_deg, longitude_deg`` (Carrington, 0 to 360), ``reference, start, end``
        and, if wanted, ``emergence`` (may be empty) and ``area_msh`` (for people; not kept). Times are ISO, UTC.

    Raises
    ------
    ValueError
        If a column is missing or unknown, a value cannot be read, a region ends before it starts or is there twice. Line
        and column are named.
    """
    rows = _rows(text.removeprefix("\ufeff"))
    columns = [name.strip() for name in next(rows, (1, []))[1]]
    for name in columns:
        if name not in _COLUMNS:
            near = difflib.get_close_matches(name, _COLUMNS, 1, 0.4)
            hint = f"; did you mean {near[0]!r}?" if near else f"; columns are {', '.join(_COLUMNS)}"
            raise ValueError(f"line 1: unknown column {name!r}{hint}")
    absent = [name for name in _REQUIRED if name not in columns]
    if absent:
        raise ValueError(f"line 1: no column {', '.join(repr(name) for name in absent)}")
    if len(set(columns)) != len(columns):
        raise ValueError("line 1: a column is there twice")
    regions: dict[int, Region] = {}
    for number_of_line, row in rows:
        line = f"line {number_of_line}"
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(columns):
            raise ValueError(f"{line}: {len(row)} values for {len(columns)} columns")
        cells = {name: cell.strip() for name, cell in zip(columns, row, strict=True)}
        if not re.fullmatch("[1-9][0-9]*", cells["region"]):
            raise ValueError(f"{line}, column region: not a number of a region: {cells['region']!r}")
        number = int(cells["region"])
        if number in regions:
            raise ValueError(f"{line}, column region: region {number} is there twice")
        latitude = _number(cells["latitude_deg"], -90, 90, f"{line}, column latitude_deg")
        longitude = _number(cells["longitude_deg"], 0, 360, f"{line}, column longitude_deg") % 360.0
        reference, start, end = (_utc(cells[name], f"{line}, column {name}") for name in ("reference", "start", "end"))
        if start >= end:
            raise ValueError(f"{line}, column end: region {number} ends ({cells['end']}) before it starts")
        if cells.get("area_msh"):
            _number(cells["area_msh"], 0, 1e6, f"{line}, column area_msh")
        seen = cells.get("emergence")
        emergence = _utc(seen, f"{line}, column emergence") if seen else np.datetime64("NaT", "ns")
        regions[number] = Region(number, latitude, longitude, reference, start, end, emergence)
    return list(regions.values())


def _iso(time: np.datetime64) -> str:
    """Write a time without loss: to the second where that is exact."""
    if np.isnat(time):
        return ""
    return str(time.astype("datetime64[s]" if time == time.astype("datetime64[s]") else "datetime64[ns]"))


def write_regions(regions: Iterable[Region], areas: Mapping[int, float] | None = None) -> str:
    """Write a table that :func:`read_regions` reads back as it was.

    Parameters
    ----------
    regions : iterable of Region
        In the order of the lines.
    areas : mapping, optional
        Largest area by number, millionths of the hemisphere: one more column.

    Raises
    ------
    ValueError
        If a region is there twice.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS if areas is not None else _COLUMNS[:-1])
    written: set[int] = set()
    for region in regions:
        if region.number in written:
            raise ValueError(f"region {region.number} is there twice")
        written.add(region.number)
        times = (_iso(time) for time in (region.reference, region.start, region.end, region.emergence))
        row = [region.number, repr(float(region.latitude_deg)), repr(float(region.longitude_deg)), *times]
        writer.writerow(row if areas is None else [*row, areas.get(region.number, "")])
    return out.getvalue()
