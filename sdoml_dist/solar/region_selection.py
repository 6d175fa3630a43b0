"""Which regions to follow: emerging active regions by the published criteria, or patches that cover the disc."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from sdoml_dist.solar.activity import CARRINGTON_DEG_PER_DAY, rotation_deg_per_day
from sdoml_dist.solar.orbit import ephemeris
from sdoml_dist.solar.region_summaries import SrsEntry
from sdoml_dist.solar.regions import Region

_NS_PER_DAY = 86_400_000_000_000
_FIRST_DAY = np.datetime64("2010-01-01", "ns")
_EARTH_DEG_PER_DAY = 360.0 / 365.2422
"""Mean motion of the Earth, the difference of sidereal and synodic rotation."""
_PATCHES_PER_INTERVAL = 999


def _days(duration: np.timedelta64) -> float:
    return float(duration.astype("timedelta64[ns]").astype(np.int64)) / _NS_PER_DAY


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
            raise ValueError(f"region {entry.number} has two records of {entry.time.astype('datetime64[s]')}")
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
