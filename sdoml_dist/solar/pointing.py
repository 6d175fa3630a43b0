"""The master pointing table of AIA: where the Sun's centre is on each CCD, every three hours.

Columns are those of the JSOC series aia.master_pointing3h: T_START, T_STOP (UTC) and, per channel, A_171_X0, A_171_Y0
(Sun's centre in pixels counted from 0), A_171_INSTROT (degrees) and A_171_IMSCALE (arcsec per pixel).
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np

from sdoml_dist.errors import CalibrationError
from sdoml_dist.solar.times import parse_fits_time

FIELDS = ("X0", "Y0", "INSTROT", "IMSCALE")


@dataclass(frozen=True)
class PointingEntry:
    """Pointing of one channel for three hours; NaN where JSOC marks a value as missing."""

    x0: float
    y0: float
    instrot: float
    imscale: float


class PointingTable:
    """Pointing entries by time and channel.

    Parameters
    ----------
    start, stop : numpy.ndarray
        Validity, ``start <= T_OBS < stop``, ``datetime64[ns]`` UTC, shape (rows,).
    columns : dict of int to numpy.ndarray
        By wavelength: shape (rows, 4) in the order of `FIELDS`.
    """

    def __init__(self, start: np.ndarray, stop: np.ndarray, columns: dict[int, np.ndarray]) -> None:
        order = np.argsort(start, kind="stable")
        self._start, self._stop = start[order], stop[order]
        self._columns = {wavelength: values[order] for wavelength, values in columns.items()}

    @classmethod
    def from_csv(cls, text: str) -> PointingTable:
        """Read the table from CSV; values that are no numbers count as missing.

        Raises
        ------
        CalibrationError
            If it lacks T_START or T_STOP, or a time is unreadable.
        """
        rows = list(csv.DictReader(io.StringIO(text)))
        if not rows or not {"T_START", "T_STOP"} <= rows[0].keys():
            raise CalibrationError("This is not a master pointing table: T_START and T_STOP are missing.")
        try:
            start, stop = (
                np.array([parse_fits_time(row[name] or "") for row in rows], "datetime64[ns]")
                for name in ("T_START", "T_STOP")
            )
        except ValueError as error:
            raise CalibrationError(f"The master pointing table is damaged: {error}") from None
        channels = sorted(
            {int(name.split("_")[1]) for name in rows[0] if name.startswith("A_") and name.endswith("_X0")}
        )
        columns = {
            wavelength: np.array(
                [[_number(row.get(f"A_{wavelength:03d}_{field}")) for field in FIELDS] for row in rows]
            )
            for wavelength in channels
        }
        return cls(start, stop, columns)

    def entry(self, wavelength_angstrom: int, time: np.datetime64) -> PointingEntry:
        """Return the entry with ``T_START <= time < T_STOP``.

        Raises
        ------
        CalibrationError
            If the table does not cover the channel or the time.
        """
        row = int(np.searchsorted(self._start, time, side="right")) - 1
        if row < 0 or time >= self._stop[row] or wavelength_angstrom not in self._columns:
            raise CalibrationError(
                f"The master pointing table has no entry for {wavelength_angstrom} Angstrom at {time}."
            )
        return PointingEntry(*(float(value) for value in self._columns[wavelength_angstrom][row]))


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
