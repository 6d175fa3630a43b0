"""Frames of STEREO's EUVI on the dataset's grid, and their intensities brought to those of AIA.

EUVI (Wuelser et al. 2004, Proc. SPIE 5171, 111; Howard et al. 2008, Space Sci. Rev. 136, 67) has 2048 x 2048 pixels of 1.59
arcsec in 171, 195, 284 and 304 Angstrom. Level 0.5 holds counts with their bias. Here a frame becomes counts per second
and is registered by the kernel that AIA's frames go through: solar north up, centred, with the dataset's solar radius.

Its units are its own; networks trained on AIA see it after two steps: the median of the disc becomes 100 (Jeong et al. 2020),
which removes degradation and the instrument's efficiency, and a monotone curve gives 195 the distribution of 193.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import atan2, cos, degrees, radians, sin
from typing import Any

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.calibrate import CalibratedFrame, Header, needed, observation_time, positive
from sdoml_dist.solar.geometry import Pointing, grid_keywords, rsun_obs_arcsec, source_keywords, source_transform
from sdoml_dist.solar.keywords import number
from sdoml_dist.solar.registration import register_and_bin
from sdoml_dist.solar.settings import CalibrationSettings
from sdoml_dist.solar.status import FrameError, FrameStatus

CHANNELS = {171: "171A", 195: "193A", 284: "211A", 304: "304A"}
"""Wavelengths of EUVI, and the channels of AIA that show most nearly the same plasma (Fe IX, Fe XII, Fe XIV or XV, He II)."""

_COPIED = ("HGLN_OBS", "HGLT_OBS", "CRLN_OBS", "CRLT_OBS", "DSUN_OBS")
# Levels of the curve between two distributions; most of them where active regions are.
_LEVELS = np.concatenate([np.linspace(0.001, 0.9, 46), 1.0 - np.logspace(-1, -4, 16)[1:]])


@dataclass(frozen=True)
class EuviFrame:
    """A frame on the dataset's grid.

    Attributes
    ----------
    spacecraft : str
        ``STEREO_A`` or ``STEREO_B``.
    wavelength : int
        171, 195, 284 or 304.
    frame : CalibratedFrame
        Image in counts per second and pixel of the source, keywords of the stored image and of its observer, and time.
    separation_deg : float
        Stonyhurst longitude of the spacecraft, west positive.
    """

    spacecraft: str
    wavelength: int
    frame: CalibratedFrame
    separation_deg: float

    @property
    def channel(self) -> str:
        """The channel of AIA that it stands for."""
        return CHANNELS[self.wavelength]

    @property
    def time(self) -> np.datetime64:
        """Middle of the exposure, UTC."""
        return self.frame.time


def euvi_pointing(header: Header) -> Pointing:
    """Return the geometry of a frame from its header.

    The reference pixel is not the Sun's centre: CRVAL says where it points. The rotation is that of the PC matrix, or CROTA.

    Raises
    ------
    FrameError
        FAILED_KEYWORD.
    """
    scales = positive(header, "CDELT1"), positive(header, "CDELT2")
    if all(number(header.get(name)) is not None for name in ("PC1_1", "PC1_2")):
        rotation = atan2(-needed(header, "PC1_2") * scales[1] / scales[0], needed(header, "PC1_1"))
    else:
        rotation = radians(needed(header, "CROTA" if "CROTA" in header else "CROTA2"))
    east, south = -needed(header, "CRVAL1"), -needed(header, "CRVAL2")
    cosine, sine = cos(rotation), sin(rotation)
    radius = number(header.get("RSUN")) or rsun_obs_arcsec(positive(header, "DSUN_OBS"))
    return Pointing(
        crpix1=needed(header, "CRPIX1") + (cosine * east + sine * south) / scales[0],
        crpix2=needed(header, "CRPIX2") + (-sine * east + cosine * south) / scales[1],
        cdelt1=scales[0], cdelt2=scales[1], crota2=degrees(rotation), rsun_obs=radius,
    )  # fmt: skip


@dataclass(frozen=True)
class EuviHeader:
    """What the header of a frame that can be used says.

    Attributes
    ----------
    spacecraft : str
        ``STEREO_A`` or ``STEREO_B``.
    wavelength : int
        171, 195, 284 or 304.
    time : numpy.datetime64
        Middle of the exposure, UTC.
    separation_deg : float
        Stonyhurst longitude of the spacecraft, west positive.
    exposure_s : float
        Exposure.
    pointing : Pointing
        Geometry.
    """

    spacecraft: str
    wavelength: int
    time: np.datetime64
    separation_deg: float
    exposure_s: float
    pointing: Pointing


def check_euvi(header: Header, settings: CalibrationSettings) -> EuviHeader:
    """Decide by the header whether a frame can be used, before its pixels are touched.

    Parameters
    ----------
    header : dict
        Keywords.
    settings : CalibrationSettings
        Limits of the exposure.

    Raises
    ------
    FrameError
        With the status that says why the frame cannot be used.
    """
    if str(header.get("DETECTOR", "")).strip() != "EUVI":
        raise FrameError(FrameStatus.REJECTED_CHANNEL, f"DETECTOR is {header.get('DETECTOR')!r}, not EUVI")
    wavelength = int(needed(header, "WAVELNTH"))
    if wavelength not in CHANNELS:
        raise FrameError(FrameStatus.REJECTED_CHANNEL, f"WAVELNTH is {wavelength}")
    if str(header.get("LEDCOLOR", "NONE")).strip() not in ("NONE", ""):
        raise FrameError(FrameStatus.REJECTED_NOT_LIGHT, f"LEDCOLOR is {header['LEDCOLOR']}")
    exposure = needed(header, "EXPTIME")
    if not max(settings.minimum_exposure_s, 0.0) < exposure <= settings.maximum_exposure_s:
        raise FrameError(FrameStatus.REJECTED_EXPOSURE, f"EXPTIME is {exposure:g} s")
    time = observation_time(header)
    if not number(header.get("OFFSETCR")):
        needed(header, "BIASMEAN")
    pointing = euvi_pointing(header)
    spacecraft = str(header.get("OBSRVTRY", "")).strip()
    if spacecraft not in ("STEREO_A", "STEREO_B"):
        raise FrameError(FrameStatus.FAILED_KEYWORD, f"OBSRVTRY is {spacecraft!r}")
    return EuviHeader(spacecraft, wavelength, time, needed(header, "HGLN_OBS"), exposure, pointing)


def calibrate_euvi(image: np.ndarray, header: Header, settings: CalibrationSettings) -> EuviFrame:
    """Calibrate a frame of level 0.5 or 1.

    Parameters
    ----------
    image : numpy.ndarray
        Counts, shape (y, x).
    header : dict
        Keywords.
    settings : CalibrationSettings
        Grid and limits of the exposure.

    Returns
    -------
    EuviFrame
        Counts per second, bias subtracted unless the header says that it was (OFFSETCR), NaN beyond the camera and in
        blocks that telemetry lost.

    Raises
    ------
    FrameError
        With the status that says why the frame cannot be used.
    """
    about = check_euvi(header, settings)
    counts = image.astype(np.float32)
    if (number(header.get("NMISSING")) or 0) > 0:
        # Blocks that telemetry lost are 0, which no pixel with a bias of some 700 counts is.
        counts[image == 0] = np.nan
    if not number(header.get("OFFSETCR")):
        # Pixels that were summed on board have the bias once for each of them (SolarSoft, get_biasmean).
        summed = max(1.0, number(header.get("IPSUM")) or 1.0)
        counts -= np.float32(needed(header, "BIASMEAN") * 4.0 ** (summed - 1.0))
    counts /= np.float32(about.exposure_s)
    transform = source_transform(about.pointing, settings.pixels, settings.solar_radius_arcsec)
    stored = register_and_bin(
        counts, transform, settings.pixels, minimum_valid_fraction=settings.minimum_valid_fraction
    )
    if not np.isfinite(stored).any():
        raise FrameError(FrameStatus.FAILED_NO_DATA, "no pixel is valid")
    radius = about.pointing.rsun_obs
    keywords: dict[str, Any] = {
        name: value for name in _COPIED if (value := number(header.get(name))) is not None
    } | grid_keywords(settings.pixels, settings.solar_radius_arcsec, radius) | source_keywords(about.pointing) | {
        "EXPTIME": about.exposure_s, "T_OBS": about.time, "WAVELNTH": about.wavelength,
    }  # fmt: skip
    calibrated = CalibratedFrame(stored, keywords, about.time)
    return EuviFrame(about.spacecraft, about.wavelength, calibrated, about.separation_deg)


@dataclass(frozen=True)
class IntensityMatch:
    """A monotone curve that gives one instrument's intensities the distribution of another's.

    Attributes
    ----------
    source, target : tuple of float
        Intensities at the same levels of both distributions, ascending; both with the disc's median at 100.

    Examples
    --------
    >>> curve = IntensityMatch((50.0, 100.0, 200.0), (40.0, 100.0, 300.0))
    >>> curve.apply(np.array([50.0, 150.0, 400.0])).tolist()
    [40.0, 200.0, 600.0]
    """

    source: tuple[float, ...]
    target: tuple[float, ...]

    @classmethod
    def fit(cls, source: np.ndarray, target: np.ndarray, mask: np.ndarray) -> IntensityMatch:
        """Match the distributions over the discs of two sets of images.

        The images need not be of the same times, but of the same phase of the solar cycle: what differs in the Sun itself
        would be taken for a difference of the instruments.

        Parameters
        ----------
        source, target : numpy.ndarray
            Intensities with the disc's median at 100, shape (..., Y, X), NaN where there is no data.
        mask : numpy.ndarray
            The disc, bool, shape (Y, X).

        Raises
        ------
        UsageError
            If a set has too few values for a curve.
        """
        ends = []
        for name, images in (("source", source), ("target", target)):
            values = images[..., mask]
            values = values[np.isfinite(values)]
            if values.size < _LEVELS.size * 10:
                raise UsageError(
                    f"The {name} has {values.size} valid pixels on the disc, too few for {_LEVELS.size} levels.",
                    "The curve would follow single pixels.",
                    "Give more images.",
                )
            ends.append(np.quantile(values.astype(np.float64), _LEVELS))
        keep = np.concatenate([[True], np.diff(ends[0]) > 0]) & (ends[0] > 0) & (ends[1] > 0)
        return cls(tuple(ends[0][keep].tolist()), tuple(np.maximum.accumulate(ends[1][keep]).tolist()))

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Return images in the intensities of the target; beyond the curve's ends ratios stay as they are there."""
        x, y = np.asarray(self.source), np.asarray(self.target)
        values = images.astype(np.float64)
        inner = np.interp(values, x, y)
        below, above = values < x[0], values > x[-1]
        inner = np.where(below, values * (y[0] / x[0]), np.where(above, values * (y[-1] / x[-1]), inner))
        matched: np.ndarray = np.where(np.isfinite(values), inner, np.nan).astype(images.dtype)
        return matched

    def to_dict(self) -> dict[str, list[float]]:
        """Return the curve as plain data for a file."""
        return {"source": list(self.source), "target": list(self.target)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> IntensityMatch:
        """Return the curve of :meth:`to_dict`.

        Raises
        ------
        UsageError
            If it is no ascending curve of at least two points.
        """
        try:
            source, target = (tuple(float(value) for value in data[name]) for name in ("source", "target"))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"not a curve of intensities: {error!r}") from None
        if len(source) != len(target) or len(source) < 2 or (np.diff(source) <= 0).any() or (np.diff(target) < 0).any():
            raise UsageError(f"not a curve of intensities: {len(source)} and {len(target)} points, or not ascending")
        return cls(source, target)
