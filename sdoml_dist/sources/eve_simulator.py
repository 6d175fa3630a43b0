"""Simulated EVE: hourly files of level-2 lines with the layout of LASP's, from a Sun whose irradiance is known.

The Sun is that of the simulated frames: the same active regions rotate over the disc and the same flares light up.
"""

from __future__ import annotations

import gzip
import io

import numpy as np
from astropy.io import fits

from sdoml_dist.solar.activity import active_regions, day_number, flare_level
from sdoml_dist.solar.eve import FLAG_MEGS_A_MISSING, FLAG_MEGS_B_MISSING, LINES, MEGS_A_END
from sdoml_dist.solar.orbit import eclipsed, ephemeris
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.solar.times import tai_to_utc, utc_to_tai

# Mean, standard deviation and maximum of each line, W/m^2: the statistics published with FDL-X 2023's EVE model, over
# training months of SDOML v2 from 2010 to 2014 in which all lines were measured. Fe XVI at 36.1 nm is in no statistics;
# it gets half of the line at 33.5 nm, the ratio of the doublet's statistical weights, which is no more than plausible.
_STATISTICS: dict[str, tuple[float, float, float]] = {
    "Fe XVIII": (6.514e-06, 1.26e-06, 2.270e-05),
    "Fe VIII": (2.897e-06, 3.48e-07, 4.769e-06),
    "Fe XX": (1.097e-06, 3.94e-07, 1.999e-05),
    "Fe IX": (6.011e-05, 5.10e-06, 8.189e-05),
    "Fe X": (4.270e-05, 4.47e-06, 5.631e-05),
    "Fe XI": (6.299e-05, 7.63e-06, 8.133e-05),
    "Fe XII": (5.084e-05, 7.98e-06, 6.711e-05),
    "Fe XIII": (4.501e-05, 8.05e-06, 6.077e-05),
    "Fe XIV": (3.115e-05, 7.88e-06, 4.758e-05),
    "He II": (3.893e-05, 5.06e-06, 5.149e-05),
    "Fe XV": (6.441e-05, 2.06e-05, 1.130e-04),
    "He II_2": (5.273e-04, 4.20e-05, 6.912e-04),
    "Fe XVI": (3.678e-05, 1.34e-05, 8.309e-05),
    "Fe XVI_2": (1.839e-05, 6.70e-06, 4.155e-05),
    "Mg IX": (4.102e-05, 3.92e-06, 8.597e-05),
    "S XIV": (1.439e-06, 5.10e-07, 3.632e-06),
    "Ne VII": (1.748e-05, 1.37e-06, 2.303e-05),
    "Si XII": (1.874e-05, 3.95e-06, 2.805e-05),
    "Si XII_2": (7.644e-06, 1.89e-06, 1.224e-05),
    "O III": (2.604e-06, 1.06e-07, 3.431e-06),
    "He I": (6.100e-06, 5.98e-07, 7.874e-06),
    "O IV": (2.510e-05, 1.06e-06, 3.273e-05),
    "Fe XX_2": (1.216e-06, 2.02e-07, 2.322e-06),
    "He I_2": (5.868e-05, 7.53e-06, 8.073e-05),
    "Fe XIX": (9.749e-07, 1.25e-07, 2.326e-06),
    "O III_2": (4.860e-06, 1.78e-07, 6.487e-06),
    "Mg X": (1.292e-05, 2.97e-06, 1.994e-05),
    "Mg X_2": (1.279e-05, 2.21e-06, 1.782e-05),
    "O V": (5.275e-05, 3.34e-06, 6.888e-05),
    "O II": (2.329e-06, 1.89e-07, 4.993e-06),
    "Fe XX_3": (9.640e-07, 1.99e-07, 3.997e-06),
    "Ne VIII": (1.463e-05, 1.58e-06, 2.969e-05),
    "O IV_2": (1.649e-05, 9.54e-07, 3.126e-05),
    "O II_2": (3.469e-05, 2.02e-06, 8.400e-05),
    "H I": (1.269e-05, 1.19e-06, 3.902e-05),
    "H I_2": (2.093e-05, 1.83e-06, 3.540e-05),
    "C III": (1.434e-04, 8.45e-06, 2.357e-04),
    "H I_3": (9.592e-05, 9.37e-06, 1.211e-04),
    "O VI": (6.444e-05, 5.47e-06, 1.026e-04),
}
_MEAN, _DEVIATION, _MOST = np.array([_STATISTICS[line.name] for line in LINES]).T
# The strongest flares of the scene have brightness 60; they bring a line to its maximum.
_PER_FLARE = np.clip(_MOST - _MEAN - 3 * _DEVIATION, 0, None) / 60.0
# Mean and standard deviation of the regions' strength on the disc from 2010 to 2014, about the same for all seeds.
_USUAL_ACTIVITY, _ACTIVITY_SPREAD = 2.4, 1.15
NOISE = 0.01
"""Relative noise of a 10-s sample."""
_NEVER_MEASURED = "Fe XVI_2"
_MEGS_B_HOURS = range(12, 15)
_MEGS_B_MINUTES = 5
_FIRST_SECOND = np.timedelta64(484_000_000, "ns")
_CADENCE = np.timedelta64(10_000_000_000, "ns")
_HOUR = np.timedelta64(3_600_000_000_000, "ns")
_TAI_EPOCH = np.datetime64("1958-01-01", "ns")
_CLOCK_ADJUSTED_MEGS_A = 16
_EARTH_UMBRA = 11
_VERSION, _REVISION = 0, 1
_AIA_BANDS = ("94", "131", "171", "193", "211", "304", "335")
_DIODES = ("ESP 17.1", "ESP 25.7", "ESP 30.4", "ESP 36.6", "ESP quad", "MEGS-P 121.6")


def _checked(hour: np.datetime64) -> np.datetime64:
    hour = hour.astype("datetime64[ns]")
    if hour != hour.astype("datetime64[h]"):
        raise ValueError(f"not a full hour: {hour}")
    return hour


def eve_file_name(hour: np.datetime64) -> str:
    """Return the name of the file of an hour, as LASP names them; version 000 tells that it is simulated.

    Parameters
    ----------
    hour : numpy.datetime64
        Beginning of a full hour, UTC.
    """
    hour = _checked(hour)
    year, day, clock = _calendar(hour)
    return f"EVL_L2_{year:04d}{day:03d}_{clock:02d}_{_VERSION:03d}_{_REVISION:02d}.fit.gz"


def _calendar(hour: np.datetime64) -> tuple[int, int, int]:
    """Return year, day of year and hour."""
    first = hour.astype("datetime64[Y]")
    hours = int((hour.astype("datetime64[h]") - first.astype("datetime64[h]")).astype(np.int64))
    return int(str(first)), hours // 24 + 1, hours % 24


def _activity(seed: int, time: np.datetime64) -> float:
    """Return the strength of the active regions on the disc, foreshortened."""
    regions, day = active_regions(seed), day_number(time)
    away = np.radians(regions.longitude_at(day) - ephemeris(time).l0_deg)
    facing = np.cos(np.radians(regions.latitude_deg)) * np.cos(away)
    return float(np.sum(regions.envelope(day) * np.clip(facing, 0, None)))


def _flaring(seed: int, time: np.datetime64) -> float:
    """Return the brightness of the flares on the visible side."""
    index, brightness = flare_level(seed, time)
    if not index.size:
        return 0.0
    longitude = active_regions(seed).longitude_at(day_number(time))[index]
    visible = np.cos(np.radians(longitude - ephemeris(time).l0_deg)) > 0
    return float(np.sum(brightness[visible]))


def true_irradiance(seed: int, times: np.ndarray) -> np.ndarray:
    """Return the irradiance of the simulated Sun, without noise.

    Each line follows the active regions on the disc by as much as it varied in 2010 to 2014, and flares by what they
    brought at most: hot lines most.

    Parameters
    ----------
    seed : int
        Seed of the simulation, as in `SimulationConfig`.
    times : numpy.ndarray
        UTC, shape (n,), ``datetime64[ns]``.

    Returns
    -------
    numpy.ndarray
        Shape (n, 39), float64, W/m^2 at 1 AU, in the order of `LINES`.
    """
    times = times.astype("datetime64[ns]")
    # Rotation is slow: its effect is computed at full hours and interpolated.
    hours = times.astype("datetime64[h]")
    nodes = np.unique(np.concatenate([hours, hours + np.timedelta64(1, "h")])).astype("datetime64[ns]")
    at_nodes = np.array([_activity(seed, node) for node in nodes])
    origin = nodes[0] if nodes.size else _TAI_EPOCH
    activity = np.interp((times - origin).astype(np.float64), (nodes - origin).astype(np.float64), at_nodes)
    relative = np.clip((activity - _USUAL_ACTIVITY) / _ACTIVITY_SPREAD, -2.0, 4.0)
    flaring = np.array([_flaring(seed, time) for time in times])
    irradiance: np.ndarray = _MEAN + relative[:, None] * _DEVIATION + flaring[:, None] * _PER_FLARE
    return irradiance


def _exposed(times: np.ndarray) -> np.ndarray:
    """Tell when MEGS-B observes: three hours a day and five minutes of every other hour, to spare its detector."""
    hours = times.astype("datetime64[h]")
    of_day = (hours - times.astype("datetime64[D]")).astype("timedelta64[h]").astype(np.int64)
    exposed: np.ndarray = ((of_day >= _MEGS_B_HOURS.start) & (of_day < _MEGS_B_HOURS.stop)) | (
        times - hours < np.timedelta64(_MEGS_B_MINUTES, "m")
    )
    return exposed


def _unit(name: str, columns: list[fits.Column]) -> fits.BinTableHDU:
    unit = fits.BinTableHDU.from_columns(columns)
    # Set as a keyword: given as a name, astropy would write it in capitals.
    unit.header["EXTNAME"] = name
    return unit


def _text(name: str, values: tuple[str, ...] | list[str]) -> fits.Column:
    return fits.Column(name, f"{max(len(value) for value in values)}A", array=np.array(values))


def _filled(name: str, rows: int, width: int) -> fits.Column:
    return fits.Column(name, f"{width}E", array=np.full((rows, width), -1, np.float32))


def eve_lines_fits(config: SimulationConfig, hour: np.datetime64) -> bytes:
    """Return one hour of level-2 lines as a FITS file packed by gzip.

    Tables and columns are named as in LASP's files; bands, diodes and quadrants are there but hold no data. The cadence
    is 10 s of TAI, so that the hour with a leap second has a sample more. MEGS-B is on for three hours a day and five
    minutes of each other hour, MEGS-A until its end; eclipses, some gaps and clock adjustments are flagged. Fe XVI at
    36.1 nm has no data, as in SDOML v2.

    Parameters
    ----------
    config : SimulationConfig
        The simulated mission, of which `seed` and `noise` matter.
    hour : numpy.datetime64
        Beginning of a full hour, UTC.

    Returns
    -------
    bytes
        The file; same seed and hour, same bytes.

    Raises
    ------
    ValueError
        If it is not a full hour.
    """
    hour = _checked(hour)
    first_tai = utc_to_tai(hour)
    seconds = (utc_to_tai(hour + _HOUR) - first_tai - _FIRST_SECOND).astype(np.int64)
    rows = int(-(-seconds // _CADENCE.astype(np.int64)))
    tai = first_tai + _FIRST_SECOND + np.arange(rows) * _CADENCE
    times = tai_to_utc(tai)
    rng = np.random.Generator(np.random.SFC64([config.seed, 53, int(hour.astype("datetime64[h]").astype(np.int64))]))
    noise, dice = rng.standard_normal((rows, len(LINES))), rng.uniform(size=(rows, 2))
    irradiance = true_irradiance(config.seed, times)
    if config.noise:
        irradiance = irradiance * (1.0 + NOISE * noise)
    in_eclipse = eclipsed(times)
    no_megs_a = (times >= MEGS_A_END) | (dice[:, 0] < 0.004)
    no_megs_b = ~_exposed(times)
    flags = np.where(no_megs_a, FLAG_MEGS_A_MISSING, 0) | np.where(no_megs_b, FLAG_MEGS_B_MISSING, 0)
    flags |= np.where(dice[:, 1] < 0.004, _CLOCK_ADJUSTED_MEGS_A, 0)
    megs_a = np.array([line.detector == "MEGS-A" for line in LINES])
    absent = np.where(megs_a, no_megs_a[:, None], no_megs_b[:, None]) | in_eclipse[:, None]
    absent[:, [line.name for line in LINES].index(_NEVER_MEASURED)] = True
    irradiance = np.where(absent, -1.0, irradiance)
    return gzip.compress(_tables(hour, tai, irradiance, flags, in_eclipse * _EARTH_UMBRA), mtime=0)


def _tables(
    hour: np.datetime64, tai: np.ndarray, irradiance: np.ndarray, flags: np.ndarray, sc_flags: np.ndarray
) -> bytes:
    """Write the tables in the order of the real product, in which the data are the fifth extension."""
    rows = tai.size
    year, day, _ = _calendar(hour)
    midnight = utc_to_tai(hour.astype("datetime64[D]").astype("datetime64[ns]"))
    centres = np.array([line.wavelength_nm for line in LINES])
    precision = np.where(irradiance > 0, NOISE, -1.0)
    wide = f"{len(LINES)}E"
    data = _unit("LinesData", [
        fits.Column("TAI", "D", array=(tai - _TAI_EPOCH) / np.timedelta64(1, "s")),
        fits.Column("YYYYDOY", "J", array=np.full(rows, year * 1000 + day)),
        fits.Column("SOD", "D", array=(tai - midnight) / np.timedelta64(1, "s")),
        fits.Column("FLAGS", "B", array=flags.astype(np.uint8)),
        fits.Column("SC_FLAGS", "B", array=sc_flags.astype(np.uint8)),
        fits.Column("LINE_IRRADIANCE", wide, array=irradiance.astype(np.float32)),
        fits.Column("LINE_PRECISION", wide, array=precision.astype(np.float32)),
        fits.Column("LINE_ACCURACY", wide, array=np.full(irradiance.shape, 0.1, np.float32)),
        *(_filled(f"BAND_{kind}", rows, len(_AIA_BANDS)) for kind in ("IRRADIANCE", "PRECISION", "ACCURACY")),
        *(_filled(f"DIODE_{kind}", rows, len(_DIODES)) for kind in ("IRRADIANCE", "STDEV", "PRECISION", "ACCURACY")),
        *(_filled(f"QUAD_{kind}", rows, 4) for kind in ("FRACTION", "STDEV", "PRECISION", "ACCURACY")),
    ])  # fmt: skip
    data.header["ORIGIN"] = "SDOML simulator"
    data.header["TELESCOP"], data.header["INSTRUME"] = "SDO/EVE", "EVE_MEGS"
    data.header["VERSION"], data.header["REVISION"] = _VERSION, _REVISION
    data.header["FILENAME"] = eve_file_name(hour)
    described = ("TAI", "YYYYDOY", "SOD", "FLAGS", "SC_FLAGS", "LINE_IRRADIANCE", "LINE_PRECISION", "LINE_ACCURACY")
    units = (
        "seconds since 1958-01-01 TAI",
        "year and day",
        "seconds of the UTC day",
        "bits",
        "code",
        "W m^-2",
        "1",
        "1",
    )
    tables = fits.HDUList([
        fits.PrimaryHDU(),
        _unit("LinesMeta", [
            fits.Column("WAVE_CENTER", "E", array=centres.astype(np.float32)),
            fits.Column("WAVE_MIN", "E", array=(centres - 0.1).astype(np.float32)),
            fits.Column("WAVE_MAX", "E", array=(centres + 0.1).astype(np.float32)),
            fits.Column("LOGT", "E", array=np.array([line.log_t for line in LINES], np.float32)),
            _text("NAME", [line.ion for line in LINES]),
            _text("TYPE", [line.detector for line in LINES]),
            _text("BLENDS", ["none"] * len(LINES)),
        ]),
        _unit("BandsMeta", [_text("NAME", [f"AIA_{band}" for band in _AIA_BANDS]),
                            _text("TYPE", ["AIA"] * len(_AIA_BANDS))]),
        _unit("DiodeMeta", [_text("NAME", _DIODES), _text("TYPE", ["diode"] * len(_DIODES))]),
        _unit("QuadMeta", [_text("NAME", ["Q0", "Q1", "Q2", "Q3"]), _text("TYPE", ["quadrant"] * 4)]),
        data,
        _unit("LinesDataUnits", [_text(name, [unit]) for name, unit in zip(described, units, strict=True)]),
    ])  # fmt: skip
    buffer = io.BytesIO()
    tables.writeto(buffer)
    return buffer.getvalue()
