"""The noise of magnetograms: its level from the distribution of the pixels, and its correlation between pixels.

Most of the Sun is quiet, so the core of the distribution of the line-of-sight field is the noise, and the field is in its wings
(Liu et al. 2012, Solar Phys. 279, 295, find 10.2 G at 45 s so). The level is the width of a Gaussian fitted to the core by least
squares, as in Park et al. 2020 (ApJL 891, L4). Their code takes the centres of the bins from a grid of another spacing; here a
bin's count is compared with the integral of the Gaussian over it, so that neither centres nor width of the bins matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import least_squares
from scipy.signal import convolve2d
from scipy.special import ndtr

from sdoml_dist.solar.geometry import Pointing, source_transform
from sdoml_dist.solar.registration import register_and_bin
from sdoml_dist.solar.tracking import View
from sdoml_dist.solar.velocity import disc

CENTRE, LIMB = (0.9, 1.0), (0.2, 0.5)
"""Cosines of the heliocentric angle of the two places where the level is measured: within 0.44 solar radii of the centre of
the disc, and from 0.87 to 0.98. The published figures are of such places, whose limits are not given."""

_LEAST_PIXELS = 200
_BINS_PER_SIGMA = 3.0
_ITERATIONS = 30
# Median absolute deviation of a Gaussian in units of its width.
_MAD = 0.6744898


@dataclass(frozen=True)
class NoiseLevel:
    """A fitted Gaussian.

    Attributes
    ----------
    sigma : float
        Its width, in the units of the pixels: the noise level.
    error : float
        Standard error of the width by the counting statistics of the bins.
    centre : float
        Where it is.
    pixels : int
        Valid pixels.
    """

    sigma: float
    error: float
    centre: float
    pixels: int


def noise_level(values: np.ndarray, *, limit: float = 100.0, bin_width: float = 2.0, core: float = 2.0) -> NoiseLevel:
    """Fit a Gaussian to the core of a distribution.

    Parameters
    ----------
    values : numpy.ndarray
        Pixels, any shape; what is not finite is left out.
    limit : float
        Largest absolute value that is looked at; published: 100 or 150 G.
    bin_width : float
        Width of the bins of the histogram, at most; published: 2 G. Narrow distributions get narrower ones.
    core : float
        How much of the distribution is fitted: bins within this many widths of the centre.

    Returns
    -------
    NoiseLevel
        In the units of the values.

    Raises
    ------
    ValueError
        If there are fewer than 200 pixels, or they have no spread.
    """
    flat = np.asarray(values, np.float64).ravel()
    flat = flat[np.isfinite(flat) & (np.abs(flat) <= limit)]
    if flat.size < _LEAST_PIXELS:
        raise ValueError(f"{flat.size} pixels within {limit:g} are too few for a distribution")
    centre = float(np.median(flat))
    sigma = float(np.median(np.abs(flat - centre))) / _MAD
    if not sigma > 0:
        raise ValueError(f"half of the pixels are {centre:g}: there is no distribution")
    width = min(bin_width, sigma / _BINS_PER_SIGMA)
    half = int(np.ceil(limit / width))
    edges = np.arange(-half, half + 1) * width
    counts, _ = np.histogram(flat, edges)
    middles = edges[:-1] + width / 2
    amplitude = float(flat.size)
    for _ in range(_ITERATIONS):
        used = np.abs(middles - centre) <= core * sigma
        low, high, seen = edges[:-1][used], edges[1:][used], counts[used].astype(np.float64)

        def excess(
            p: np.ndarray, low: np.ndarray = low, high: np.ndarray = high, seen: np.ndarray = seen
        ) -> np.ndarray:
            return np.asarray(p[0] * (ndtr((high - p[1]) / p[2]) - ndtr((low - p[1]) / p[2])) - seen)

        scale = np.array([amplitude, sigma, sigma])
        found = least_squares(excess, [amplitude, centre, sigma], x_scale=scale)
        before = sigma
        amplitude, centre, sigma = float(found.x[0]), float(found.x[1]), abs(float(found.x[2]))
        if abs(sigma - before) <= 1e-6 * sigma:
            break
    # Counts vary by their square roots: the covariance of least squares that gives all bins the same weight.
    inverse = np.linalg.pinv(found.jac)
    error = float(np.sqrt(np.sum(inverse[2] ** 2 * np.maximum(seen, 1.0))))
    return NoiseLevel(sigma, error, centre, int(flat.size))


def fine_noise(image: np.ndarray, kernel: np.ndarray, limit: float = 100.0) -> NoiseLevel:
    """Fit the noise level to what a pixel has that its neighbours have not, where the field is smooth.

    Quiet regions are full of weak field, which makes the core of the distribution wider than the noise. Second differences along
    both axes (Immerkaer 1996, CVIU 64, 300) leave of it what changes from pixel to pixel.

    Parameters
    ----------
    image : numpy.ndarray
        Shape (y, x), NaN where there is no data.
    kernel : numpy.ndarray
        Filter that gives white noise the noise's correlation, of :func:`noise_kernel`.
    limit : float
        Pixels with more field than this are left out.

    Returns
    -------
    NoiseLevel
        Of a pixel; see :func:`noise_level`, which also says what is raised.
    """
    seconds = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
    gain = float(np.sqrt(np.sum(convolve2d(kernel, seconds) ** 2)))
    rough = convolve2d(np.where(np.abs(image) <= limit, image, np.nan), seconds, "valid") / gain
    return noise_level(rough, limit=limit)


def mu_of(view: View, shape: tuple[int, int]) -> np.ndarray:
    """Return the cosine of the heliocentric angle of every pixel, NaN off the disc: float64, of `shape`."""
    return disc(view, shape)[2]


def noise_at(image: np.ndarray, mu: np.ndarray, between: tuple[float, float], **settings: float) -> NoiseLevel:
    """Fit the noise level of the pixels with some cosines of the heliocentric angle.

    Parameters
    ----------
    image, mu : numpy.ndarray
        The same shape: pixels, and the cosine of their angle (NaN off the disc).
    between : tuple of float
        Least and largest cosine, for example `CENTRE` or `LIMB`.
    **settings
        As in :func:`noise_level`, which also says what is raised.
    """
    with np.errstate(invalid="ignore"):
        return noise_level(image[(mu >= between[0]) & (mu <= between[1])], **settings)


@lru_cache(maxsize=16)
def noise_kernel(
    pointing: Pointing, pixels: int, solar_radius_arcsec: float, source_pixels: int, reach: int = 3
) -> np.ndarray:
    """Return the filter that gives white noise the correlation of a camera's noise on the dataset's grid.

    Noise that is independent in the pixels of the camera is not so in those of the grid: registration makes each of them a
    mean of several. The filter is the square root of the spectrum of white noise that has gone through the registration.

    Parameters
    ----------
    pointing : Pointing
        Geometry of the source frame.
    pixels, solar_radius_arcsec
        The grid.
    source_pixels : int
        Side of the source frame.
    reach : int
        Pixels to which the correlation is kept on each side.

    Returns
    -------
    numpy.ndarray
        Shape (2 reach + 1, 2 reach + 1), float64; its squares add up to 1, so that white noise keeps its level.
    """
    size = min(pixels, 512)
    # The middle of the grid alone, for speed: a camera's frame with the same scale and rotation, as large as is needed.
    ratio = pixels / size
    side = int(np.ceil(source_pixels / ratio)) + 16
    middle = side / 2 + 0.5
    part = Pointing(middle, middle, pointing.cdelt1, pointing.cdelt2, pointing.crota2, pointing.rsun_obs)
    transform = source_transform(part, pixels, solar_radius_arcsec)
    shift = (pixels - size) / 2
    near = type(transform)(
        transform.x0 + (transform.xx + transform.xy) * shift, transform.xx, transform.xy,
        transform.y0 + (transform.yx + transform.yy) * shift, transform.yx, transform.yy,
    )  # fmt: skip
    white = np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)
    made = np.nan_to_num(register_and_bin(white, near, size).astype(np.float64))
    made = made[size // 4 : -size // 4, size // 4 : -size // 4]
    spectrum = np.abs(np.fft.fft2(made)) ** 2
    full = np.fft.ifft2(spectrum).real
    # Beyond its reach the correlation of a finite sample is chance.
    window = np.zeros_like(full)
    near_zero = np.r_[0 : reach + 1, -reach:0]
    window[np.ix_(near_zero, near_zero)] = full[np.ix_(near_zero, near_zero)]
    root = np.fft.ifft2(np.sqrt(np.maximum(np.fft.fft2(window).real, 0.0))).real
    kernel = np.roll(root, (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]
    found: np.ndarray = kernel / np.sqrt(np.sum(kernel**2))
    return found
