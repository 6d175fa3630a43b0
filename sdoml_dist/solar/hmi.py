"""Calibrate one HMI record: vector field, magnetogram, Dopplergram or continuum, on the dataset's grid.

HMI's camera stands on its head: CROTA2 is near 180 degrees. The same kernel as for AIA turns, recentres, rescales and
averages; a vector field is first taken apart into components, because angles cannot be averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin
from typing import Literal

import numba
import numpy as np

from sdoml_dist.solar.calibrate import CalibratedFrame, Header, frame_pointing, needed, observation_time, positive
from sdoml_dist.solar.geometry import Pointing, grid_keywords, source_keywords, source_transform
from sdoml_dist.solar.keywords import HMI_KEYWORDS, copied, number
from sdoml_dist.solar.products import Bundle
from sdoml_dist.solar.quality import bits
from sdoml_dist.solar.registration import register_and_bin
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import parse_fits_time

WAVELENGTH_ANGSTROM = 6173
DISAMBIGUATION_BIT = {"potential": 0, "random": 1, "radial": 2}
"""Bits of the ``disambig`` segment: which solution for weak field turns the azimuth by 180 degrees (JSOC,
hmi.B_720s; Hoeksema et al. 2014, section 5). In strong field all three agree."""

# JSOC's value for "no inversion": field strengths below it are not measurements (SDOML's reader uses the same limit).
_BAD_FIELD = -1e7


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _components(
    field: np.ndarray, inclination: np.ndarray, azimuth: np.ndarray, disambig: np.ndarray, bit: int, cosine: float,
    sine: float, out: np.ndarray,
) -> None:  # fmt: skip
    rows, columns = field.shape
    degree = np.float32(np.pi / 180.0)
    for j in range(rows):
        for i in range(columns):
            strength = field[j, i]
            psi = azimuth[j, i]
            gamma = inclination[j, i]
            if not (strength > _BAD_FIELD and np.isfinite(psi) and np.isfinite(gamma) and np.isfinite(strength)):
                out[0, j, i] = out[1, j, i] = out[2, j, i] = np.nan
                continue
            transverse = strength * np.sin(gamma * degree)
            if (np.int64(disambig[j, i]) >> bit) & 1:
                transverse = -transverse
            right = -transverse * np.sin(psi * degree)
            up = transverse * np.cos(psi * degree)
            out[0, j, i] = cosine * right - sine * up
            out[1, j, i] = sine * right + cosine * up
            out[2, j, i] = strength * np.cos(gamma * degree)


def vector_components(
    field: np.ndarray,
    inclination: np.ndarray,
    azimuth: np.ndarray,
    disambig: np.ndarray,
    *,
    bit: int,
    crota2: float = 180.0,
) -> np.ndarray:
    """Turn strength and angles into components along solar west, solar north and towards SDO.

    Parameters
    ----------
    field : numpy.ndarray
        Field strength B, gauss, shape (y, x); below -1e7 or NaN where there is none.
    inclination : numpy.ndarray
        Angle to the line of sight, degrees; 0 points to SDO.
    azimuth : numpy.ndarray
        Angle of the transverse field, degrees, counter-clockwise from the camera's y axis (up).
    disambig : numpy.ndarray
        Integers whose bit `bit` says that the azimuth is to be turned by 180 degrees.
    bit : int
        See `DISAMBIGUATION_BIT`.
    crota2 : float
        Rotation of the camera, degrees, as in the header. With 180 these are the formulas of SDOML (Galvez et al.
        2019): Bx = B sin(inclination) sin(azimuth), By = -B sin(inclination) cos(azimuth), Bz = B cos(inclination).

    Returns
    -------
    numpy.ndarray
        Bx, By, Bz, shape (3, y, x), float32, gauss, still on the camera's pixels; NaN where there is no field.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if not field.shape == inclination.shape == azimuth.shape == disambig.shape:
        raise ValueError(f"shapes differ: {field.shape}, {inclination.shape}, {azimuth.shape}, {disambig.shape}")
    out = np.empty((3, *field.shape), np.float32)
    _components(
        field.astype(np.float32, copy=False), inclination.astype(np.float32, copy=False),
        azimuth.astype(np.float32, copy=False), disambig, bit, cos(radians(crota2)), sin(radians(crota2)), out,
    )  # fmt: skip
    return out


@numba.njit(cache=True, nogil=True)
def _cut_off_disc(image: np.ndarray, x: float, y: float, radius: float) -> None:
    for j in range(image.shape[0]):
        for i in range(image.shape[1]):
            if (i - x) ** 2 + (j - y) ** 2 > radius**2:
                image[j, i] = np.nan


def check_hmi_header(header: Header) -> np.datetime64:
    """Decide by the header whether a record can be used.

    Returns
    -------
    numpy.datetime64
        T_OBS in UTC; HMI writes it in TAI.

    Raises
    ------
    FrameError
        REJECTED_QUALITY, REJECTED_CHANNEL, FAILED_KEYWORD or FAILED_TIME.
    """
    wavelength = number(header.get("WAVELNTH"))
    if wavelength is not None and round(wavelength) != WAVELENGTH_ANGSTROM:
        raise FrameError(FrameStatus.REJECTED_CHANNEL, f"WAVELNTH is {wavelength:g}, not {WAVELENGTH_ANGSTROM}")
    quality = int(needed(header, "QUALITY"))
    if quality != 0:
        raise FrameError(FrameStatus.REJECTED_QUALITY, f"QUALITY is {quality:#010x}, bits {bits(quality)}")
    return observation_time(header)


def calibrate_hmi(
    segments: dict[str, np.ndarray], header: Header, bundle: Bundle, settings: CalibrationSettings, *,
    disambiguation: Literal["potential", "random", "radial"] = "radial",
    orientation: Literal["header", "published"] = "header",
) -> CalibratedFrame:  # fmt: skip
    """Calibrate a record.

    Parameters
    ----------
    segments : dict of str to numpy.ndarray
        Images by JSOC's names of segments, shape (y, x), physical values.
    header : dict
        Keywords of the record.
    bundle : Bundle
        What to make of it.
    settings : CalibrationSettings
        Grid and limits.
    disambiguation, orientation
        See :class:`sdoml_dist.recipe.VectorField`.

    Returns
    -------
    CalibratedFrame
        ``image`` of shape (channels, pixels, pixels): gauss, m/s or DN/s; solar north up, centred, with a fixed
        solar radius; NaN off the disc and where too little of a pixel is valid.

    Raises
    ------
    FrameError
        With the status that says why the record cannot be used.
    """
    time = check_hmi_header(header)
    expected = settings.expected_shape
    for name in bundle.segments:
        if name not in segments:
            raise FrameError(FrameStatus.MISSING_AT_SOURCE, f"the segment {name} is not there")
        # All segments of a record have one shape, even where any would do.
        shape, wanted = segments[name].shape, expected or (segments[name].shape[-1],) * 2
        if shape != wanted:
            raise FrameError(FrameStatus.FAILED_SHAPE, f"segment {name} is {shape}, expected {wanted}")
        expected = wanted
    pointing, _ = frame_pointing(header, WAVELENGTH_ANGSTROM, time, settings, None)
    planes = _planes(segments, header, bundle, pointing, disambiguation, orientation)
    pixels = settings.pixels
    transform = source_transform(pointing, pixels, settings.solar_radius_arcsec)
    image = np.empty((len(planes), pixels, pixels), np.float32)
    for index, plane in enumerate(planes):
        # Off the disc there is noise, fill values or scattered light, none of which may leak into the limb's average.
        _cut_off_disc(plane, pointing.crpix1 - 1, pointing.crpix2 - 1, pointing.rsun_obs / pointing.cdelt1)
        image[index] = register_and_bin(
            plane, transform, pixels, minimum_valid_fraction=settings.minimum_valid_fraction
        )
    if not np.isfinite(image).any(axis=(1, 2)).all():
        raise FrameError(FrameStatus.FAILED_NO_DATA, "no pixel is valid")
    keywords = (
        copied(header, HMI_KEYWORDS)
        | grid_keywords(pixels, settings.solar_radius_arcsec, pointing.rsun_obs)
        | source_keywords(pointing)
        | {"T_OBS": time, "QUALITY": 0}
    )
    if isinstance(record := header.get("T_REC"), str):
        keywords["T_REC"] = parse_fits_time(record)
    return CalibratedFrame(image, keywords, time)


@dataclass(frozen=True)
class FullDisc:
    """A frame of one segment on the camera's pixels.

    Attributes
    ----------
    image : numpy.ndarray
        Shape (y, x), float32: gauss, m/s or DN/s; NaN where there is no value.
    time : numpy.datetime64
        T_OBS, UTC.
    pointing : Pointing
        Geometry of the image.
    l0_deg, b0_deg, dsun_obs_m : float
        CRLN_OBS, CRLT_OBS, DSUN_OBS.
    velocity_m_s : tuple of float
        OBS_VR, OBS_VW, OBS_VN; NaN where the header lacks them.
    """

    image: np.ndarray
    time: np.datetime64
    pointing: Pointing
    l0_deg: float
    b0_deg: float
    dsun_obs_m: float
    velocity_m_s: tuple[float, float, float]


def full_disc(image: np.ndarray, header: Header, bundle: Bundle, settings: CalibrationSettings) -> FullDisc:
    """Check a frame of one segment and return it as it is, with its geometry.

    Parameters
    ----------
    image : numpy.ndarray
        Shape (y, x), physical values.
    header : dict
        Keywords of the record.
    bundle : Bundle
        What it is, of one segment.
    settings : CalibrationSettings
        Expected shape.

    Raises
    ------
    FrameError
        With the status that says why the frame cannot be used.
    """
    time = check_hmi_header(header)
    expected = settings.expected_shape or (image.shape[-1],) * 2
    if image.shape != expected:
        raise FrameError(
            FrameStatus.FAILED_SHAPE, f"segment {bundle.segments[0]} is {image.shape}, expected {expected}"
        )
    pointing, _ = frame_pointing(header, WAVELENGTH_ANGSTROM, time, settings, None)
    (plane,) = _planes({bundle.segments[0]: image}, header, bundle, pointing, "radial", "header")
    radial, west, north = (number(header.get(name)) for name in ("OBS_VR", "OBS_VW", "OBS_VN"))
    velocity = tuple(np.nan if value is None else value for value in (radial, west, north))
    return FullDisc(
        plane, time, pointing, needed(header, "CRLN_OBS"), needed(header, "CRLT_OBS"), positive(header, "DSUN_OBS"),
        velocity,  # type: ignore[arg-type]
    )  # fmt: skip


def _planes(
    segments: dict[str, np.ndarray],
    header: Header,
    bundle: Bundle,
    pointing: Pointing,
    disambiguation: str,
    orientation: str,
) -> list[np.ndarray]:
    """Return one image per channel on the camera's pixels, float32 and free to be changed."""
    if "azimuth" in bundle.segments:
        components = vector_components(
            *(segments[name] for name in ("field", "inclination", "azimuth", "disambig")),
            bit=DISAMBIGUATION_BIT[disambiguation],
            crota2=pointing.crota2 if orientation == "header" else 180.0,
        )
        return [components[("Bx", "By", "Bz").index(name)] for name in bundle.channels]
    plane = segments[bundle.segments[0]].astype(np.float32)
    blank = header.get("BLANK")
    if isinstance(blank, int) and segments[bundle.segments[0]].dtype.kind in "iu":
        plane[segments[bundle.segments[0]] == blank] = np.nan
    # Velocities are m/s whatever BUNIT says: SHARPs say cm/s, and yet their mean is that of OBS_VR, in m/s.
    return [plane]
