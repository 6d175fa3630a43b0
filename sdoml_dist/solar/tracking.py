"""Patches that follow a place on the rotating Sun, free of foreshortening.

A patch is a map around a heliographic centre. Its pixels are turned into heliographic coordinates once; per frame, the
centre moves with the Sun's differential rotation, and each pixel is looked up in the full-disc image with the perspective of
an observer at a finite distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import cos, inf, radians, sin
from typing import Literal

import numba
import numpy as np

from sdoml_dist.solar.activity import CARRINGTON_DEG_PER_DAY, rotation_deg_per_day
from sdoml_dist.solar.geometry import RSUN_REF_M, Pointing

Projection = Literal["postel", "cea"]
_NS_PER_DAY = 86_400e9


@dataclass(frozen=True)
class Patch:
    """A map that follows a place on the Sun.

    Attributes
    ----------
    latitude_deg, longitude_deg : float
        Heliographic latitude and Carrington longitude of the centre at `reference`.
    reference : numpy.datetime64
        UTC.
    pixels : int
        Pixels per axis.
    scale_deg : float
        Heliographic degrees per pixel at the centre; 30.66 / 512 in SOLARED.
    projection : {"postel", "cea"}
        ``postel``: azimuthal equidistant, true distances from the centre (the usual one of local helioseismology).
        ``cea``: cylindrical equal area about the centre, true areas (that of SHARPs; Bobra et al. 2014, Solar Phys. 289,
        3549).
    rate_deg_per_day : float, optional
        Sidereal rotation that is followed; by default that of magnetic features at the centre's latitude (Snodgrass &
        Ulrich 1990).
    """

    latitude_deg: float
    longitude_deg: float
    reference: np.datetime64
    pixels: int = 512
    scale_deg: float = 30.66 / 512
    projection: Projection = "postel"
    rate_deg_per_day: float | None = None

    def centre_longitude(self, time: np.datetime64) -> float:
        """Return the Carrington longitude of the centre at a time, degrees from 0 to 360."""
        rate = self.rate_deg_per_day
        if rate is None:
            rate = float(rotation_deg_per_day(self.latitude_deg))
        days = (
            float((time.astype("datetime64[ns]") - self.reference.astype("datetime64[ns]")).astype(np.int64))
            / _NS_PER_DAY
        )
        return (self.longitude_deg + (rate - CARRINGTON_DEG_PER_DAY) * days) % 360.0

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Return latitude, and longitude from the centre's meridian, of every pixel: degrees, shape (pixels, pixels).

        Rows go north, columns west. They are worked out once per patch; do not change them.
        """
        return self._coordinates

    @cached_property
    def _coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        offset = np.radians((np.arange(self.pixels) - (self.pixels - 1) / 2) * self.scale_deg)
        west, north = np.meshgrid(offset, offset)
        if self.projection == "postel":
            away = np.hypot(west, north)
            ratio = np.sinc(away / np.pi)  # sin(away) / away
            place = np.stack([west * ratio, north * ratio, np.cos(away)])
        else:
            # Equal areas on the cylinder that touches the great circle through the centre, west to east.
            height = np.clip(north, -1.0, 1.0)
            ring = np.sqrt(1 - height**2)
            place = np.stack([ring * np.sin(west), height, ring * np.cos(west)])
        # From the frame with the centre in front to that with the Sun's axis upwards.
        cosine, sine = cos(radians(self.latitude_deg)), sin(radians(self.latitude_deg))
        x, y, z = place[0], cosine * place[1] + sine * place[2], cosine * place[2] - sine * place[1]
        return np.degrees(np.arcsin(np.clip(y, -1, 1))), np.degrees(np.arctan2(x, z))


@dataclass(frozen=True)
class View:
    """Where the Sun is in a full-disc image, and who looks.

    Attributes
    ----------
    pointing : Pointing
        Geometry of the image.
    l0_deg, b0_deg : float
        Carrington longitude and latitude of the disc's centre (CRLN_OBS, CRLT_OBS).
    distance : float
        Distance of the observer in solar radii (DSUN_OBS / RSUN_REF); infinite for a parallel projection.
    """

    pointing: Pointing
    l0_deg: float
    b0_deg: float
    distance: float = inf

    @classmethod
    def of(cls, pointing: Pointing, l0_deg: float, b0_deg: float, dsun_obs_m: float) -> View:
        """Return the view of an observer at a distance in metres."""
        return cls(pointing, l0_deg, b0_deg, dsun_obs_m / RSUN_REF_M)

    def pixels(self, latitude_deg: np.ndarray, longitude_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return column and row (counted from 0) of Carrington coordinates, and the cosine of the heliocentric angle.

        Points on the far side have a cosine of the angle to the line of sight of 0 or less; their pixels mean nothing.
        """
        latitude, longitude = np.radians(latitude_deg), np.radians(longitude_deg - self.l0_deg)
        b0 = radians(self.b0_deg)
        west = np.cos(latitude) * np.sin(longitude)
        toward = np.cos(latitude) * np.cos(longitude)
        north = np.sin(latitude) * cos(b0) - toward * sin(b0)
        front = np.sin(latitude) * sin(b0) + toward * cos(b0)
        if np.isinf(self.distance):
            # The limb has the radius RSUN_OBS; there is no perspective.
            x, y, mu = west * self.pointing.rsun_obs, north * self.pointing.rsun_obs, front
        else:
            depth = self.distance - front
            x, y = (np.degrees(np.arctan(value / depth)) * 3600.0 for value in (west, north))
            mu = (front * self.distance - 1.0) / np.sqrt(self.distance**2 + 1 - 2 * self.distance * front)
        turn = radians(self.pointing.crota2)
        column = (cos(turn) * x + sin(turn) * y) / self.pointing.cdelt1 + self.pointing.crpix1 - 1
        row = (cos(turn) * y - sin(turn) * x) / self.pointing.cdelt2 + self.pointing.crpix2 - 1
        return column, row, mu


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _interpolate(
    image: np.ndarray, columns: np.ndarray, rows: np.ndarray, mu: np.ndarray, least: float, out: np.ndarray
) -> None:
    """Fill `out` by cubic convolution (Keys 1981, a = -1/2); NaN where a pixel of the 4 x 4 is missing."""
    height, width = image.shape
    wx, wy = np.empty(4), np.empty(4)
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            x, y = columns[j, i], rows[j, i]
            out[j, i] = np.nan
            if not mu[j, i] > least:
                continue
            left, low = int(np.floor(x)), int(np.floor(y))
            if left < 1 or low < 1 or left + 2 >= width or low + 2 >= height:
                continue
            for weights, t in ((wx, x - left), (wy, y - low)):
                weights[0] = ((-0.5 * t + 1.0) * t - 0.5) * t
                weights[1] = (1.5 * t - 2.5) * t * t + 1.0
                weights[2] = ((-1.5 * t + 2.0) * t + 0.5) * t
                weights[3] = (0.5 * t - 0.5) * t * t
            total = 0.0
            for b in range(4):
                line = 0.0
                for a in range(4):
                    line += wx[a] * image[low - 1 + b, left - 1 + a]
                total += wy[b] * line
            out[j, i] = total


def tracked(image: np.ndarray, view: View, patch: Patch, time: np.datetime64, minimum_mu: float = 0.1) -> np.ndarray:
    """Cut a patch out of a full-disc image.

    Parameters
    ----------
    image : numpy.ndarray
        Shape (y, x), NaN for missing pixels.
    view : View
        Geometry of the image.
    patch : Patch
        What to cut out.
    time : numpy.datetime64
        When the image was observed, UTC.
    minimum_mu : float
        Pixels nearer to the limb than this cosine of the angle to the line of sight are NaN.

    Returns
    -------
    numpy.ndarray
        Shape (pixels, pixels), float32, in the units of the image; NaN beyond the limb and next to missing pixels.
    """
    latitude, west = patch.coordinates()
    columns, rows, mu = view.pixels(latitude, west + patch.centre_longitude(time))
    out = np.empty(latitude.shape, np.float32)
    _interpolate(np.ascontiguousarray(image, dtype=np.float32), columns, rows, mu, minimum_mu, out)
    return out
