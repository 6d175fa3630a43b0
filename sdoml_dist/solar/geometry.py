"""Where the Sun is in a frame, and the affine map from the dataset's grid to a frame's pixels."""

from __future__ import annotations

from dataclasses import dataclass
from math import asin, cos, degrees, radians, sin

RSUN_REF_M = 696_000_000.0
"""Solar radius of SDO headers (keyword RSUN_REF; JSOC keyword document), metres. Not IAU's 695 700 km."""

FIELD_ARCSEC = 0.6 * 4096
"""Field of view of AIA: 4096 pixels with the nominal plate scale of 0.6 arcsec (Lemen et al. 2012)."""


def rsun_obs_arcsec(dsun_obs_m: float) -> float:
    """Return the angular radius of the Sun in arcsec from the distance in metres: ``asin(RSUN_REF / DSUN_OBS)``."""
    return degrees(asin(RSUN_REF_M / dsun_obs_m)) * 3600.0


@dataclass(frozen=True)
class Pointing:
    """Geometry of a frame.

    Attributes
    ----------
    crpix1, crpix2 : float
        Pixel of the Sun's centre, counted from 1 as FITS does.
    cdelt1, cdelt2 : float
        Plate scale in arcsec per pixel.
    crota2 : float
        Angle in degrees by which the image is rotated: solar north lies counter-clockwise of the image's y axis by
        -CROTA2 (FITS paper II; PC1_2 = -sin(CROTA2) CDELT2/CDELT1).
    rsun_obs : float
        Angular radius of the Sun in arcsec.
    """

    crpix1: float
    crpix2: float
    cdelt1: float
    cdelt2: float
    crota2: float
    rsun_obs: float


@dataclass(frozen=True)
class SourceTransform:
    """Affine map from target to source pixels, both counted from 0 at the centre of the first pixel.

    ``x = x0 + xx * i + xy * j`` and ``y = y0 + yx * i + yy * j`` for target column i and row j.
    """

    x0: float
    xx: float
    xy: float
    y0: float
    yx: float
    yy: float


def target_plate_scale(pixels: int, solar_radius_arcsec: float, rsun_obs: float) -> float:
    """Return the plate scale of the dataset's grid in arcsec per pixel for a frame seen at `rsun_obs`.

    The grid has the field of AIA where the Sun's radius is `solar_radius_arcsec`; nearer or farther, its pixels
    shrink or grow with the Sun, so that the disc always has the same size in pixels.
    """
    return FIELD_ARCSEC / pixels * rsun_obs / solar_radius_arcsec


def grid_keywords(pixels: int, solar_radius_arcsec: float, rsun_obs: float) -> dict[str, float]:
    """Return the FITS keywords of an image on the dataset's grid: north up, centred, for a Sun seen at `rsun_obs`."""
    scale, centre = target_plate_scale(pixels, solar_radius_arcsec, rsun_obs), pixels / 2 + 0.5
    return {
        "RSUN_OBS": rsun_obs, "R_SUN": rsun_obs / scale, "CDELT1": scale, "CDELT2": scale, "CRPIX1": centre,
        "CRPIX2": centre, "CRVAL1": 0.0, "CRVAL2": 0.0, "CROTA2": 0.0,
    }  # fmt: skip


def source_keywords(pointing: Pointing) -> dict[str, float]:
    """Return the columns that keep the geometry of the source frame that was used."""
    return {
        "CRPIX1_L1": pointing.crpix1, "CRPIX2_L1": pointing.crpix2, "CDELT1_L1": pointing.cdelt1,
        "CDELT2_L1": pointing.cdelt2, "CROTA2_L1": pointing.crota2,
    }  # fmt: skip


def image_plane(
    x0: float, y0: float, scale: float, rotation_deg: float
) -> tuple[float, float, float, float, float, float]:
    """Return where a camera's pixels lie in the image plane, as :meth:`SunModel.render` takes it.

    Parameters
    ----------
    x0, y0 : float
        Sun's centre, pixels counted from 0.
    scale : float
        Solar radii per pixel.
    rotation_deg : float
        Rotation of the camera (CROTA2).
    """
    angle = radians(rotation_deg)
    cosine, sine = scale * cos(angle), scale * sin(angle)
    return -cosine * x0 + sine * y0, cosine, -sine, -sine * x0 - cosine * y0, sine, cosine


def source_transform(pointing: Pointing, pixels: int, solar_radius_arcsec: float) -> SourceTransform:
    """Return the map from the dataset's grid, north up and centred on the Sun, to the frame's pixels.

    Parameters
    ----------
    pointing : Pointing
        Geometry of the frame.
    pixels : int
        Pixels per axis of the grid.
    solar_radius_arcsec : float
        Angular solar radius of the grid.
    """
    scale = target_plate_scale(pixels, solar_radius_arcsec, pointing.rsun_obs)
    # World = R(CROTA2) CDELT (pixel - CRPIX), hence pixel = CRPIX + R(-CROTA2) world / CDELT.
    cosine, sine = cos(radians(pointing.crota2)), sin(radians(pointing.crota2))
    xx, xy = scale * cosine / pointing.cdelt1, scale * sine / pointing.cdelt1
    yx, yy = -scale * sine / pointing.cdelt2, scale * cosine / pointing.cdelt2
    middle = (pixels - 1) / 2
    return SourceTransform(
        x0=pointing.crpix1 - 1 - (xx + xy) * middle, xx=xx, xy=xy,
        y0=pointing.crpix2 - 1 - (yx + yy) * middle, yx=yx, yy=yy,
    )  # fmt: skip
