"""Loss of sensitivity of AIA's channels, from the response tables of the instrument team.

``d(t) = EFF_AREA(epoch) / EFF_AREA(first epoch) * (1 + p1 dt + p2 dt**2 + p3 dt**3)`` with dt in days since the
epoch's T_START (Barnes et al. 2020, JOSS 5, 2801; Boerner et al. 2014, Solar Physics 289, 2377). An image is divided
by d. Extrapolated tables can reach zero or below (V8 does for 304 A); such a factor is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdoml_dist.errors import CalibrationError
from sdoml_dist.solar.times import parse_fits_time

_COLUMNS = ("T_START", "T_STOP", "VER_NUM", "WAVE_STR", "EFF_AREA", "EFFA_P1", "EFFA_P2", "EFFA_P3")
_NS_PER_DAY = 86_400_000_000_000


@dataclass(frozen=True)
class _Epochs:
    """The rows of one channel, in order of time."""

    start: np.ndarray
    stop: np.ndarray
    area: np.ndarray
    coefficients: np.ndarray


class DegradationTable:
    """Degradation of every channel over time.

    Parameters
    ----------
    epochs : dict of int to _Epochs
        Rows by wavelength.
    version : int
        Version of the table.
    """

    def __init__(self, epochs: dict[int, _Epochs], version: int) -> None:
        self._epochs, self.version = epochs, version

    @classmethod
    def from_response_table(cls, text: str) -> DegradationTable:
        """Read an ``aia_V*_response_table.txt`` as JSOC and SolarSoft give it.

        Raises
        ------
        CalibrationError
            If the text is not such a table.
        """
        lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if not lines or any(name not in lines[0] for name in _COLUMNS):
            raise CalibrationError(
                "This is not an AIA response table: its first line lacks the columns " + ", ".join(_COLUMNS) + "."
            )
        place = {name: lines[0].index(name) for name in _COLUMNS}
        rows: dict[int, list[tuple[np.datetime64, np.datetime64, list[float]]]] = {}
        version = 0
        try:
            for line in lines[1:]:
                # EUV rows are named 171_THIN (some tables have THICK filters as well), UV rows 1600 or 1600_THICK.
                name, _, kind = line[place["WAVE_STR"]].partition("_")
                band = int(name)
                if kind == "THICK" and band < 1000:
                    continue
                numbers = [float(line[place[name]]) for name in ("EFF_AREA", "EFFA_P1", "EFFA_P2", "EFFA_P3")]
                times = parse_fits_time(line[place["T_START"]]), parse_fits_time(line[place["T_STOP"]])
                rows.setdefault(band, []).append((*times, numbers))
                version = int(line[place["VER_NUM"]])
        except (ValueError, IndexError) as error:
            raise CalibrationError(f"The AIA response table is damaged: {error}") from None
        epochs = {}
        for wavelength, entries in rows.items():
            entries.sort(key=lambda entry: entry[0])
            numbers_array = np.array([numbers for _, _, numbers in entries])
            epochs[wavelength] = _Epochs(
                np.array([start for start, _, _ in entries], "datetime64[ns]"),
                np.array([stop for _, stop, _ in entries], "datetime64[ns]"),
                numbers_array[:, 0],
                numbers_array[:, 1:],
            )
        return cls(epochs, version)

    def factor(self, wavelength_angstrom: int, time: np.datetime64 | np.ndarray) -> np.ndarray:
        """Return the degradation factor, 1 at the start of the mission.

        Parameters
        ----------
        wavelength_angstrom : int
            Channel.
        time : numpy.datetime64 or numpy.ndarray
            UTC.

        Returns
        -------
        numpy.ndarray
            As `time`; may be 0 or less where a table is extrapolated too far.

        Raises
        ------
        CalibrationError
            If the table lacks the channel or the time.
        """
        epochs = self._epochs.get(wavelength_angstrom)
        if epochs is None:
            raise CalibrationError(
                f"The degradation table (version {self.version}) has no rows for {wavelength_angstrom} Angstrom; "
                f"it has {', '.join(map(str, sorted(self._epochs)))}.",
                "Frames of this channel cannot be corrected.",
                "Leave the channel out, or pin a table that covers it.",
            )
        times = np.asarray(time, dtype="datetime64[ns]")
        row = np.searchsorted(epochs.start, times, side="right") - 1
        covered = (row >= 0) & (times < epochs.stop[row])
        if not np.all(covered):
            outside = np.atleast_1d(times)[~np.atleast_1d(covered)][0]
            raise CalibrationError(
                f"The degradation table (version {self.version}) covers {wavelength_angstrom} Angstrom from "
                f"{epochs.start[0]} to {epochs.stop[-1]}, not {outside}."
            )
        days = (times - epochs.start[row]).astype(np.int64) / _NS_PER_DAY
        p1, p2, p3 = np.moveaxis(epochs.coefficients[row], -1, 0)
        factor: np.ndarray = epochs.area[row] / epochs.area[0] * (1 + days * (p1 + days * (p2 + days * p3)))
        return factor

    def check(self, wavelengths_angstrom: list[int], start: np.datetime64, end: np.datetime64) -> None:
        """Refuse a table that cannot serve a period.

        Raises
        ------
        CalibrationError
            If a channel or time is missing, or a factor within the period is not positive.
        """
        days = np.arange(start.astype("datetime64[D]"), end.astype("datetime64[D]") + 1).astype("datetime64[ns]")
        days = np.clip(days, start, end)
        for wavelength in wavelengths_angstrom:
            factors = self.factor(wavelength, days)
            if (factors <= 0).any():
                raise CalibrationError(
                    f"The degradation table (version {self.version}) gives {factors.min():.4g} for {wavelength} "
                    f"Angstrom; it is not positive from {days[factors <= 0][0].astype('datetime64[D]')} on.",
                    "It is extrapolated too far: images would change their sign.",
                    "Pin a newer table, shorten the period, or leave the channel out.",
                )
