"""Simulated level-1 frames: real FITS files with full headers, from a Sun whose truth is known."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from sdoml_dist.solar.activity import flare_level
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.degradation import DegradationTable
from sdoml_dist.solar.detector import SATURATION_DN, expose
from sdoml_dist.solar.geometry import RSUN_REF_M, image_plane
from sdoml_dist.solar.orbit import AU_M, eclipsed, ephemeris
from sdoml_dist.solar.quality import ECLIPSE_BIT, NEAR_REAL_TIME_BIT
from sdoml_dist.solar.scene import SunModel
from sdoml_dist.solar.simulation import FaultKind, SimulationConfig
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import format_fits_time, utc_to_tai
from sdoml_dist.sources.base import FrameRecord

# Usual exposures of AIA (Lemen et al. 2012, table 6), seconds; automatic control shortens them in flares.
EXPOSURE_S = {"94A": 2.9, "131A": 2.9, "171A": 2.0, "193A": 2.0, "211A": 2.9, "304A": 2.9, "335A": 2.9, "1600A": 2.9,
              "1700A": 1.0}  # fmt: skip
_FLARE_THRESHOLD = 8.0
# Loss of sensitivity per year of the simulated instrument; 304 and 335 lose most, as in orbit.
_LOSS_PER_YEAR = {94: 0.02, 131: 0.05, 171: 0.02, 193: 0.05, 211: 0.06, 304: 0.2, 335: 0.12, 1600: 0.07, 1700: 0.02}
_MISSION_START = "2010-03-24T00:00:00.000"
TABLE_NAME = "aia_V0_simulated_response_table.txt"
POINTING_NAME = "pointing.csv"
_SECOND = np.timedelta64(1_000_000_000, "ns")


def response_table() -> str:
    """Return the simulated instrument's response table, in the format of JSOC and SolarSoft."""
    lines = [
        "DATE T_START T_STOP VER_NUM WAVE_STR WAVELNTH EPERDN DNPERPHT EFF_AREA EFF_WVLN EFFA_P1 EFFA_P2 EFFA_P3 RMSE"
    ]
    for wavelength, loss in _LOSS_PER_YEAR.items():
        kind = "THICK" if wavelength in (1600, 1700) else "THIN"
        for year in range(2010, 2061):
            start = _MISSION_START if year == 2010 else f"{year}-01-01T00:00:00.000"
            age = 0.0 if year == 2010 else year - 2010 - 82 / 365.25
            area, following = np.exp(-loss * age), np.exp(-loss * (year + 1 - 2010 - 82 / 365.25))
            days = (np.datetime64(f"{year + 1}-01-01") - np.datetime64(start[:10])).astype(int)
            slope = (following / area - 1) / days
            lines.append(
                f"2010-01-01T00:00:00.000 {start} {year + 1}-01-01T00:00:00.000 0 {wavelength}_{kind} {wavelength} 18.30 "
                f"1.00000 {area:.8f} {wavelength}.00 {slope:.9f} 0.000000 0.000000 0.050000"
            )
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=1)
def _degradation() -> DegradationTable:
    return DegradationTable.from_response_table(response_table())


@lru_cache(maxsize=2)
def _sun(seed: int) -> SunModel:
    return SunModel(seed)


@dataclass(frozen=True)
class TruePointing:
    """Where a telescope truly looks: Sun's centre in pixels counted from 0, rotation, plate scale."""

    x0: float
    y0: float
    instrot: float
    imscale: float


def true_pointing(config: SimulationConfig, channel: str, time: np.datetime64) -> TruePointing:
    """Return the pointing of the three hours that a time lies in."""
    wavelength = AIA[channel].wavelength_angstrom
    block = int(time.astype("datetime64[ns]").astype(np.int64) // (3 * 3600 * 10**9))
    rng = np.random.default_rng([config.seed, 23, wavelength, block])
    fixed = np.random.default_rng([config.seed, 29, wavelength])
    scale = config.pixels / 4096
    x, y = 2047.5 + fixed.uniform(-12, 12, 2) + rng.normal(0, 0.3, 2)
    return TruePointing(
        x0=float((x + 0.5) * scale - 0.5),
        y0=float((y + 0.5) * scale - 0.5),
        instrot=float(fixed.uniform(-0.08, 0.08)),
        imscale=float((0.6 + fixed.uniform(-5e-4, 5e-4)) / scale),
    )


def pointing_table(config: SimulationConfig, start: np.datetime64, end: np.datetime64) -> str:
    """Return the simulated master pointing table as CSV, for all channels and every three hours."""
    step = np.timedelta64(3 * 3600, "s")
    first = start.astype("datetime64[D]").astype("datetime64[s]")
    names = [f"A_{channel.wavelength_angstrom:03d}_{field}" for channel in AIA.values()
             for field in ("X0", "Y0", "INSTROT", "IMSCALE")]  # fmt: skip
    lines = [",".join(["T_START", "T_STOP", *names])]
    while first <= end.astype("datetime64[s]"):
        cells = [f"{first}Z", f"{first + step}Z"]
        for channel in AIA:
            pointing = true_pointing(config, channel, first)
            cells += [f"{value:.8f}" for value in (pointing.x0, pointing.y0, pointing.instrot, pointing.imscale)]
        lines.append(",".join(cells))
        first = first + step
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class PlannedFrame:
    """A frame of the simulated mission.

    Attributes
    ----------
    channel : str
        Channel.
    nominal, observed : numpy.datetime64
        Nominal time and T_OBS, UTC.
    fault : str or None
        What is wrong with it.
    """

    channel: str
    nominal: np.datetime64
    observed: np.datetime64
    fault: FaultKind | None

    @property
    def file_name(self) -> str:
        """Name of its file, as JSOC's exports are named by time and wavelength."""
        stamp = str(self.nominal.astype("datetime64[s]")).replace("-", "").replace(":", "").replace("T", "_")
        return f"AIA{stamp}_{AIA[self.channel].wavelength_angstrom:04d}.fits"


def _frame_rng(config: SimulationConfig, channel: str, time: np.datetime64, purpose: int) -> np.random.Generator:
    second = int(time.astype("datetime64[s]").astype(np.int64))
    return np.random.Generator(np.random.SFC64([config.seed, purpose, AIA[channel].wavelength_angstrom, second]))


def planned_frame(config: SimulationConfig, channel: str, nominal: np.datetime64) -> PlannedFrame:
    """Return what the mission has at a nominal time."""
    rng = _frame_rng(config, channel, nominal, 31)
    jitter, dice = rng.uniform(-config.jitter_s, config.jitter_s), rng.uniform()
    fault: FaultKind | None = None
    limits = np.cumsum([config.missing_rate, config.flagged_rate, config.corrupt_rate])
    kinds: tuple[FaultKind, ...] = ("missing", "flagged", "corrupt")
    for kind, limit in zip(kinds, limits, strict=True):
        if fault is None and dice < limit:
            fault = kind
    if fault is None and bool(eclipsed(nominal)):
        fault = "eclipse"
    for given in config.faults:
        if given.channel in ("*", channel) and np.datetime64(given.time, "ns") == nominal:
            fault = given.kind
    observed = nominal + np.timedelta64(int(jitter * 1e9) // 10_000_000 * 10_000_000, "ns")
    return PlannedFrame(channel, nominal.astype("datetime64[ns]"), observed, fault)


def mission_frames(
    config: SimulationConfig, channels: Sequence[str], start: np.datetime64, end: np.datetime64
) -> Iterator[PlannedFrame]:
    """Yield the frames with nominal times in [start, end), the missing ones too."""
    step = config.frame_cadence_s
    first = -(-int(start.astype("datetime64[s]").astype(np.int64)) // step)
    last = -(-int(end.astype("datetime64[s]").astype(np.int64)) // step)
    for index in range(first, last):
        nominal = np.datetime64(index * step, "s").astype("datetime64[ns]")
        for channel in channels:
            yield planned_frame(config, channel, nominal)


def exposure_s(config: SimulationConfig, channel: str, time: np.datetime64) -> float:
    """Return the exposure that automatic control chooses: shorter in flares."""
    _, brightness = flare_level(config.seed, time)
    strongest = brightness.max(initial=0.0)
    usual = EXPOSURE_S[channel]
    return usual if strongest < _FLARE_THRESHOLD else max(usual * _FLARE_THRESHOLD / float(strongest) / 2, 0.05)


def level1_frame(config: SimulationConfig, frame: PlannedFrame) -> tuple[np.ndarray, dict[str, Any]]:
    """Render a frame: counts and header.

    Returns
    -------
    tuple of (numpy.ndarray, dict)
        Counts of shape (pixels, pixels), int16, and the level-1 keywords.
    """
    channel, time, size = frame.channel, frame.observed, config.pixels
    pointing, place = true_pointing(config, channel, time), ephemeris(time)
    wavelength = AIA[channel].wavelength_angstrom
    scale = pointing.imscale / place.rsun_obs_arcsec
    affine = image_plane(pointing.x0, pointing.y0, scale, pointing.instrot + config.roll_deg)
    emission = _sun(config.seed).render(channel, time, (size, size), affine)
    if frame.fault == "dark":
        emission[:] = 0
    elif frame.fault == "eclipse":
        emission[: size // 2] = 0
    exposure = exposure_s(config, channel, time)
    degradation = float(_degradation().factor(wavelength, time))
    rng = _frame_rng(config, channel, frame.nominal, 37) if config.noise else None
    counts = expose(emission, channel, exposure, degradation, rng)
    return counts, _header(config, frame, counts, pointing, exposure)


def _header(
    config: SimulationConfig, frame: PlannedFrame, counts: np.ndarray, pointing: TruePointing, exposure: float
) -> dict[str, Any]:
    """Return the keywords of a level-1 frame; the pointing is the predicted one, off by some tenths of a pixel."""
    time, channel = frame.observed, frame.channel
    place = ephemeris(time)
    wavelength = AIA[channel].wavelength_angstrom
    error = _frame_rng(config, channel, frame.nominal.astype("datetime64[D]"), 41).uniform(-1, 1, 2)
    error *= config.pointing_error_pixels * config.pixels / 4096
    half = np.timedelta64(int(exposure * 0.5e9), "ns")
    record = str(utc_to_tai(frame.nominal).astype("datetime64[s]")).replace("-", ".").replace("T", "_")
    slot = int(frame.nominal.astype("datetime64[s]").astype(np.int64))
    sample = counts[:: max(1, config.pixels // 512), :: max(1, config.pixels // 512)].astype(np.float64)
    percentiles = np.percentile(sample, (1, 10, 25, 75, 90, 95, 98, 99))
    deviation = sample.std()
    moments = [(((sample - sample.mean()) / max(deviation, 1e-9)) ** power).mean() for power in (3, 4)]
    flagged = frame.fault == "flagged"
    eclipsed = frame.fault == "eclipse"
    header: dict[str, Any] = {
        "ORIGIN": "SDOML simulator", "DATE": format_fits_time(frame.nominal + 3600 * _SECOND, 0) + "Z",
        "TELESCOP": "SDO/AIA", "INSTRUME": f"AIA_{1 + wavelength % 4}", "CAMERA": 1 + wavelength % 4,
        "DATE-OBS": format_fits_time(time - half) + "Z", "T_OBS": format_fits_time(time) + "Z",
        "T_REC": f"{record}_TAI", "TRECEPOC": "1977.01.01_00:00:00_TAI", "TRECSTEP": float(config.frame_cadence_s),
        "TRECROUN": 1, "BLD_VERS": "simulated", "LVL_NUM": 1.0, "LUTNOUT": 0, "IMG_TYPE": "LIGHT",
        "EXPTIME": round(exposure, 6), "EXPSDEV": 0.000076, "INT_TIME": round(exposure + 0.27, 6),
        "WAVELNTH": wavelength, "WAVEUNIT": "angstrom", "WAVE_STR": f"{wavelength}_{'THICK' if wavelength > 1000 else 'THIN'}",
        "FSN": slot // 4 % 10**8, "FID": 0, "QUALLEV0": 0, "QUALITY": eclipsed << ECLIPSE_BIT | flagged << NEAR_REAL_TIME_BIT,
        "TOTVALS": counts.size, "DATAVALS": counts.size, "MISSVALS": 0, "PERCENTD": 100.0,
        "DATAMIN": int(sample.min()), "DATAMAX": int(sample.max()), "DATAMEDN": float(np.median(sample)),
        "DATAMEAN": round(float(sample.mean()), 4), "DATARMS": round(float(deviation), 4),
        "DATASKEW": round(float(moments[0]), 4), "DATAKURT": round(float(moments[1]), 4),
        "DATACENT": float(np.median(sample)), **{
            f"DATAP{rank:02d}": round(float(value), 2)
            for rank, value in zip((1, 10, 25, 75, 90, 95, 98, 99), percentiles, strict=True)
        },
        "NSATPIX": int((sample >= SATURATION_DN).sum()), "OSCNMEAN": 0.0, "OSCNRMS": 0.0, "FLAT_REC": "simulated",
        "NSPIKES": 0, "CTYPE1": "HPLN-TAN", "CUNIT1": "arcsec", "CRVAL1": 0.0, "CDELT1": round(pointing.imscale, 8),
        "CRPIX1": round(pointing.x0 + 1 + float(error[0]), 6), "CTYPE2": "HPLT-TAN", "CUNIT2": "arcsec", "CRVAL2": 0.0,
        "CDELT2": round(pointing.imscale, 8), "CRPIX2": round(pointing.y0 + 1 + float(error[1]), 6),
        "CROTA2": round(pointing.instrot + config.roll_deg, 8), "R_SUN": place.rsun_obs_arcsec / pointing.imscale,
        "MPO_REC": "sdo.master_pointing[:#0]", "INST_ROT": round(pointing.instrot, 8), "IMSCL_MP": round(pointing.imscale, 8),
        "X0_MP": round(pointing.x0 + float(error[0]), 6), "Y0_MP": round(pointing.y0 + float(error[1]), 6),
        "SAT_Y0": 0.0, "SAT_Z0": 0.0, "SAT_ROT": config.roll_deg, "ACS_MODE": "SCIENCE",
        "ACS_ECLP": "YES" if eclipsed else "NO", "ACS_SUNP": "YES", "ACS_SAFE": "NO", "ACS_CGT": "GT3",
        "ASD_REC": "simulated", "ORB_REC": "simulated", "DSUN_REF": AU_M, "DSUN_OBS": round(place.dsun_obs_m, 2),
        "RSUN_REF": RSUN_REF_M, "RSUN_OBS": round(place.rsun_obs_arcsec, 6),
        **{f"HAE{axis}_OBS": round(value, 2) for axis, value in zip("XYZ", place.hae_m, strict=True)},
        **{f"GAE{axis}_OBS": round(value, 2) for axis, value in zip("XYZ", place.gae_m, strict=True)},
        **{f"OBS_V{axis}": round(value, 4) for axis, value in zip("RWN", place.velocity_m_s, strict=True)},
        "CRLN_OBS": round(place.l0_deg, 6), "CRLT_OBS": round(place.b0_deg, 6), "CAR_ROT": place.carrington_rotation,
        "HGLN_OBS": round(place.hgln_deg, 6), "HGLT_OBS": round(place.b0_deg, 6), "ROI_NWIN": -2147483648, "ROI_SUM": -2147483648,
        "DN_GAIN": 18.3, "EFF_AREA": 1.0, "EFF_AR_V": 0.0, "TEMPCCD": -68.0, "TEMPGT": 14.0, "TEMPSMIR": 20.0,
        "TEMPFPAD": 18.0, "ISPSNAME": "aia.lev0_isp_0011", "ISPPKTIM": format_fits_time(time) + "Z", "ISPPKTVN": "001.197",
        "AIVNMST": 453, "AIMGOTS": slot % 2**31, "ASQHDR": 0, "ASQTNUM": 1, "ASQFSN": slot % 10**6, "AIAHFSN": slot % 10**6,
        "AECDELAY": 1540, "AIAECTI": 0, "AIASEN": 0, "AIFDBID": 241, "AIMGOTSS": 0, "AIFCPS": 10, "AIFTSWTH": 0,
        "AIFRMLID": 3024, "AIFTSID": 40961, "AIHISMXB": 7, "AIHIS192": 0, "AIHIS348": 0, "AIHIS604": 0, "AIHIS860": 0,
        "AIFWEN": 204, "AIMGSHCE": int(exposure * 1000), "AECTYPE": 0 if exposure == EXPOSURE_S[channel] else 2,
        "AECMODE": "ON", "AISTATE": "CLOSED", "AIAECENF": 1, "AIFILTYP": 0, "AICFGDL1": 0, "AICFGDL2": 137, "AICFGDL3": 201,
        "AICFGDL4": 236, "AIFOENFL": 1, "AIMGFSN": 5, "AIMGTYP": 0, "AIAWVLEN": 7,
        **{f"AIAGP{number}": 0 for number in range(1, 11)}, "AGT1SVY": 0, "AGT1SVZ": 0, "AGT2SVY": 0, "AGT2SVZ": 0,
        "AGT3SVY": 0, "AGT3SVZ": 0, "AGT4SVY": 0, "AGT4SVZ": 0, "AIMSHEN": 4, "PIXLUNIT": "DN",
        "RECNUM": slot // 4, "KEYWDDOC": "AIA02840", "BLANK": -32768,
    }  # fmt: skip
    if frame.fault == "dark":
        header["IMG_TYPE"] = "DARK"
    elif frame.fault == "wrong_channel":
        header["WAVELNTH"] = 4500
    elif frame.fault == "no_keyword":
        del header["DSUN_OBS"], header["RSUN_OBS"], header["CRPIX1"], header["X0_MP"]
        del header["EXPTIME"]
    return header


def level1_fits(config: SimulationConfig, frame: PlannedFrame) -> bytes:
    """Return a frame as a level-1 FITS file: an empty primary unit and a Rice-compressed image, one tile per row.

    Raises
    ------
    FrameError
        MISSING_AT_SOURCE for a missing frame.
    """
    if frame.fault == "missing":
        raise FrameError(FrameStatus.MISSING_AT_SOURCE, f"the simulation has no frame at {frame.nominal}")
    if frame.fault == "not_fits":
        return b"<html><body>503 Service Unavailable</body></html>\n"
    counts, keywords = level1_frame(config, frame)
    header = fits.Header()
    blank = keywords.pop("BLANK")
    for name, value in keywords.items():
        header[name] = value
    image = fits.CompImageHDU(counts, header, compression_type="RICE_1", tile_shape=(1, config.pixels))
    image.header["BLANK"] = blank
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(buffer, output_verify="silentfix")
    data = buffer.getvalue()
    return data[: int(len(data) * 0.6)] if frame.fault == "corrupt" else data


def write_calibration(
    config: SimulationConfig, folder: str | Path, start: np.datetime64, end: np.datetime64
) -> tuple[Path, Path]:
    """Write the response table and the pointing table below a folder and return their paths."""
    place = Path(folder) / "calibration"
    place.mkdir(parents=True, exist_ok=True)
    table, pointing = place / TABLE_NAME, place / POINTING_NAME
    table.write_text(response_table(), encoding="ascii")
    pointing.write_text(pointing_table(config, start, end), encoding="ascii")
    return table, pointing


class SimulatorSource:
    """Frames that are rendered when they are fetched.

    Parameters
    ----------
    config : SimulationConfig
        The simulated mission.
    """

    sees_changes = False

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config

    def prepare(self, bundles: Sequence[str], start: np.datetime64, end: np.datetime64) -> None:
        """Nothing has to be prepared."""

    def candidates(self, bundle: str, start: np.datetime64, end: np.datetime64) -> list[FrameRecord]:
        """List the frames observed in [start, end)."""
        margin = np.timedelta64(10, "s")
        frames = mission_frames(self.config, [bundle], start - margin, end + margin)
        return [
            FrameRecord(bundle, frame.observed, f"simulator:{bundle}/{frame.nominal}")
            for frame in frames
            if frame.fault != "missing" and start <= frame.observed < end
        ]

    def stage(self, records: Sequence[FrameRecord]) -> None:
        """Nothing to do: frames are rendered one by one."""

    def fetch(self, record: FrameRecord) -> bytes:
        """Render a frame and return its FITS file."""
        nominal = np.datetime64(record.locator.rsplit("/", 1)[1], "ns")
        return level1_fits(self.config, planned_frame(self.config, record.channel, nominal))

    def files(self, channel: str, start: np.datetime64, end: np.datetime64) -> Iterator[tuple[str, FrameRecord]]:
        """Yield the path below a folder and the record of every file with a nominal time in [start, end)."""
        for frame in mission_frames(self.config, [channel], start, end):
            if frame.fault != "missing":
                record = FrameRecord(channel, frame.observed, f"simulator:{channel}/{frame.nominal}")
                yield f"level1/{channel}/{frame.file_name}", record
