"""Simulated frames of STEREO's EUVI: FITS files of the simulated Sun as it is seen from over its far side."""

from __future__ import annotations

import dataclasses
import io
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from astropy.io import fits

from sdoml_dist.solar.euvi import CHANNELS
from sdoml_dist.solar.geometry import RSUN_REF_M, image_plane, rsun_obs_arcsec
from sdoml_dist.solar.orbit import AU_M, Observer, ephemeris
from sdoml_dist.solar.scene import APPEARANCE, SunModel
from sdoml_dist.solar.simulation import SimulationConfig
from sdoml_dist.solar.times import format_fits_time

Spacecraft = Literal["STEREO_A", "STEREO_B"]

# Separations from Earth on 2011-03-05 as in the description of AISFM 3.0 (B) and from the same table (A), and the drift of
# the mission's design, 22 degrees a year each (Kaiser et al. 2008, Space Sci. Rev. 136, 5); distances are typical ones.
_EPOCH = np.datetime64("2011-03-05T00:00:00", "ns")
_SEPARATION_DEG = {"STEREO_A": 87.6, "STEREO_B": -94.78}
_DRIFT_DEG_PER_YEAR = {"STEREO_A": 22.0, "STEREO_B": -22.0}
_DISTANCE_AU = {"STEREO_A": 0.962, "STEREO_B": 1.03}
_YEAR = np.timedelta64(round(365.25 * 86_400e9), "ns")

# Plate scale of EUVI (Wuelser et al. 2004) and, as in a header of STEREO-A of 2009-06-15, exposure, bias and offsets.
_SCALE_ARCSEC, _PIXELS = 1.5877740, 2048
_EXPOSURE_S, _BIAS, _ROTATION_DEG, _OFFSET_ARCSEC = 16.0, 724.5, 3.8454651, (4.27, 155.08)
# The simulated instrument: counts per second over those of AIA, and an exponent of contrast, as the band of 195 differs from
# that of 193 by other lines in hot plasma. Both are this simulation's own; matching has to find them.
_RESPONSE = {171: (0.9, 1.0), 195: (0.7, 0.85), 284: (0.4, 1.1), 304: (1.3, 1.0)}
_NOISE_DN = 1.5


@lru_cache(maxsize=2)
def _sun(seed: int) -> SunModel:
    return SunModel(seed)


def stereo(spacecraft: Spacecraft, time: np.datetime64) -> tuple[Observer, float]:
    """Return where a spacecraft is, and its separation from Earth in degrees, west positive, -180 to 180."""
    years = (time - _EPOCH) / _YEAR
    separation = float((_SEPARATION_DEG[spacecraft] + _DRIFT_DEG_PER_YEAR[spacecraft] * years + 180.0) % 360.0 - 180.0)
    earth = ephemeris(time)
    # Earth comes through the spacecraft's ecliptic longitude at another time of the year, and has its latitude then.
    there = ephemeris(time + np.timedelta64(round(separation / 360.0 * 365.25 * 86_400e9), "ns"))
    distance = _DISTANCE_AU[spacecraft] * AU_M
    observer = dataclasses.replace(
        earth, dsun_obs_m=distance, rsun_obs_arcsec=rsun_obs_arcsec(distance), b0_deg=there.b0_deg,
        l0_deg=(earth.l0_deg + separation) % 360.0, hgln_deg=separation,
    )  # fmt: skip
    return observer, separation


def euvi_fits(
    config: SimulationConfig, spacecraft: Spacecraft, wavelength: int, time: np.datetime64, pixels: int = _PIXELS
) -> bytes:
    """Return a frame of level 0.5 as a FITS file.

    Parameters
    ----------
    config : SimulationConfig
        Seed, and whether there is noise.
    spacecraft : {"STEREO_A", "STEREO_B"}
        Which of the two.
    wavelength : int
        171, 195, 284 or 304.
    time : numpy.datetime64
        Middle of the exposure, UTC.
    pixels : int
        Pixels per axis; the field of view is always EUVI's.
    """
    observer, separation = stereo(spacecraft, time)
    scale = _SCALE_ARCSEC * _PIXELS / pixels
    middle = (pixels - 1) / 2
    angle = np.radians(_ROTATION_DEG)
    east, south = (-offset for offset in _OFFSET_ARCSEC)
    x0 = middle + (np.cos(angle) * east + np.sin(angle) * south) / scale
    y0 = middle + (-np.sin(angle) * east + np.cos(angle) * south) / scale
    affine = image_plane(x0, y0, scale / observer.rsun_obs_arcsec, _ROTATION_DEG)
    channel = CHANNELS[wavelength]
    emission = _sun(config.seed).render(channel, time, (pixels, pixels), affine, observer).astype(np.float64)
    factor, exponent = _RESPONSE[wavelength]
    level = APPEARANCE[channel].level
    counts = factor * level * (np.maximum(emission, 0) / level) ** exponent * _EXPOSURE_S + _BIAS
    if config.noise:
        seconds = int(time.astype("datetime64[s]").astype(np.int64))
        rng = np.random.default_rng([config.seed, 61, wavelength, seconds, spacecraft == "STEREO_B"])
        counts += rng.normal(size=counts.shape) * np.sqrt(np.maximum(counts - _BIAS, 0) / 15.0 + _NOISE_DN**2)
    image = np.clip(np.rint(counts), 0, 16383).astype(np.int16)
    header = fits.Header()
    for name, value in _header(observer, spacecraft, wavelength, time, pixels, scale, separation).items():
        header[name] = value
    buffer = io.BytesIO()
    fits.PrimaryHDU(image, header).writeto(buffer)
    return buffer.getvalue()


def _header(
    observer: Observer, spacecraft: str, wavelength: int, time: np.datetime64, pixels: int, scale: float,
    separation: float,
) -> dict[str, Any]:  # fmt: skip
    angle = np.radians(_ROTATION_DEG)
    half = np.timedelta64(int(_EXPOSURE_S * 0.5e9), "ns")
    return {
        "ORIGIN": "SDOML simulator", "OBSRVTRY": spacecraft, "INSTRUME": "SECCHI", "DETECTOR": "EUVI", "FILTER": "S1",
        "WAVELNTH": wavelength, "DATE-OBS": format_fits_time(time - half, 3), "DATE-AVG": format_fits_time(time, 3),
        "EXPTIME": _EXPOSURE_S, "BUNIT": "DN", "BIASMEAN": _BIAS, "OFFSETCR": 0.0, "IPSUM": 1.0, "SUMMED": 1.0,
        "NMISSING": 0, "LEDCOLOR": "NONE", "CTYPE1": "HPLN-TAN", "CTYPE2": "HPLT-TAN", "CUNIT1": "arcsec",
        "CUNIT2": "arcsec", "CRPIX1": (pixels + 1) / 2, "CRPIX2": (pixels + 1) / 2, "CRVAL1": _OFFSET_ARCSEC[0],
        "CRVAL2": _OFFSET_ARCSEC[1], "CDELT1": scale, "CDELT2": scale, "CROTA": _ROTATION_DEG,
        "PC1_1": float(np.cos(angle)), "PC1_2": float(-np.sin(angle)), "PC2_1": float(np.sin(angle)),
        "PC2_2": float(np.cos(angle)), "RSUN": observer.rsun_obs_arcsec, "RSUN_REF": RSUN_REF_M,
        "DSUN_OBS": observer.dsun_obs_m, "HGLN_OBS": separation, "HGLT_OBS": observer.b0_deg,
        "CRLN_OBS": observer.l0_deg, "CRLT_OBS": observer.b0_deg,
    }  # fmt: skip
