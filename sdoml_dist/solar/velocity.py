"""What a Dopplergram shows besides the motions one looks for: the spacecraft, the Sun's rotation, the limb shift.

SOLARED takes differences in time, in which slow trends vanish. Where a series is too short for that, or the velocity itself
is wanted, the background is modelled: the spacecraft's part is known exactly from OBS_VR, OBS_VW and OBS_VN, rotation and limb
shift are fitted to the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np

from sdoml_dist.solar.geometry import RSUN_REF_M
from sdoml_dist.solar.tracking import View

_DAY_S = 86_400.0
_LIMB_POWERS = (0, 1, 2, 3)
_ROTATION_POWERS = (0, 2, 4)


@dataclass(frozen=True)
class Background:
    """A fitted background.

    Attributes
    ----------
    rotation_deg_per_day : numpy.ndarray
        Sidereal rotation A, B, C of ``A + B sin^2 + C sin^4`` of the latitude.
    limb_shift : numpy.ndarray
        Coefficients of 1, (1 - mu), (1 - mu)^2, (1 - mu)^3, m/s.
    """

    rotation_deg_per_day: np.ndarray
    limb_shift: np.ndarray


def disc(view: View, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return where the pixels of a full-disc image lie, in a parallel projection.

    Parameters
    ----------
    view : View
        Geometry of the image.
    shape : tuple of int
        Rows and columns.

    Returns
    -------
    tuple of numpy.ndarray
        West and north in solar radii in the image plane, cosine of the heliocentric angle (NaN off the disc), and sine of
        the heliographic latitude; each of `shape`.
    """
    pointing = view.pointing
    rows, columns = np.indices(shape, dtype=np.float64)
    u, v = (columns - pointing.crpix1 + 1) * pointing.cdelt1, (rows - pointing.crpix2 + 1) * pointing.cdelt2
    turn = radians(pointing.crota2)
    west = (cos(turn) * u - sin(turn) * v) / pointing.rsun_obs
    north = (sin(turn) * u + cos(turn) * v) / pointing.rsun_obs
    with np.errstate(invalid="ignore"):
        mu = np.sqrt(1.0 - west**2 - north**2)
    b0 = radians(view.b0_deg)
    return west, north, mu, north * cos(b0) + mu * sin(b0)


def spacecraft_velocity(view: View, shape: tuple[int, int], velocity_m_s: tuple[float, float, float]) -> np.ndarray:
    """Return the velocity that the spacecraft's motion adds to every pixel.

    Parameters
    ----------
    view : View
        Geometry of the image.
    shape : tuple of int
        Rows and columns.
    velocity_m_s : tuple of float
        OBS_VR (away from the Sun), OBS_VW (towards solar west), OBS_VN (towards solar north).

    Returns
    -------
    numpy.ndarray
        m/s, positive away from the observer: plus OBS_VR at the centre of the disc.
    """
    west, north, _, _ = disc(view, shape)
    scale = radians(view.pointing.rsun_obs / 3600.0)
    x, y = np.tan(west * scale), np.tan(north * scale)
    # The direction of sight is (x, y, 1) from the observer, of which 1 is towards the Sun.
    radial, westward, northward = velocity_m_s
    found: np.ndarray = (radial - westward * x - northward * y) / np.sqrt(1.0 + x**2 + y**2)
    return found


def _terms(view: View, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return mu, and the velocities per unit of every coefficient, shape (terms, y, x)."""
    west, _, mu, sine = disc(view, shape)
    # A rate of 1 degree a day moves the equator by this many m/s; what is seen of it grows with the distance from the axis.
    per_degree = radians(1.0) / _DAY_S * RSUN_REF_M * cos(radians(view.b0_deg)) * west
    limb = [(1.0 - mu) ** power for power in _LIMB_POWERS]
    return mu, np.stack([per_degree * sine**power for power in _ROTATION_POWERS] + limb)


def fit_background(velocity: np.ndarray, view: View, minimum_mu: float = 0.2, step: int = 4) -> Background:
    """Fit rotation and limb shift to a Dopplergram from which the spacecraft's velocity has been taken off.

    Parameters
    ----------
    velocity : numpy.ndarray
        Shape (y, x), m/s, positive away from the observer; NaN where there is none.
    view : View
        Geometry of the image.
    minimum_mu : float
        Pixels nearer to the limb do not count.
    step : int
        Every so many pixels per axis are used.

    Returns
    -------
    Background
        By least squares.

    Raises
    ------
    ValueError
        If fewer than a thousand pixels can be used.
    """
    mu, terms = _terms(view, velocity.shape)
    thin = (slice(None, None, step), slice(None, None, step))
    values = velocity[thin]
    used = np.isfinite(values) & (mu[thin] > minimum_mu)
    if used.sum() < 1000:
        raise ValueError(f"{int(used.sum())} pixels are too few to fit rotation and limb shift to")
    matrix = terms[:, thin[0], thin[1]][:, used].T
    found, *_ = np.linalg.lstsq(matrix, values[used].astype(np.float64), rcond=None)
    number = len(_ROTATION_POWERS)
    return Background(found[:number], found[number:])


def background_velocity(background: Background, view: View, shape: tuple[int, int]) -> np.ndarray:
    """Return the velocity of a background, m/s, shape `shape`; NaN off the disc."""
    _, terms = _terms(view, shape)
    found: np.ndarray = np.tensordot(np.concatenate([background.rotation_deg_per_day, background.limb_shift]), terms, 1)
    return found
