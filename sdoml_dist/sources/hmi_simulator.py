"""Simulated HMI records: vector field, magnetogram, Dopplergram and continuum as JSOC exports them."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.io import fits

from sdoml_dist.solar.geometry import RSUN_REF_M, image_plane
from sdoml_dist.solar.hmi import DISAMBIGUATION_BIT, WAVELENGTH_ANGSTROM
from sdoml_dist.solar.orbit import AU_M, ephemeris
from sdoml_dist.solar.photosphere import PhotosphereModel
from sdoml_dist.solar.products import Product
from sdoml_dist.solar.quality import NEAR_REAL_TIME_BIT
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import tai_to_utc, utc_to_tai
from sdoml_dist.sources.base import FrameRecord

# Plate scale and rotation of HMI's front camera (Schou et al. 2012; header of 2014-03-01: CROTA2 = 179.929779).
_SCALE_ARCSEC = 0.504
_CROTA2 = 179.93
# Noise of 720-second and 45-second observables (Liu et al. 2012, Solar Phys. 279, 295; Hoeksema et al. 2014).
_NOISE = {"M_720s": 6.3, "M_45s": 10.2, "V_720s": 7.0, "V_45s": 17.0, "Ic_720s": 60.0, "Ic_45s": 150.0}
_NOISE_TRANSVERSE_G, _NOISE_LINE_OF_SIGHT_G = 60.0, 6.0
# Steps of the stored integers and units, as in JSOC's exports.
_STEP = {"field": 0.01, "inclination": 0.01, "azimuth": 0.01, "magnetogram": 0.1, "Dopplergram": 0.5, "continuum": 0.1}
_BUNIT = {"field": "Mx/cm^2", "inclination": "degree", "azimuth": "degree", "disambig": " ", "magnetogram": "Gauss",
          "Dopplergram": "m/s", "continuum": "DN/s"}  # fmt: skip
_BLANK = -(2**31)
_WEAK_FIELD_G = 150.0
"""Below this, JSOC does not solve the ambiguity by the minimum-energy method (Hoeksema et al. 2014, section 5)."""


@lru_cache(maxsize=2)
def _photosphere(seed: int) -> PhotosphereModel:
    return PhotosphereModel(seed)


@dataclass(frozen=True)
class PlannedRecord:
    """A record of the simulated mission: T_REC in UTC, and what is wrong with it."""

    bundle: str
    time: np.datetime64
    fault: str | None

    @property
    def t_rec(self) -> str:
        """T_REC as JSOC writes it, in TAI."""
        text = str(utc_to_tai(self.time).astype("datetime64[s]"))
        return text.replace("-", ".").replace("T", "_") + "_TAI"


def _rng(config: SimulationConfig, record: str, time: np.datetime64, purpose: int) -> np.random.Generator:
    second = int(time.astype("datetime64[s]").astype(np.int64))
    return np.random.Generator(np.random.SFC64([config.seed, purpose, zlib.crc32(record.encode()), second]))


def planned_records(
    config: SimulationConfig, bundle: str, cadence_s: int, start: np.datetime64, end: np.datetime64
) -> Iterator[PlannedRecord]:
    """Yield the records with T_REC in [start, end) UTC, the missing ones too; T_REC are whole steps of TAI."""
    first, last = (int(utc_to_tai(time).astype("datetime64[ns]").astype(np.int64)) for time in (start, end))
    step = cadence_s * 10**9
    for index in range(-(-first // step), -(-last // step)):
        time = tai_to_utc(np.datetime64(index * step, "ns"))
        dice = _rng(config, bundle, time, 41).uniform()
        limits = np.cumsum([config.missing_rate, config.flagged_rate, config.corrupt_rate])
        kinds = [kind for kind, limit in zip(("missing", "flagged", "corrupt"), limits, strict=True) if dice < limit]
        fault = kinds[0] if kinds else None
        for given in config.faults:
            if given.channel in ("*", bundle) and np.datetime64(given.time, "ns") == time:
                fault = given.kind
        yield PlannedRecord(bundle, time, fault)


def _geometry(config: SimulationConfig, time: np.datetime64) -> tuple[float, float, float, float]:
    """Return the Sun's centre in pixels counted from 0, the plate scale and the rotation."""
    fixed = np.random.default_rng([config.seed, 43])
    scale = config.pixels / 4096
    x, y = 2047.5 + fixed.uniform(-9, 9, 2) + np.random.default_rng([config.seed, 47]).normal(0, 0.1, 2)
    return float((x + 0.5) * scale - 0.5), float((y + 0.5) * scale - 0.5), _SCALE_ARCSEC / scale, _CROTA2


@lru_cache(maxsize=2)
def _observed(config: SimulationConfig, bundle: str, time: np.datetime64) -> dict[str, np.ndarray]:
    """Render what the camera sees, segment by segment, in physical units."""
    size = config.pixels
    x0, y0, plate, crota2 = _geometry(config, time)
    affine = image_plane(x0, y0, plate / ephemeris(time).rsun_obs_arcsec, crota2)
    angle = np.radians(crota2)
    sun, shape = _photosphere(config.seed), (size, size)
    rng = _rng(config, bundle, time, 53)

    def noise(sigma: float) -> np.ndarray | float:
        return rng.normal(0, sigma, shape).astype(np.float32) if config.noise else 0.0

    if bundle.startswith("M"):
        return {"magnetogram": sun.vector_field(time, shape, affine)[2] + noise(_NOISE[bundle])}
    if bundle.startswith("V"):
        return {"Dopplergram": sun.velocity(time, shape, affine) + noise(_NOISE[bundle])}
    if bundle.startswith("Ic"):
        light = sun.continuum(time, shape, affine)
        return {"continuum": np.where(light > 0, light + noise(_NOISE[bundle]), np.nan)}
    bx, by, bz = sun.vector_field(time, shape, affine)
    right = np.cos(angle) * bx + np.sin(angle) * by + noise(_NOISE_TRANSVERSE_G)
    up = -np.sin(angle) * bx + np.cos(angle) * by + noise(_NOISE_TRANSVERSE_G)
    bz = bz + noise(_NOISE_LINE_OF_SIGHT_G)
    strength = np.sqrt(right**2 + up**2 + bz**2)
    azimuth = np.degrees(np.arctan2(-right, up)) % 360 % 360  # a tiny negative angle becomes 360.0 at first
    flip = azimuth >= 180
    with np.errstate(invalid="ignore"):
        strong = strength > _WEAK_FIELD_G
        inclination = np.degrees(np.arccos(np.clip(bz / strength, -1, 1)))
    guesses = dict.fromkeys(DISAMBIGUATION_BIT, flip)
    guesses["random"] = np.where(strong, flip, rng.integers(0, 2, shape, dtype=np.uint8).astype(bool))
    disambig = sum(guesses[name].astype(np.uint8) << bit for name, bit in DISAMBIGUATION_BIT.items())
    return {
        "field": strength, "inclination": inclination, "azimuth": azimuth % 180,
        "disambig": np.asarray(disambig, np.uint8),
    }  # fmt: skip


def _header(config: SimulationConfig, record: PlannedRecord, segment: str, cadence_s: int) -> dict[str, Any]:
    time = record.time
    place = ephemeris(time)
    x0, y0, plate, crota2 = _geometry(config, time)
    header: dict[str, Any] = {
        "ORIGIN": "SDOML simulator", "TELESCOP": "SDO/HMI", "INSTRUME": "HMI_COMBINED", "CAMERA": 1, "HCAMID": 3,
        "DATE": f"{(time + np.timedelta64(86400, 's')).astype('datetime64[s]')}", "T_REC": record.t_rec,
        "T_OBS": record.t_rec, "TRECSTEP": float(cadence_s), "TRECEPOC": "1993.01.01_00:00:00_TAI", "CADENCE": float(cadence_s),
        "DATE-OBS": f"{(time - np.timedelta64(cadence_s // 2, 's')).astype('datetime64[ms]')}",
        "WAVELNTH": float(WAVELENGTH_ANGSTROM), "BUNIT": _BUNIT[segment], "CONTENT": segment.upper(),
        "QUALITY": 1 << NEAR_REAL_TIME_BIT if record.fault == "flagged" else 0, "QUALLEV1": 0, "CALVER64": 8466,
        "CTYPE1": "HPLN-TAN", "CTYPE2": "HPLT-TAN", "CUNIT1": "arcsec", "CUNIT2": "arcsec", "CRVAL1": 0.0, "CRVAL2": 0.0,
        "CRPIX1": x0 + 1, "CRPIX2": y0 + 1, "CDELT1": plate, "CDELT2": plate, "CROTA2": crota2,
        "R_SUN": place.rsun_obs_arcsec / plate, "RSUN_OBS": round(place.rsun_obs_arcsec, 6), "RSUN_REF": RSUN_REF_M,
        "DSUN_REF": AU_M, "DSUN_OBS": round(place.dsun_obs_m, 2), "CRLN_OBS": round(place.l0_deg, 6),
        "CRLT_OBS": round(place.b0_deg, 6), "CAR_ROT": place.carrington_rotation, "BLD_VERS": "simulated",
        "RECNUM": int(time.astype("datetime64[s]").astype(np.int64)) // cadence_s,
        **{f"OBS_V{axis}": round(value, 4) for axis, value in zip("RWN", place.velocity_m_s, strict=True)},
    }  # fmt: skip
    if record.fault == "no_keyword":
        del header["CRPIX1"], header["DSUN_OBS"], header["RSUN_OBS"]
    elif record.fault == "wrong_channel":
        header["WAVELNTH"] = 171.0
    return header


def hmi_file_name(series: str, record: PlannedRecord, segment: str) -> str:
    """Return the name of a file as JSOC's exports have it."""
    stamp = record.t_rec.replace(".", "").replace(":", "").removesuffix("_TAI")
    return f"{series}.{stamp}_TAI.{segment}.fits"


def hmi_fits(config: SimulationConfig, record: PlannedRecord, segment: str, cadence_s: int) -> bytes:
    """Return one segment of a record as a Rice-compressed FITS file of scaled integers.

    Raises
    ------
    FrameError
        MISSING_AT_SOURCE for a missing record.
    """
    if record.fault == "missing":
        raise FrameError(FrameStatus.MISSING_AT_SOURCE, f"the simulation has no record at {record.t_rec}")
    if record.fault == "not_fits":
        return b"<html><body>503 Service Unavailable</body></html>\n"
    image = _observed(config, record.bundle, record.time)[segment]
    header = fits.Header()
    for name, value in _header(config, record, segment, cadence_s).items():
        header[name] = value
    if segment == "disambig":
        stored = image
    else:
        step = _STEP[segment]
        stored = np.where(np.isfinite(image), np.rint(np.nan_to_num(image) / step), _BLANK).astype(np.int32)
    unit = fits.CompImageHDU(stored, header, compression_type="RICE_1", tile_shape=(1, config.pixels))
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(buffer, output_verify="silentfix")
    data = buffer.getvalue()
    if segment != "disambig":
        data = _scaled(data, _STEP[segment])
    return data[: int(len(data) * 0.6)] if record.fault == "corrupt" else data


def _scaled(data: bytes, step: float) -> bytes:
    """Say in a written header that its integers count steps; astropy would otherwise scale the pixels itself."""
    for name, value in (("CAMERA", f"BSCALE  = {step:>20}"), ("HCAMID", f"BLANK   = {_BLANK:>20}")):
        place = data.index(f"{name:<8}= ".encode())
        data = data[:place] + f"{value:<80}".encode() + data[place + 80 :]
    return data


class HmiSimulatorSource:
    """Records that are rendered when they are fetched.

    Parameters
    ----------
    config : SimulationConfig
        The simulated mission.
    product : Product
        Which of HMI's products.
    """

    sees_changes = False

    def __init__(self, config: SimulationConfig, product: Product) -> None:
        self.config, self.product = config, product
        self.cadence_s = 45 if product.name in ("hmi_45s", "hmi_stack") else 720

    def prepare(self, bundles: Sequence[str], start: np.datetime64, end: np.datetime64) -> None:
        """Nothing has to be prepared."""

    def candidates(self, bundle: str, start: np.datetime64, end: np.datetime64) -> list[FrameRecord]:
        """List the records of a bundle in [start, end)."""
        found = []
        for record in planned_records(self.config, bundle, self.cadence_s, start, end):
            if record.fault == "missing":
                continue
            locator = f"simulator:{self.product.bundle(bundle).series}/{record.time}"
            files = tuple(
                (segment, FrameRecord(bundle, record.time, f"{locator}/{segment}"))
                for segment in self.product.bundle(bundle).segments
            )
            found.append(FrameRecord(bundle, record.time, locator, segments=files))
        return found

    def files(self, channel: str, start: np.datetime64, end: np.datetime64) -> Iterator[tuple[str, FrameRecord]]:
        """Yield the path below a folder and the record of every file with T_REC in [start, end)."""
        series = self.product.bundle(channel).series
        for record in self.candidates(channel, start, end):
            planned = PlannedRecord(channel, record.time, None)
            for segment, file in record.segments:
                yield f"hmi/{series}/{hmi_file_name(series, planned, segment)}", file

    def stage(self, records: Sequence[FrameRecord]) -> None:
        """Nothing to do: records are rendered one by one."""

    def fetch(self, record: FrameRecord) -> bytes:
        """Render a segment and return its FITS file."""
        _, time, segment = record.locator.rsplit("/", 2)
        moment = np.datetime64(time, "ns")
        after = moment + np.timedelta64(1, "ns")
        (planned,) = planned_records(self.config, record.channel, self.cadence_s, moment, after)
        return hmi_fits(self.config, planned, segment, self.cadence_s)
