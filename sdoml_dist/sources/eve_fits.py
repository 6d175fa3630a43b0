"""Read EVE's time series: level-2 lines, ESP level 1 and the space-weather text of level 0CS."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.io import fits

from sdoml_dist.solar.eve import LINES
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import parse_fits_time, tai_to_utc, utc_to_tai

_TAI_EPOCH = np.datetime64("1958-01-01", "ns")
_BLOCK = 2880
_MOST_BYTES = 2**29
# Seconds since 1958 that are times: since 1972, when UTC got whole seconds, and within datetime64[ns].
_FIRST_TAI, _MOST_SECONDS = 441_763_210.0, 9e9
# Lines of one ion are 1.5 nm or more apart; a blend such as O II at 83.4 nm may be centred on another of its members.
_TOLERANCE_NM = 0.2
# A wrong epoch or day is off by far more, rounding and the width of a sample by far less.
_TIME_TOLERANCE = np.timedelta64(60, "s")
_ESP_NAMES = ("QD", "CH_18", "CH_26", "CH_30", "CH_36", "Q_0", "Q_1", "Q_2", "Q_3")
_FILE_VERSION = re.compile(r"_(\d{3})_(\d{2})\.fit", re.IGNORECASE)
_STRUCTURE = re.compile(
    r"SIMPLE|EXTEND|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|T(TYPE|FORM|UNIT|DIM|NULL|SCAL|ZERO|DISP)\d+|COMMENT|HISTORY"
)
_IRRADIANCE, _RATIO = "W/m^2", "1"


@dataclass(frozen=True)
class EveSeries:
    """Samples of EVE in time.

    Attributes
    ----------
    times : numpy.ndarray
        UTC, shape (n,), ``datetime64[ns]``.
    names : tuple of str
        Names of the columns: those of `sdoml_dist.solar.eve.LINES` for level 2, else those of the file.
    values : numpy.ndarray
        Shape (n, k), float64, in `units`; NaN for missing, which in irradiances is any value that is not positive.
        Where noise goes below zero, as in ESP's CH_36, that leaves only its upper half: means are then too high.
    flags, sc_flags : numpy.ndarray
        FLAGS and SC_FLAGS, shape (n,), int64, 0 where the product has none.
    metadata : dict
        Header keywords, and under names in lower case: ``product`` ("EVL", "ESP" or "L0CS"), ``file``, ``rows_missing``
        (how many rows the file lacks) and, for EVL, ``rows_without_time`` and ``lines_missing`` (names of lines that are
        not in it).
    version : str
        Version and revision as in LASP's file names, for example ``"007_02"``; empty if unknown.
    units : tuple of str
        Units of the columns.
    """

    times: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray
    flags: np.ndarray
    sc_flags: np.ndarray
    metadata: dict[str, Any] = field(repr=False)
    version: str = ""
    units: tuple[str, ...] = ()


def _failed(status: FrameStatus, name: str, detail: str) -> FrameError:
    return FrameError(status, f"{name}: {detail}")


def _unpacked(data: bytes, name: str, strict: bool) -> bytes:
    """Return what a gzip file holds; as much as there is without `strict`."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(data, _MOST_BYTES)
    except zlib.error as error:
        raise _failed(FrameStatus.FAILED_READ, name, f"gzip: {error}") from None
    if unpacker.unconsumed_tail:
        raise _failed(FrameStatus.FAILED_READ, name, f"unpacks to more than {_MOST_BYTES} bytes")
    if not unpacker.eof and strict:
        raise _failed(FrameStatus.FAILED_READ, name, f"the gzip file ends early, after {len(plain)} unpacked bytes")
    return plain


def read_eve(data: bytes, name: str, strict: bool = True) -> EveSeries:
    """Read a file of EVE; its content decides what it is.

    Level-2 lines (``EVL_L2_*.fit.gz``, and ``EVL_L2B_*`` of one minute) have the tables LinesMeta (WAVE_CENTER in nm and
    NAME, one row per line) and LinesData (TAI in seconds since 1958-01-01 TAI, FLAGS, SC_FLAGS and LINE_IRRADIANCE of
    shape (lines,)); number and order of the lines change between versions, so lines are found by ion and wavelength.
    ESP level 1 has one table with YEAR, DOY, SOD (UTC seconds of the day), the photodiodes in W/m^2 and the quadrants'
    shares. Level 0CS is text: lines with ``;`` describe the columns, then follow a line with the date and one line per
    minute.

    Parameters
    ----------
    data : bytes
        The file, FITS files plain or packed by gzip.
    name : str
        Its name, for messages and the version.
    strict : bool
        Whether a file that ends early is an error. If not, its whole rows are read, and `rows_missing` tells how many
        are lost.

    Returns
    -------
    EveSeries
        The samples, in the order of the file.

    Raises
    ------
    FrameError
        FAILED_NOT_FITS if it is neither FITS nor level 0CS, FAILED_READ if it is cut off or damaged, FAILED_KEYWORD if
        it has not the tables or columns of any product, FAILED_TIME if times are unreadable or contradict each other;
        never anything else, whatever the bytes are.

    Notes
    -----
    Layout: eve_read_whole_fits.pro, eve_merge_evl.pro and eve_read_l0cs.pro of LASP's EVE software (sdo-eve on GitHub).
    Whether TAI is the beginning or the middle of the 10 s they do not say; it is given as it is. Rows of level 2 without
    a time (TAI not positive) are left out and counted in the metadata as ``rows_without_time``.
    """
    packed = data[:2] == b"\x1f\x8b"
    plain = _unpacked(data, name, strict) if packed else data
    try:
        if plain.lstrip()[:1] == b";":
            return _level_0cs(plain, name, strict)
        if not plain.startswith(b"SIMPLE  ="):
            status = FrameStatus.FAILED_READ if packed and not plain else FrameStatus.FAILED_NOT_FITS
            raise _failed(status, name, f"{len(plain)} bytes beginning with {plain[:16]!r}")
        with warnings.catch_warnings():
            # Files of other writers break small rules of FITS, and truncation is handled here.
            warnings.simplefilter("ignore")
            return _read_tables(plain, name, strict)
    except FrameError:
        raise
    except Exception as error:  # noqa: BLE001 - hostile bytes can raise anything
        raise _failed(FrameStatus.FAILED_READ, name, f"{type(error).__name__}: {error}") from None


def _read_tables(data: bytes, name: str, strict: bool) -> EveSeries:
    end, missing, row_bytes = 0, 0, 1
    with fits.open(io.BytesIO(data), memmap=False, ignore_missing_end=False) as units:
        units.readall()
        for unit in units:
            end = unit.fileinfo()["datLoc"] + _data_bytes(unit.header)
            row_bytes = int(unit.header.get("NAXIS1", 1))
        layout = [_table_kind(unit) for unit in units]
    missing = end - len(data)
    if end > _MOST_BYTES:
        raise _failed(FrameStatus.FAILED_READ, name, f"claims to have {end} bytes")
    if missing > 0 and strict:
        raise _failed(FrameStatus.FAILED_READ, name, f"has {len(data)} bytes and should have at least {end}")
    rest = data[-(-end // _BLOCK) * _BLOCK :]
    if rest.strip(b"\0 ") and (strict or not any(layout)):
        raise _failed(FrameStatus.FAILED_READ, name, f"has {len(rest)} bytes that are no whole extension")
    # Absent bytes are filled up, so that the whole rows before them can be read, and the rest is cut off below.
    lost = -(-missing // max(row_bytes, 1)) if missing > 0 else 0
    with fits.open(io.BytesIO(data + bytes(max(missing, 0))), memmap=False) as units:
        tables = {kind: (unit, lost if index == len(layout) - 1 else 0)
                  for index, (kind, unit) in reversed(list(enumerate(zip(layout, units, strict=True)))) if kind}  # fmt: skip
        if "lines_meta" in tables and "lines_data" in tables:
            return _level_2(units[0].header, tables["lines_meta"][0], *tables["lines_data"], name)
        if "esp" in tables:
            return _esp(*tables["esp"], name)
        found = ", ".join(unit.name for unit in units)
    raise _failed(FrameStatus.FAILED_KEYWORD, name, f"has not the tables of any product of EVE, but {found}")


def _data_bytes(header: fits.Header) -> int:
    size = 1 if header.get("NAXIS", 0) else 0
    for axis in range(1, int(header.get("NAXIS", 0)) + 1):
        size *= int(header[f"NAXIS{axis}"])
    return abs(int(header.get("BITPIX", 8))) // 8 * (size + int(header.get("PCOUNT", 0)))


def _table_kind(unit: Any) -> str:
    """Tell what a table is by its columns; the extension's name is not asked for, as copies lose it."""
    if not isinstance(unit, fits.BinTableHDU):
        return ""
    columns = {column.upper() for column in unit.columns.names}
    if {"WAVE_CENTER", "NAME"} <= columns:
        return "lines_meta"
    # A further table has the units of the columns as text, under the same names.
    if {"TAI", "LINE_IRRADIANCE"} <= columns and "A" not in unit.columns["TAI"].format:
        return "lines_data"
    return "esp" if {"YEAR", "DOY", "SOD", *_ESP_NAMES} <= columns else ""


def _keywords(*headers: fits.Header) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for header in headers:
        for key, value in header.items():
            if key and not _STRUCTURE.fullmatch(key):
                merged[key] = value.strip() if isinstance(value, str) else value
    return merged


def _version(keywords: dict[str, Any], name: str) -> str:
    match = _FILE_VERSION.search(name)
    try:
        return f"{int(keywords['VERSION']):03d}_{int(keywords['REVISION']):02d}"
    except (KeyError, ValueError, TypeError):
        return f"{match[1]}_{match[2]}" if match else ""


def _positive(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        good: np.ndarray = np.where(np.isfinite(values) & (values > 0), values, np.nan)
    return good


def _duration(seconds: np.ndarray, name: str, column: str) -> np.ndarray:
    """Return seconds as whole microseconds: that is what float64 keeps of the time since 1958."""
    if not np.all(np.isfinite(seconds)) or np.any(np.abs(seconds) > _MOST_SECONDS):
        raise _failed(FrameStatus.FAILED_TIME, name, f"{column} is not a time in every row")
    microseconds = np.round(seconds * 1e6).astype(np.int64)
    duration: np.ndarray = (microseconds * 1000).astype("timedelta64[ns]")
    return duration


def _time_of_day(year: np.ndarray, day_of_year: np.ndarray, seconds: np.ndarray, name: str) -> np.ndarray:
    """Return the UTC of seconds counted from midnight; they go on counting in a leap second."""
    if np.any((year < 1972) | (year > 2200) | (day_of_year < 1) | (day_of_year > 366)):
        raise _failed(FrameStatus.FAILED_TIME, name, "a year or day of year is out of range")
    first = (year - 1970).astype("datetime64[Y]").astype("datetime64[ns]")
    midnight = first + ((day_of_year - 1) * 86_400_000_000_000).astype("timedelta64[ns]")
    times: np.ndarray = tai_to_utc(utc_to_tai(midnight) + _duration(seconds, name, "SOD"))
    return times


def _line_columns(meta: np.ndarray, columns: int, name: str) -> list[int | None]:
    """Return where each of our lines is among those of the file, by ion and the nearest wavelength."""
    ions = [" ".join(str(ion).replace("\0", " ").split()).upper() for ion in meta["NAME"]]
    centres = np.asarray(meta["WAVE_CENTER"], np.float64)
    if len(ions) != columns:
        raise _failed(FrameStatus.FAILED_KEYWORD, name, f"{columns} irradiances, but {len(ions)} lines are described")
    places: list[int | None] = []
    for line in LINES:
        distances = [
            abs(centre - line.wavelength_nm) if ion == line.ion.upper() else np.inf
            for ion, centre in zip(ions, centres, strict=True)
        ]
        nearest = int(np.argmin(distances))
        places.append(nearest if distances[nearest] <= _TOLERANCE_NM else None)
    if all(place is None for place in places):
        raise _failed(FrameStatus.FAILED_KEYWORD, name, f"none of the lines is among {ions[:5]} ...")
    return places


def _level_2(primary: fits.Header, meta: Any, unit: Any, lost: int, name: str) -> EveSeries:
    columns = {column.upper() for column in unit.columns.names}
    if not {"FLAGS", "SC_FLAGS"} <= columns:
        raise _failed(FrameStatus.FAILED_KEYWORD, name, "LinesData has no FLAGS or SC_FLAGS")
    table = unit.data[: max(len(unit.data) - lost, 0)]
    irradiance = np.asarray(table["LINE_IRRADIANCE"], np.float64)
    irradiance = irradiance[:, None] if irradiance.ndim == 1 else irradiance
    places = _line_columns(meta.data, irradiance.shape[1], name)
    values = np.full((len(table), len(LINES)), np.nan)
    for index, place in enumerate(places):
        if place is not None:
            values[:, index] = _positive(irradiance[:, place])
    tai = np.asarray(table["TAI"], np.float64)
    timed = np.isfinite(tai) & (tai > 0)
    if np.any(tai[timed] < _FIRST_TAI):
        raise _failed(FrameStatus.FAILED_TIME, name, f"TAI is {tai[timed].min()} s, before 1972")
    times: np.ndarray = tai_to_utc(_TAI_EPOCH + _duration(tai[timed], name, "TAI"))
    if {"YYYYDOY", "SOD"} <= columns:
        date, seconds = np.asarray(table["YYYYDOY"], np.int64)[timed], np.asarray(table["SOD"], np.float64)[timed]
        other = _time_of_day(date // 1000, date % 1000, seconds, name)
        wrong = np.flatnonzero(np.abs(other - times) > _TIME_TOLERANCE)
        if wrong.size:
            detail = f"TAI says {times[wrong[0]]}, YYYYDOY and SOD {other[wrong[0]]}"
            raise _failed(FrameStatus.FAILED_TIME, name, detail)
    keywords = _keywords(primary, unit.header)
    metadata = keywords | {
        "product": "EVL", "file": name, "rows_missing": lost, "rows_without_time": int(np.sum(~timed)),
        "lines_missing": tuple(line.name for line, place in zip(LINES, places, strict=True) if place is None),
    }  # fmt: skip
    return EveSeries(
        times=times, names=tuple(line.name for line in LINES), values=values[timed],
        flags=np.asarray(table["FLAGS"]).astype(np.int64)[timed],
        sc_flags=np.asarray(table["SC_FLAGS"]).astype(np.int64)[timed],
        metadata=metadata, version=_version(keywords, name), units=(_IRRADIANCE,) * len(LINES),
    )  # fmt: skip


def _esp(unit: Any, lost: int, name: str) -> EveSeries:
    rows = max(len(unit.data) - lost, 0)
    table = unit.data[:rows]
    year, day, seconds = (np.asarray(table[column]) for column in ("YEAR", "DOY", "SOD"))
    # T_OBS is not used: it is the middle of the file, and SOD counts from midnight.
    times = _time_of_day(year.astype(np.int64), day.astype(np.int64), seconds.astype(np.float64), name)
    values = np.stack([_positive(np.asarray(table[column], np.float64)) for column in _ESP_NAMES], axis=1)
    keywords = _keywords(unit.header)
    none = np.zeros(rows, np.int64)
    return EveSeries(
        times=times, names=_ESP_NAMES, values=values, flags=none, sc_flags=none.copy(),
        metadata=keywords | {"product": "ESP", "file": name, "rows_missing": lost}, version=_version(keywords, name),
        units=tuple(_RATIO if column.startswith("Q_") else _IRRADIANCE for column in _ESP_NAMES),
    )  # fmt: skip


def _text_unit(column: str) -> str:
    if column.startswith("dark"):
        return "counts"
    if re.fullmatch(r"q[0-3]ESP", column) or column.startswith("x_cool"):
        return _RATIO
    return "deg" if column.startswith("CM") else _IRRADIANCE


def _text_header(lines: list[str], name: str) -> tuple[list[str], dict[str, Any]]:
    """Return the columns that the header describes, and its statements."""
    columns: list[str] = []
    statements: dict[str, Any] = {}
    part = ""
    for line in lines:
        key, colon, text = line.lstrip("; ").partition(":")
        key = key.strip()
        if key in ("Column descriptions", "Format"):
            part = key
        elif part == "Column descriptions" and colon:
            columns.append(key)
        elif not part and colon:
            statements[key] = text.strip()
    if columns[:1] != ["HHMM"] or len(columns) < 2:
        raise _failed(FrameStatus.FAILED_KEYWORD, name, "the text does not describe columns that begin with HHMM")
    return columns, statements


def _level_0cs(data: bytes, name: str, strict: bool) -> EveSeries:
    text = data.decode("ascii", "replace")
    lines = text.splitlines()
    header = [line for line in lines if line.startswith(";")]
    body = [line.split() for line in lines if line.strip() and not line.startswith(";")]
    columns, statements = _text_header(header, name)
    if not body or len(body[0]) != 4 or not all(word.isdigit() for word in body[0]):
        raise _failed(FrameStatus.FAILED_READ if not body else FrameStatus.FAILED_KEYWORD, name, "no line with a date")
    year, day_of_year, month, day = (int(word) for word in body[0])
    rows = body[1:]
    # A file that was cut off ends within a line; it may have lost only the last digits of it, but lines are equally long.
    cut = len(rows) > 1 and not text.endswith("\n") and len(lines[-1]) < len(lines[-2].rstrip())
    if cut and strict:
        raise _failed(FrameStatus.FAILED_READ, name, f"the last line ends after {len(lines[-1])} characters")
    rows = rows[:-1] if cut else rows
    wrong = [row for row in rows if len(row) != len(columns)]
    if wrong:
        raise _failed(FrameStatus.FAILED_READ, name, f"a line has {len(wrong[0])} columns instead of {len(columns)}")
    numbers = np.array(rows, dtype=np.float64).reshape(len(rows), len(columns))
    clock = numbers[:, 0].astype(np.int64)
    try:
        date = parse_fits_time(f"{year:04d}-{month:02d}-{day:02d}")
    except ValueError:
        raise _failed(FrameStatus.FAILED_TIME, name, f"no date: {' '.join(body[0])}") from None
    ordinal = (date - np.datetime64(f"{year:04d}-01-01", "ns")) // np.timedelta64(1, "D") + 1
    if ordinal != day_of_year or np.any((clock // 100 > 23) | (clock % 100 > 59) | (clock < 0)):
        raise _failed(FrameStatus.FAILED_TIME, name, f"day {day_of_year} is not {date}, or a time of day is none")
    minutes = (clock // 100 * 60 + clock % 100) * 60_000_000_000
    missing = float(statements.get("Missing data", "-1.0"))
    names = tuple(columns[1:])
    units = tuple(_text_unit(column) for column in names)
    values = numbers[:, 1:]
    # Latitudes and longitudes are negative on half of the Sun: only the marker means missing there.
    values = np.where(values == missing, np.nan, values)
    irradiance = np.array([unit == _IRRADIANCE for unit in units])
    values[:, irradiance] = _positive(values[:, irradiance])
    none = np.zeros(len(rows), np.int64)
    return EveSeries(
        times=date + minutes.astype("timedelta64[ns]"), names=names, values=values, flags=none, sc_flags=none.copy(),
        metadata=statements | {"product": "L0CS", "file": name, "rows_missing": int(cut)},
        version=str(statements.get("Version", "")).partition(",")[0], units=units,
    )  # fmt: skip
