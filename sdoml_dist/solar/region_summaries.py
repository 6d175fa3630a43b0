"""NOAA's daily region summaries, and JSOC's table of HARPs: text to lists. Nothing is downloaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

# NOAA counted past 9999 in June 2002 and went on printing four digits.
_NUMBERS_WRAPPED = np.datetime64("2002-06-01", "ns")
_ALL_WRAPPED = np.datetime64("2010-01-01", "ns")
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
