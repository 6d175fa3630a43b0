"""Lists of regions to follow: NOAA's daily summaries, tables of regions, and patches that cover the disc.

Everything here turns text or times into lists; nothing is downloaded.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from sdoml_dist.solar.activity import CARRINGTON_DEG_PER_DAY, rotation_deg_per_day
from sdoml_dist.solar.orbit import ephemeris
from sdoml_dist.solar.regions import Region
from sdoml_dist.solar.times import parse_fits_time

_NS_PER_DAY = 86_400_000_000_000
# NOAA counted past 9999 in June 2002 and went on printing four digits.
_NUMBERS_WRAPPED = np.datetime64("2002-06-01", "ns")
_ALL_WRAPPED = np.datetime64("2010-01-01", "ns")
_FIRST_DAY = np.datetime64("2010-01-01", "ns")
_EARTH_DEG_PER_DAY = 360.0 / 365.2422
"""Mean motion of the Earth, the difference of sidereal and synodic rotation."""
_PATCHES_PER_INTERVAL = 999
_MONTHS = {
    name: number + 1
    for number, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split())  # noqa: SIM905
}
_ISSUED = re.compile(r"^:ISSUED:\s*(\d{4})\s+([A-Z]{3})\w*\s+(\d{1,2})\b", re.IGNORECASE)
_ISSUED_OLD = re.compile(r"^SRS NUMBER.*ISSUED AT \d{4}Z ON (\d{1,2})\s+([A-Z]{3})\w*\s+(\d{4})", re.IGNORECASE)
_SECTION = re.compile(r"^\s*(I|IA|II|III)\.\s", re.IGNORECASE)
_VALID = re.compile(r"VALID AT\s+(\d{1,2})/(\d{2})(\d{2})\s*Z", re.IGNORECASE)
_ENTRY = re.compile(
    r"^(?P<number>\d{4,5})\s+(?P<latitude>[NS]\d{1,2})\s*(?P<longitude>[EW]\d{1,3})\s+(?P<carrington>\d{1,3})"
    r"\s+(?P<area>\d{1,4})(?:\s+(?P<zurich>[A-Z]{3})(?=\s|$))?(?:\s+\d+\s+\d+)?(?:\s+(?P<magnetic>[A-Z].*))?$",
    re.IGNORECASE,
)
_SIGN = {"N": 1.0, "S": -1.0, "W": 1.0, "E": -1.0}
_REQUIRED = ("region", "latitude_deg", "longitude_deg", "reference", "start", "end")
_COLUMNS = (*_REQUIRED, "emergence", "area_msh")


@dataclass(frozen=True)
class SrsEntry:
    """A region with sunspots on one day, as NOAA's Solar Region Summary lists it.

    Attributes
    ----------
    time : numpy.datetime64
        When the location is valid, UTC. Summaries say ``06/2400Z``: the end of the 6th, which is midnight of the 7th.
    number : int
        NOAA number with five digits.
    latitude_deg, cm_longitude_deg, carrington_longitude_deg : float
        Latitude, longitude from the central meridian (west positive), Carrington longitude (0 to 360); whole degrees.
    area_msh : float
        Area of the spots in millionths of the Sun's visible hemisphere.
    zurich, magnetic : str
        Modified Zurich (McIntosh) and Mount Wilson class; empty where the summary has none.
    """

    time: np.datetime64
    number: int
    latitude_deg: float
    cm_longitude_deg: float
    carrington_longitude_deg: float
    area_msh: float
    zurich: str = ""
    magnetic: str = ""


def _days(duration: np.timedelta64) -> float:
    return float(duration.astype("timedelta64[ns]").astype(np.int64)) / _NS_PER_DAY


def _full_number(printed: int, time: np.datetime64) -> int:
    """Return the NOAA number of what a summary prints: 1226 is 11226; in 2002 the large numbers were still the old ones."""
    if printed >= 10_000 or time < _NUMBERS_WRAPPED or (printed >= 5_000 and time < _ALL_WRAPPED):
        return printed
    return printed + 10_000


def _issue_day(lines: list[str], name: str) -> np.datetime64:
    for line in lines:
        found = _ISSUED.match(line)
        old = None if found else _ISSUED_OLD.match(line)
        if found or old:
            year, month, day = found.groups() if found else old.groups()[::-1]  # type: ignore[union-attr]
            if month.lower() in _MONTHS:
                try:
                    return np.datetime64(f"{year}-{_MONTHS[month.lower()]:02d}-{int(day):02d}", "ns")
                except ValueError:
                    break
    raise ValueError(f"{name}: no date of issue (':Issued: 2011 Jun 07 0030 UTC'); is this a Solar Region Summary?")


def _validity(header: str, issued: np.datetime64, where: str) -> np.datetime64:
    """Return the time of ``Locations Valid at 06/2400Z``; it names the day of the month only."""
    found = _VALID.search(header)
    if found is None:
        # By definition of the product: issued at 0030, valid at 2400 of the day before.
        return issued
    day, hour, minute = (int(part) for part in found.groups())
    for back in range(4):
        date = issued - np.timedelta64(back, "D")
        if int(str(date)[8:10]) == day:
            return date + np.timedelta64(hour * 60 + minute, "m")
    raise ValueError(f"{where}: valid on day {day}, but issued on {str(issued)[:10]}: more than three days apart")


def read_srs(text: str, name: str = "") -> list[SrsEntry]:
    """Read the regions with sunspots of one Solar Region Summary.

    Parameters
    ----------
    text : str
        A file of NOAA's Space Weather Prediction Center, such as ``20110607SRS.txt``; upper-case files of the 1990s too.
    name : str
        Name of the file, for messages.

    Returns
    -------
    list of SrsEntry
        Section I only: plages without spots and regions due to return are left out. Empty where the summary says None.

    Raises
    ------
    ValueError
        If there is no date of issue, no section I, or a line of it is not a region; the line is named.
    """
    name = name or "Solar Region Summary"
    lines = text.replace("\r", "").split("\n")
    issued = _issue_day(lines, name)
    entries: list[SrsEntry] = []
    time: np.datetime64 | None = None
    for number, line in enumerate(lines, 1):
        stripped, where = line.strip(), f"{name}, line {number}"
        section = _SECTION.match(line)
        if section:
            if time is not None:
                break
            if section.group(1).upper() == "I":
                time = _validity(line, issued, where)
            continue
        if time is None or not stripped or stripped[0] == "#" or stripped.lower() == "none":
            continue
        if stripped.lower().startswith("nmbr"):
            continue
        match = _ENTRY.match(stripped)
        if match is None:
            raise ValueError(f"{where}: not a region with sunspots: {stripped!r} (expected '1226 S22W52 036 0080 ...')")
        latitude, longitude = (
            _SIGN[match[key][0].upper()] * float(match[key][1:]) for key in ("latitude", "longitude")
        )
        if abs(latitude) > 90 or abs(longitude) > 180 or int(match["carrington"]) > 360:
            raise ValueError(f"{where}: location outside the Sun: {stripped!r}")
        entries.append(
            SrsEntry(
                time, _full_number(int(match["number"]), time), latitude, longitude, float(match["carrington"]) % 360.0,
                float(match["area"]), match["zurich"] or "", (match["magnetic"] or "").strip(),
            )
        )  # fmt: skip
    if time is None:
        raise ValueError(f"{name}: no section 'I.  Regions with Sunspots'")
    return entries


def read_harp_noaa(text: str) -> dict[int, tuple[int, ...]]:
    """Read JSOC's table of HARPs and the NOAA numbers inside them (``all_harps_with_noaa_ars.txt``).

    Parameters
    ----------
    text : str
        A header ``HARPNUM NOAA_ARS``, then lines such as ``1 11034,11035``.

    Returns
    -------
    dict
        NOAA numbers by HARP number, in the order of the table.

    Raises
    ------
    ValueError
        If a line is not such an entry, or a HARP is there twice; the line is named.
    """
    table: dict[int, tuple[int, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(None, 1)
        if not words or words[0].upper() == "HARPNUM":
            continue
        try:
            harp, regions = int(words[0]), tuple(int(part) for part in words[1].split(","))
        except (ValueError, IndexError):
            raise ValueError(
                f"HARP table, line {number}: expected '377 11158' or '1 11034,11035', got {line!r}"
            ) from None
        if harp in table:
            raise ValueError(f"HARP table, line {number}: HARP {harp} is there twice")
        table[harp] = regions
    return table


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
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    columns = [name.strip() for name in next(rows, [])]
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
    for row in rows:
        line = f"line {rows.line_num}"
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


def central_meridian_passage(latitude_deg: float, longitude_deg: float, reference: np.datetime64) -> np.datetime64:
    """Return when a place that rotates with the Sun crosses the central meridian, the passage nearest to a time.

    Parameters
    ----------
    latitude_deg, longitude_deg : float
        Heliographic latitude and Carrington longitude at `reference`.
    reference : numpy.datetime64
        UTC.

    Returns
    -------
    numpy.datetime64
        UTC. The place is carried by the rotation of magnetic features (Snodgrass & Ulrich 1990), the central meridian is
        SDO's (:func:`sdoml_dist.solar.orbit.ephemeris`).
    """
    rate = float(rotation_deg_per_day(latitude_deg))
    start = reference.astype("datetime64[ns]")
    time = start
    # The angle from the meridian grows nearly evenly, so that each step leaves about a hundredth of the error.
    for _ in range(6):
        longitude = longitude_deg + (rate - CARRINGTON_DEG_PER_DAY) * _days(time - start)
        west = (longitude - ephemeris(time).l0_deg + 180.0) % 360.0 - 180.0
        time = time - np.timedelta64(round(west / (rate - _EARTH_DEG_PER_DAY) * _NS_PER_DAY), "ns")
    return time


@dataclass(frozen=True)
class Selection:
    """Emerging regions among daily entries; each region is either selected or refused.

    Attributes
    ----------
    regions : tuple of Region
        By number.
    refused : dict
        Why a region was left out, by number.
    areas : dict
        Largest area of each selected region, millionths of the hemisphere.
    """

    regions: tuple[Region, ...]
    refused: dict[int, str]
    areas: dict[int, float]


def _refusal(
    records: list[SrsEntry], first: np.datetime64, longitude_deg: float, days: int, area_msh: float
) -> str | None:
    seen = records[0]
    place = f"{abs(seen.cm_longitude_deg):g} degrees {'west' if seen.cm_longitude_deg > 0 else 'east'}"
    number = len(records)
    area = max(record.area_msh for record in records)
    if seen.time <= first:
        return f"already there on the first day of the table ({str(first)[:10]}): its emergence was not seen"
    if abs(seen.cm_longitude_deg) > longitude_deg:
        return f"first recorded {place} of the central meridian, more than {longitude_deg:g}"
    if number < days:
        return f"recorded with spots on {number} day{'s' if number > 1 else ''} only, fewer than {days}"
    if area < area_msh:
        return f"largest area {area:g} millionths of the hemisphere, less than {area_msh:g}"
    return None


def _host(number: int, harps: Mapping[int, tuple[int, ...]]) -> str | None:
    for harp, numbers in harps.items():
        if number in numbers and min(numbers) < number:
            return f"inside HARP {harp} of the earlier region {min(numbers)}"
    return None


def select_regions(
    entries: Iterable[SrsEntry],
    *,
    maximum_longitude_deg: float = 30.0,
    minimum_days: int = 4,
    minimum_area_msh: float = 200.0,
    days: float = 10.0,
    harps: Mapping[int, tuple[int, ...]] | None = None,
    since: np.datetime64 | None = None,
) -> Selection:
    """Choose emerging regions as SOLARED's 57 were chosen, and say of each other one why not.

    Parameters
    ----------
    entries : iterable of SrsEntry
        Of many days, in any order.
    maximum_longitude_deg : float
        The first record must be this near to the central meridian: there the region emerged in view.
    minimum_days : int
        Daily records with spots that there must be; days on which only plage was left do not count.
    minimum_area_msh : float
        What the largest area must reach, millionths of the hemisphere.
    days : float
        Length of the tracked period, centred on the passage of the central meridian and rounded to the full hour (a
        whole degree of longitude is 1.8 hours). 240 hourly windows of eight hours, as published, need ``247 / 24``.
    harps : mapping, optional
        NOAA numbers by HARP (:func:`read_harp_noaa`). A region that shares its HARP with an earlier number emerged inside
        an existing region and is left out.
    since : numpy.datetime64, optional
        Time of the first summary if it was one without regions. By default that of the first entry.

    Returns
    -------
    Selection
        Region.emergence and the reference are the time of the first record. Latitude and longitude are means over all
        records, the latter carried back to the reference with the rotation that patches follow: one record is
        rounded to a whole degree, and a young region grows to one side.

    Raises
    ------
    ValueError
        If a region has two records of one time.

    Notes
    -----
    The three thresholds are published (SuryaBench, ar_emergence). How many days a region must have on the disc is taken
    as days with spots; that is an interpretation. A region on the first day of the table may have been there
    before, so its emergence was not seen and it is left out. A day that is missing within the table is not noticed: a
    region that emerged on it seems to have emerged on the next.

    That the published period is centred on the passage is an inference. The published series of regions 11698, 11726,
    13165, 13179 and 13183 are ten days long, and their first NOAA records (2013-03-15, 2013-04-20, 2022-12-12,
    2022-12-30 and 2023-01-06) lie 2.2, -0.6, 0.8, 0.9 and 0.6 days from the middle: all within the 2.3 days that
    30 degrees are, so the middle may well be the passage. For region 11158 it can be measured: the flux
    lies in the middle tile throughout, so the patch follows the region, and HARP 377 (Carrington longitude 34.5 on
    2011-02-15) crosses the meridian on 2011-02-14 at 3 h, eight hours after the middle of the series.
    """
    grouped: dict[int, list[SrsEntry]] = {}
    for entry in sorted(entries, key=lambda entry: (entry.number, entry.time)):
        records = grouped.setdefault(entry.number, [])
        if records and records[-1].time == entry.time:
            raise ValueError(f"region {entry.number} has two records of {_iso(entry.time)}")
        records.append(entry)
    if not grouped:
        return Selection((), {}, {})
    first = min(records[0].time for records in grouped.values()) if since is None else since
    regions, refused, areas = [], {}, {}
    for number, records in grouped.items():
        reason = _refusal(records, first, maximum_longitude_deg, minimum_days, minimum_area_msh)
        reason = reason or _host(number, harps or {})
        if reason:
            refused[number] = reason
            continue
        reference = records[0].time
        latitude = float(np.mean([record.latitude_deg for record in records]))
        drift = float(rotation_deg_per_day(latitude)) - CARRINGTON_DEG_PER_DAY
        # Differences from the first record: longitudes wrap at 360 degrees.
        seen = records[0].carrington_longitude_deg
        away = [
            (record.carrington_longitude_deg - drift * _days(record.time - reference) - seen + 180.0) % 360.0 - 180.0
            for record in records
        ]
        longitude = (seen + float(np.mean(away))) % 360.0
        passage = central_meridian_passage(latitude, longitude, reference)
        half = np.timedelta64(round(days * _NS_PER_DAY / 2), "ns")
        start = (passage - half + np.timedelta64(30, "m")).astype("datetime64[h]").astype("datetime64[ns]")
        regions.append(Region(number, latitude, longitude, reference, start, start + 2 * half, reference))
        areas[number] = max(record.area_msh for record in records)
    return Selection(tuple(regions), refused, areas)


def dense_pack(
    start: np.datetime64, end: np.datetime64, *, spacing_deg: float, reach_deg: float = 60.0, days: float = 1.0
) -> list[Region]:
    """Cover the disc with patches, anew for each interval, as pipelines of ring diagrams do.

    Parameters
    ----------
    start, end : numpy.datetime64
        What to cover, UTC; 2010 or later. The last interval ends at `end`, and may be shorter.
    spacing_deg : float
        Between rows of centres (the equator is one), and along a row ``spacing_deg / cos(latitude)`` of longitude from
        the central meridian at the middle of the interval: the same length on the Sun in all rows.
    reach_deg : float
        Largest great-circle distance of a centre from the centre of the disc (at latitude B0) at that time.
    days : float
        Length of an interval.

    Returns
    -------
    list of Region
        By time, then from south to north and east to west. The reference is the middle of the interval; an emergence is
        not known. The number is ``1000 * interval + place``: intervals of this length are counted since 2010-01-01 by
        their start, places within the interval from 1. So it depends on `days`, the grid and the start of the interval
        only; it is no NOAA number.

    Raises
    ------
    ValueError
        If `start` is not before `end` or lies before 2010, if a length is not positive, `reach_deg` not below 90, or if
        an interval has more than 999 patches.

    References
    ----------
    Haber et al. 2002, ApJ 570, 855 (dense-pack mosaics); Bogart et al. 2011, J. Phys. Conf. Ser. 271, 012008 (HMI).
    """
    start, end = start.astype("datetime64[ns]"), end.astype("datetime64[ns]")
    if not _FIRST_DAY <= start < end:
        raise ValueError(f"patches need a start in 2010 or later and before the end: {start} to {end}")
    if not (spacing_deg > 0 and 0 < reach_deg < 90 and days > 0):
        raise ValueError(f"no patches with spacing_deg={spacing_deg}, reach_deg={reach_deg}, days={days}")
    # To the second: intervals of a third of a day must not drift.
    length = np.timedelta64(max(round(days * 86_400), 1) * 1_000_000_000, "ns")
    regions: list[Region] = []
    begin = start
    while begin < end:
        finish = min(begin + length, end)
        middle = begin + (finish - begin) // 2
        observer = ephemeris(middle)
        places = _grid(spacing_deg, reach_deg, observer.b0_deg)
        if len(places) > _PATCHES_PER_INTERVAL:
            raise ValueError(
                f"{len(places)} patches per interval; numbers allow {_PATCHES_PER_INTERVAL}: space them wider"
            )
        interval = int((begin - _FIRST_DAY) // length) * 1000
        for place, (latitude, west) in enumerate(places, 1):
            longitude = (observer.l0_deg + west) % 360.0
            regions.append(Region(interval + place, latitude, longitude, middle, begin, finish))
        begin = finish
    return regions


def _grid(spacing_deg: float, reach_deg: float, b0_deg: float) -> list[tuple[float, float]]:
    """Return latitude, and longitude from the central meridian, of the centres within reach."""
    places = []
    sine, cosine = np.sin(np.radians(b0_deg)), np.cos(np.radians(b0_deg))
    rows = int(90.0 / spacing_deg)
    for row in range(-rows, rows + 1):
        latitude = row * spacing_deg
        ring = float(np.cos(np.radians(latitude)))
        step = spacing_deg / max(ring, 1e-9)
        columns = int(90.0 / step)
        for column in range(-columns, columns + 1):
            towards = sine * np.sin(np.radians(latitude)) + cosine * ring * np.cos(np.radians(column * step))
            # A hair of slack: a centre at exactly the reach belongs to it whatever the rounding.
            if np.degrees(np.arccos(np.clip(towards, -1, 1))) <= reach_deg + 1e-9:
                places.append((latitude, column * step))
    return places
