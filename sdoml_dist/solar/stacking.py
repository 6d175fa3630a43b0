"""Co-rotated stacks: the mean of magnetograms around a time, each with the Sun's rotation since then taken out.

Each pixel of the reference image is a place on the Sun. Between the two times it moves with differential rotation as SDO sees
it (synodic): its Carrington longitude by the sidereal rate less that of Carrington's system, the centre of the disc by what
CRLN_OBS says. The published denoising code turns by the sidereal period of 25.38 days instead, as if SDO stood still: at a
solar radius of 1905 pixels and 7.5 minutes that is 2.46 pixels at the centre of the disc, where 2.29 are right.
"""

from __future__ import annotations

from math import cos, inf, radians, sin

import numba
import numpy as np

from sdoml_dist.solar.activity import CARRINGTON_DEG_PER_DAY, MAGNETIC_FEATURES_DEG_PER_DAY
from sdoml_dist.solar.tracking import View, _interpolate

FRAMES = 21
"""Magnetograms of a stack as published: 10 before and 10 after the one in the middle (Park et al. 2020, ApJL 891, L4)."""

_NS_PER_DAY = 86_400e9
# Rows that are worked on at a time: places of the pixels of a whole 4096-pixel image would take 400 MB.
_BAND = 256


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _advance(
    first_row: int, reference: np.ndarray, source: np.ndarray, rates: np.ndarray, days: float, centre_moved: float,
    columns: np.ndarray, rows: np.ndarray, mu: np.ndarray,
) -> None:  # fmt: skip
    """Fill where the places of a band of the reference image are in the source, and the cosine of their angle there.

    `reference` and `source` are (crpix1 - 1, crpix2 - 1, cdelt1, cdelt2, cos and sin of crota2, rsun_obs, distance, cos and sin
    of b0); `rates` the law of rotation less Carrington's rate and `centre_moved` the change of L0, degrees.
    """
    arcsec = np.pi / 180.0 / 3600.0
    r_x, r_y, r_cdelt1, r_cdelt2, r_cos, r_sin, r_sun, r_distance, r_cos_b0, r_sin_b0 = reference
    s_x, s_y, s_cdelt1, s_cdelt2, s_cos, s_sin, s_sun, s_distance, s_cos_b0, s_sin_b0 = source
    for j in range(columns.shape[0]):
        for i in range(columns.shape[1]):
            mu[j, i] = -1.0
            u, v = (i - r_x) * r_cdelt1, (first_row + j - r_y) * r_cdelt2
            x, y = r_cos * u - r_sin * v, r_sin * u + r_cos * v
            if np.isinf(r_distance):
                west, north = x / r_sun, y / r_sun
                front2 = 1.0 - west * west - north * north
                if front2 <= 0.0:
                    continue
                front = np.sqrt(front2)
            else:
                # The line of sight meets the sphere where |(a s, b s, distance - s)| = 1, first at the smaller s.
                a, b = np.tan(x * arcsec), np.tan(y * arcsec)
                square = 1.0 + a * a + b * b
                root = r_distance * r_distance - square * (r_distance * r_distance - 1.0)
                if root <= 0.0:
                    continue
                depth = (r_distance - np.sqrt(root)) / square
                west, north, front = a * depth, b * depth, r_distance - depth
            sine = north * r_cos_b0 + front * r_sin_b0
            toward = front * r_cos_b0 - north * r_sin_b0
            sine2 = sine * sine
            turn = np.radians((rates[0] + (rates[1] + rates[2] * sine2) * sine2) * days - centre_moved)
            cosine_t, sine_t = np.cos(turn), np.sin(turn)
            west, toward = west * cosine_t + toward * sine_t, toward * cosine_t - west * sine_t
            north = sine * s_cos_b0 - toward * s_sin_b0
            front = sine * s_sin_b0 + toward * s_cos_b0
            if np.isinf(s_distance):
                x, y = west * s_sun, north * s_sun
                mu[j, i] = front
            else:
                depth = s_distance - front
                x, y = np.arctan(west / depth) / arcsec, np.arctan(north / depth) / arcsec
                mu[j, i] = (front * s_distance - 1.0) / np.sqrt(
                    s_distance * s_distance + 1.0 - 2.0 * s_distance * front
                )
            columns[j, i] = (s_cos * x + s_sin * y) / s_cdelt1 + s_x
            rows[j, i] = (s_cos * y - s_sin * x) / s_cdelt2 + s_y


def _numbers(view: View) -> np.ndarray:
    pointing = view.pointing
    turn, b0 = radians(pointing.crota2), radians(view.b0_deg)
    distance = view.distance if view.distance < inf else inf
    return np.array([
        pointing.crpix1 - 1, pointing.crpix2 - 1, pointing.cdelt1, pointing.cdelt2, cos(turn), sin(turn),
        pointing.rsun_obs, distance, cos(b0), sin(b0),
    ])  # fmt: skip


def _law(
    view: View, time: np.datetime64, reference: View, reference_time: np.datetime64, rates: tuple[float, float, float]
) -> tuple[np.ndarray, float, float]:
    """Return the rates less Carrington's, days since the reference, and degrees by which the disc's centre has moved."""
    elapsed = time.astype("datetime64[ns]") - reference_time.astype("datetime64[ns]")
    moved = (view.l0_deg - reference.l0_deg + 180.0) % 360.0 - 180.0
    return (
        np.array([rates[0] - CARRINGTON_DEG_PER_DAY, *rates[1:]]),
        float(elapsed.astype(np.int64)) / _NS_PER_DAY,
        moved,
    )


def places(
    view: View, time: np.datetime64, reference: View, reference_time: np.datetime64, shape: tuple[int, int],
    rates: tuple[float, float, float] = MAGNETIC_FEATURES_DEG_PER_DAY,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return where the places that a reference image shows are in another image.

    Parameters
    ----------
    view, time
        Geometry and time (UTC) of the image.
    reference, reference_time
        Those of the reference.
    shape : tuple of int
        Rows and columns of the reference.
    rates : tuple of float
        Sidereal rotation A, B, C of ``A + B sin^2 + C sin^4`` of the latitude, degrees a day.

    Returns
    -------
    tuple of numpy.ndarray
        Columns and rows in the image, counted from 0, and the cosine of the heliocentric angle there: float64, of `shape`;
        the cosine is -1 off the disc of the reference, where columns and rows are NaN.
    """
    columns, rows, mu = (np.full(shape, np.nan) for _ in range(3))
    law, days, moved = _law(view, time, reference, reference_time, rates)
    _advance(0, _numbers(reference), _numbers(view), law, days, moved, columns, rows, mu)
    return columns, rows, mu


def corotated(
    image: np.ndarray, view: View, time: np.datetime64, reference: View, reference_time: np.datetime64,
    shape: tuple[int, int] | None = None, *, rates: tuple[float, float, float] = MAGNETIC_FEATURES_DEG_PER_DAY,
    minimum_mu: float = 0.1,
) -> np.ndarray:  # fmt: skip
    """Return an image as it would look at a reference time, had the Sun only rotated in between.

    Parameters
    ----------
    image : numpy.ndarray
        Shape (y, x), NaN for missing pixels.
    view, time, reference, reference_time, rates
        As in :func:`places`.
    shape : tuple of int, optional
        Rows and columns of the reference; by default those of the image.
    minimum_mu : float
        Pixels nearer to the limb than this cosine of the angle to the line of sight are NaN.

    Returns
    -------
    numpy.ndarray
        Float32, of `shape`, by cubic convolution (Keys 1981); NaN off the disc and next to missing pixels. At the reference's
        own time and geometry these are the image's pixels.
    """
    shape = shape or (int(image.shape[0]), int(image.shape[1]))
    out = np.empty(shape, np.float32)
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    law, days, moved = _law(view, time, reference, reference_time, rates)
    target, source = _numbers(reference), _numbers(view)
    for low in range(0, shape[0], _BAND):
        band = out[low : low + _BAND]
        columns, rows, mu = (np.empty(band.shape) for _ in range(3))
        _advance(low, target, source, law, days, moved, columns, rows, mu)
        _interpolate(pixels, columns, rows, mu, minimum_mu, band)
    return out


class Stack:
    """The running mean of images; missing pixels do not count.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.

    Attributes
    ----------
    frames : int
        Images added.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._total, self._count = np.zeros(shape), np.zeros(shape, np.int32)
        self.frames = 0

    def add(self, image: np.ndarray) -> None:
        """Add an image of the stack's shape, NaN where there is no data.

        Raises
        ------
        ValueError
            If the shape is another one.
        """
        if image.shape != self._total.shape:
            raise ValueError(f"an image of shape {image.shape} does not belong on a stack of shape {self._total.shape}")
        valid = np.isfinite(image)
        self._total += np.where(valid, image, 0.0)
        self._count += valid
        self.frames += 1

    def mean(self, minimum: int = 1) -> np.ndarray:
        """Return the mean, float32; NaN at pixels that fewer than `minimum` images have."""
        enough = self._count >= max(minimum, 1)
        return np.where(enough, self._total / np.maximum(self._count, 1), np.nan).astype(np.float32)
