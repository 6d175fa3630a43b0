"""The 39 emission lines of the EUV Variability Experiment (EVE) that make up SDOML, and their means over minutes.

Irradiances are of the Sun as a star, in W/m^2 at 1 AU (Woods et al. 2012, Solar Physics 275, 115). Names, order and
number of lines are those of SDOML v2: ions in order of wavelength, repeated ones with a suffix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MEGS_A_END = np.datetime64("2014-05-26", "ns")
"""Beginning of the day (UTC) on which a power anomaly ended MEGS-A: from here on its lines count as not observed.

Spectra cover 6 to 105 nm before it, and 33 to 105 nm after it. The rows of SDOML v2 end within this day, at 23:59:09.855.
"""

FLAG_MEGS_A_MISSING, FLAG_MEGS_B_MISSING, FLAG_ESP_MISSING, FLAG_MEGS_P_MISSING = 1, 2, 4, 8
"""Bits of FLAGS in level 2; 16, 32, 64 and 128 say that the clock of the same four may have been adjusted.

SC_FLAGS is a number in its low four bits (0 nothing in the way, 1 warming up after an eclipse, 2 and 3 atmosphere, 4 to 9
Mercury, Venus, Moon, 10 and 11 penumbra and umbra of the Earth) and bit 16 if the pointing is off by more than 1 arcmin.
"""

_MINUTE = np.timedelta64(60_000_000_000, "ns")


@dataclass(frozen=True)
class EveLine:
    """One emission line.

    Attributes
    ----------
    name : str
        Name in the dataset, for example ``"Fe XX_2"``.
    ion : str
        Ion without the suffix.
    wavelength_nm : float
        Centre, nm.
    log_t : float
        Decadic logarithm of the temperature of formation in K. SDOML v2 writes it with the unit "MK".
    detector : str
        ``"MEGS-A"`` (5 to 37 nm) or ``"MEGS-B"`` (35 to 105 nm).
    """

    name: str
    ion: str
    wavelength_nm: float
    log_t: float
    detector: str


# Wavelength and temperature as in the line definitions of EVE's own software (LASP, eve_read_l0c_spectra.pro), which
# has 30 of the lines. The nine marked with * are not in it: their wavelengths are the laboratory values of CHIANTI and
# NIST, their temperatures those of the same ion or of CHIANTI's contribution functions; a level-2 file may differ from
# them in the third digit, and readers must leave room for that.
_TABLE: tuple[tuple[str, float, float], ...] = (
    ("Fe XVIII", 9.3926, 6.81),
    ("Fe VIII", 13.1240, 5.57),
    ("Fe XX", 13.2850, 6.97),
    ("Fe IX", 17.1070, 5.81),
    ("Fe X", 17.7243, 5.99),
    ("Fe XI", 18.0407, 6.07),
    ("Fe XII", 19.5120, 6.13),
    ("Fe XIII", 20.2044, 6.19),
    ("Fe XIV", 21.1331, 6.27),
    ("He II", 25.6317, 4.75),
    ("Fe XV", 28.4150, 6.30),
    ("He II", 30.3783, 4.70),
    ("Fe XVI", 33.5410, 6.43),
    ("Fe XVI", 36.0758, 6.43),
    ("Mg IX", 36.8076, 5.99),
    ("S XIV", 44.5700, 6.44),  # *
    ("Ne VII", 46.5221, 5.71),
    ("Si XII", 49.9406, 6.29),
    ("Si XII", 52.0665, 6.29),  # *
    ("O III", 52.5795, 4.92),
    ("He I", 53.7030, 4.16),  # *
    ("O IV", 55.4370, 5.19),
    ("Fe XX", 56.7867, 6.97),  # *
    ("He I", 58.4334, 4.16),
    ("Fe XIX", 59.2236, 6.89),  # *
    ("O III", 59.9598, 4.92),
    ("Mg X", 60.9793, 6.05),  # *
    ("Mg X", 62.4943, 6.05),
    ("O V", 62.9730, 5.37),
    ("O II", 71.8535, 4.48),
    ("Fe XX", 72.1559, 6.97),  # *
    ("Ne VIII", 77.0409, 5.81),
    ("O IV", 79.0199, 5.19),
    ("O II", 83.4462, 4.48),  # *
    ("H I", 94.9743, 3.84),  # *
    ("H I", 97.2537, 3.84),
    ("C III", 97.7030, 4.84),
    ("H I", 102.5720, 3.84),
    ("O VI", 103.1900, 5.47),
)
_LAST_MEGS_A_NM = 37.0


def _lines() -> tuple[EveLine, ...]:
    seen: dict[str, int] = {}
    lines = []
    for ion, wavelength, log_t in _TABLE:
        seen[ion] = seen.get(ion, 0) + 1
        name = ion if seen[ion] == 1 else f"{ion}_{seen[ion]}"
        lines.append(EveLine(name, ion, wavelength, log_t, "MEGS-A" if wavelength < _LAST_MEGS_A_NM else "MEGS-B"))
    return tuple(lines)


LINES: tuple[EveLine, ...] = _lines()
"""The lines in SDOML's order, 0 to 38. Index 13, Fe XVI at 36.1 nm, has no measurements in SDOML v2."""


def minute_means(
    times: np.ndarray, values: np.ndarray, flags: np.ndarray, slots: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average samples over the minutes that begin at given times.

    As in SDOML, a minute is the plain mean of the samples that have a value, six at EVE's cadence of 10 s, whatever
    their flags say; a minute without any is missing. It writes that as -1, and takes any value that is not positive for
    invalid: here the reader of the files has made both NaN.

    Unlike SDOML's, the minutes are those of the given clock. Its rows step by 60 s within an hourly file and have times
    10 s past the minute (2010-05-01T00:00:10.484 is the first), and hours without a file shift all later rows. How they
    were made is not published; LASP's eve_merge_evl.pro, which averages every six consecutive samples, would do so.

    Parameters
    ----------
    times : numpy.ndarray
        Times of the samples, shape (n,), ``datetime64[ns]`` UTC, in any order.
    values : numpy.ndarray
        Samples, shape (n, k), NaN for missing.
    flags : numpy.ndarray
        Bits, shape (n,), integers.
    slots : numpy.ndarray
        Beginnings of the minutes, shape (slots,), ``datetime64[ns]`` UTC, ascending by 60 s or more.

    Returns
    -------
    tuple of numpy.ndarray
        Means of the samples in [slot, slot + 60 s), shape (slots, k), float32, NaN where there is none; how many
        samples each mean is of, shape (slots, k), uint8, at most 255; all flags of the samples in the minute (those
        without a value, too), joined by OR, shape (slots,), of the type of `flags`. OR is meant for bits: for SC_FLAGS,
        whose low four bits are a number, it tells only whether there was anything.

    Raises
    ------
    ValueError
        If the shapes do not fit each other or the minutes overlap.
    """
    if values.ndim != 2 or times.shape != values.shape[:1] or flags.shape != times.shape or slots.ndim != 1:
        raise ValueError(
            f"shapes of times {times.shape}, values {values.shape}, flags {flags.shape}, slots {slots.shape}"
        )
    if slots.size > 1 and np.diff(slots).min() < _MINUTE:
        raise ValueError("the minutes must ascend and not overlap")
    number, columns = slots.size, values.shape[1]
    flag_or = np.zeros(number, flags.dtype)
    sums = np.zeros((number, columns))
    counts = np.zeros((number, columns), np.int64)
    if number and times.size:
        index = np.searchsorted(slots, times, side="right") - 1
        inside = (index >= 0) & (times < slots[index] + _MINUTE)
        index = index[inside]
        chosen = values[inside].astype(np.float64)
        present = np.isfinite(chosen)
        np.add.at(sums, index, np.where(present, chosen, 0.0))
        np.add.at(counts, index, present)
        np.bitwise_or.at(flag_or, index, flags[inside])
    means = np.full((number, columns), np.nan, np.float32)
    found = counts > 0
    means[found] = (sums[found] / counts[found]).astype(np.float32)
    return means, np.minimum(counts, 255).astype(np.uint8), flag_or
