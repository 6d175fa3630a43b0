"""Calibrate one AIA frame: from counts and header to DN/s on the dataset's grid."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin
from typing import Any

import numpy as np

from sdoml_dist.errors import CalibrationError
from sdoml_dist.solar.channels import Channel
from sdoml_dist.solar.degradation import DegradationTable
from sdoml_dist.solar.geometry import Pointing, grid_keywords, rsun_obs_arcsec, source_keywords, source_transform
from sdoml_dist.solar.keywords import copied, number
from sdoml_dist.solar.pointing import PointingTable
from sdoml_dist.solar.quality import bits, in_eclipse
from sdoml_dist.solar.registration import register_and_bin
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import parse_fits_time

Header = dict[str, Any]


@dataclass(frozen=True)
class CalibrationTables:
    """Tables of a run; None leaves the correction out."""

    degradation: DegradationTable | None = None
    pointing: PointingTable | None = None


@dataclass(frozen=True)
class CalibratedFrame:
    """A frame on the dataset's grid.

    Attributes
    ----------
    image : numpy.ndarray
        Shape (pixels, pixels), or (channels, pixels, pixels) where a record makes several; float32, NaN where there is
        no data.
    keywords : dict
        Values of the stored columns.
    time : numpy.datetime64
        T_OBS in UTC.
    """

    image: np.ndarray
    keywords: dict[str, Any]
    time: np.datetime64


def needed(header: Header, name: str) -> float:
    """Return a keyword as a finite number.

    Raises
    ------
    FrameError
        FAILED_KEYWORD if it is absent or no number.
    """
    value = number(header.get(name))
    if value is None:
        found = f"{header[name]!r}" if name in header else "absent"
        raise FrameError(FrameStatus.FAILED_KEYWORD, f"{name} is {found}")
    return value


def positive(header: Header, name: str) -> float:
    """Return a keyword as a positive number.

    Raises
    ------
    FrameError
        FAILED_KEYWORD if it is absent, no number or not positive.
    """
    value = needed(header, name)
    if value <= 0:
        raise FrameError(FrameStatus.FAILED_KEYWORD, f"{name} is {value:g}, not positive")
    return value


def observation_time(header: Header) -> np.datetime64:
    """Return T_OBS, the middle of the exposure, in UTC; where absent, DATE-OBS (its start) plus half of EXPTIME.

    Raises
    ------
    FrameError
        FAILED_KEYWORD if neither is there, FAILED_TIME if unreadable.
    """
    text = header.get("T_OBS") or header.get("DATE-OBS")
    if not isinstance(text, str):
        raise FrameError(FrameStatus.FAILED_KEYWORD, "T_OBS and DATE-OBS are absent")
    try:
        time = parse_fits_time(text)
    except ValueError as error:
        raise FrameError(FrameStatus.FAILED_TIME, str(error)) from None
    if not header.get("T_OBS"):
        time = time + np.timedelta64(int(needed(header, "EXPTIME") * 0.5e9), "ns")
    return time


def check_header(header: Header, channel: Channel, settings: CalibrationSettings) -> np.datetime64:
    """Decide by the header whether a frame can be used, before its pixels are touched.

    Parameters
    ----------
    header : dict
        Keywords of the frame.
    channel : Channel
        The channel it should be of.
    settings : CalibrationSettings
        Limits of the exposure.

    Returns
    -------
    numpy.datetime64
        T_OBS in UTC.

    Raises
    ------
    FrameError
        Any of the REJECTED statuses, FAILED_KEYWORD or FAILED_TIME.
    """
    wavelength = needed(header, "WAVELNTH")
    if wavelength != channel.wavelength_angstrom:
        raise FrameError(FrameStatus.REJECTED_CHANNEL, f"WAVELNTH is {wavelength:g}, not {channel.wavelength_angstrom}")
    kind = header.get("IMG_TYPE")
    if isinstance(kind, str) and kind.strip() and kind.strip().upper() != "LIGHT":
        raise FrameError(FrameStatus.REJECTED_NOT_LIGHT, f"IMG_TYPE is {kind}")
    quality = int(needed(header, "QUALITY"))
    if in_eclipse(header):
        raise FrameError(FrameStatus.REJECTED_ECLIPSE, f"ACS_ECLP is {header.get('ACS_ECLP')}, QUALITY {quality:#010x}")
    if quality != 0:
        raise FrameError(FrameStatus.REJECTED_QUALITY, f"QUALITY is {quality:#010x}, bits {bits(quality)}")
    exposure = needed(header, "EXPTIME")
    if not max(settings.minimum_exposure_s, 0.0) < exposure <= settings.maximum_exposure_s:
        raise FrameError(FrameStatus.REJECTED_EXPOSURE, f"EXPTIME is {exposure:g} s")
    return observation_time(header)


def frame_pointing(
    header: Header, wavelength: int, time: np.datetime64, settings: CalibrationSettings, table: PointingTable | None
) -> tuple[Pointing, bool]:
    """Return the geometry of a frame, and whether it is from the master pointing table.

    The table gives the Sun's centre counted from 0 and the rotation of the telescope; CRPIX counts from 1 and CROTA2
    = INSTROT + SAT_ROT (AIA/SDO FITS Keyword Document). Where an entry is marked missing, the header's value stays.

    Raises
    ------
    FrameError
        FAILED_KEYWORD if a value is missing in the header, or the table does not cover the frame.
    """
    rsun = number(header.get("RSUN_OBS"))
    if rsun is None or rsun <= 0:
        rsun = rsun_obs_arcsec(positive(header, "DSUN_OBS"))
    values = {
        "crpix1": needed(header, "CRPIX1"),
        "crpix2": needed(header, "CRPIX2"),
        "cdelt1": positive(header, "CDELT1"),
        "cdelt2": positive(header, "CDELT2"),
        "crota2": number(header.get("CROTA2")) or 0.0,
    }
    # CRPIX is where the coordinates are CRVAL; the kernel wants the place where they are 0, the Sun's centre.
    east, south = (-(number(header.get(name)) or 0.0) for name in ("CRVAL1", "CRVAL2"))
    cosine, sine = cos(radians(values["crota2"])), sin(radians(values["crota2"]))
    values["crpix1"] += (cosine * east + sine * south) / values["cdelt1"]
    values["crpix2"] += (cosine * south - sine * east) / values["cdelt2"]
    updated = False
    if table is not None and settings.input_level == "1":
        try:
            entry = table.entry(wavelength, time)
        except CalibrationError as error:
            raise FrameError(FrameStatus.FAILED_KEYWORD, error.what) from None
        found = {
            "crpix1": entry.x0 + 1, "crpix2": entry.y0 + 1, "cdelt1": entry.imscale, "cdelt2": entry.imscale,
            "crota2": entry.instrot + needed(header, "SAT_ROT"),
        }  # fmt: skip
        values |= {name: value for name, value in found.items() if np.isfinite(value)}
        updated = all(np.isfinite(value) for value in found.values())
    return Pointing(rsun_obs=rsun, **values), updated


def calibrate(
    raw: np.ndarray, header: Header, channel: Channel, settings: CalibrationSettings, tables: CalibrationTables
) -> CalibratedFrame:
    """Calibrate a frame.

    Parameters
    ----------
    raw : numpy.ndarray
        Counts, shape (y, x), as read.
    header : dict
        Keywords of the frame.
    channel : Channel
        The channel it should be of.
    settings : CalibrationSettings
        Grid, convention and limits.
    tables : CalibrationTables
        Degradation and pointing.

    Returns
    -------
    CalibratedFrame
        Pointing updated, north up, centred, with a fixed solar radius, averaged, divided by exposure and degradation.

    Raises
    ------
    FrameError
        With the status that says why the frame cannot be used.
    """
    time = check_header(header, channel, settings)
    if raw.ndim != 2 or (settings.expected_shape is not None and raw.shape != settings.expected_shape):
        raise FrameError(FrameStatus.FAILED_SHAPE, f"the image is {raw.shape}, expected {settings.expected_shape}")
    degradation = 1.0
    if settings.correct_degradation and tables.degradation is not None:
        try:
            degradation = float(tables.degradation.factor(channel.wavelength_angstrom, time))
        except CalibrationError as error:
            raise FrameError(FrameStatus.REJECTED_DEGRADATION, error.what) from None
        if not degradation > 0:
            raise FrameError(FrameStatus.REJECTED_DEGRADATION, f"the degradation factor is {degradation:.4g}")
    pointing, updated = frame_pointing(header, channel.wavelength_angstrom, time, settings, tables.pointing)
    blank = header.get("BLANK")
    image = register_and_bin(
        raw,
        source_transform(pointing, settings.pixels, settings.solar_radius_arcsec),
        settings.pixels,
        blank=blank if isinstance(blank, int) and raw.dtype.kind in "iu" else None,
        negative=settings.negative,
        minimum_valid_fraction=settings.minimum_valid_fraction,
    )
    exposure = max(needed(header, "EXPTIME"), settings.exposure_floor_s)
    factor = 1.0 / (exposure * degradation)
    if settings.convention == "sum":
        # Sum over the footprint of the same pixels that the mean is taken over, as SDOML v1 (4 times v2 at 512).
        factor *= (raw.shape[0] / settings.pixels) ** 2
    image *= np.float32(factor)
    if not np.isfinite(image).any():
        raise FrameError(FrameStatus.FAILED_NO_DATA, "no pixel is valid")
    keywords = (
        copied(header)
        | grid_keywords(settings.pixels, settings.solar_radius_arcsec, pointing.rsun_obs)
        | source_keywords(pointing)
        | {"T_OBS": time, "EXPTIME": exposure, "QUALITY": int(header["QUALITY"]), "DEG_COR": degradation,
           "POINTING": int(updated)}
    )  # fmt: skip
    return CalibratedFrame(image, keywords, time)
