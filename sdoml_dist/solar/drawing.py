"""Drawings of sunspots: making them from continuum images, and finding the Sun's disc in them.

Galileo and others projected the Sun on paper and drew the limb as a circle, umbrae black and penumbrae grey. Networks that
turn such drawings into magnetograms (Lee et al. 2021) learn from pairs; here the drawing of a pair is made from a continuum
image of the same time: spots by thresholds of the contrast against the quiet Sun, strokes of a pencil, and paper.
Grey levels are 0 for black and 1 for white paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.translation import GRID_RADIUS_ARCSEC, disc_radius

# Contrast to the quiet Sun at the same distance from the disc's centre. A pixel of some arcseconds mixes spot and granules,
# so that both limits lie above those of fine images (about 0.9 and 0.6, for example Mathew et al. 2007, A&A 465, 291).
PENUMBRA, UMBRA = 0.93, 0.70
# How a drawing looks: this module's choice.
_UMBRA_GREY, _PENUMBRA_GREY, _LINE_GREY = 0.08, 0.55, 0.35
_STROKE_PIXELS, _STROKE_DEPTH = 3.0, 0.2
_GRAIN, _SHADE = 0.02, 0.06
_RINGS = 24

_TRIES = 400
_MOST_POINTS = 4000
_SMALLEST, _LARGEST = 0.2, 0.75
_WITHIN = 0.008
_LEAST_ARC = 0.6


def quiet_sun(continuum: np.ndarray, solar_radius_arcsec: float = GRID_RADIUS_ARCSEC) -> np.ndarray:
    """Return the median of a continuum image at the same distance from the disc's centre; NaN off the disc.

    Parameters
    ----------
    continuum : numpy.ndarray
        Intensity in any unit, shape (Y, X), on the dataset's grid.
    solar_radius_arcsec : float
        Of the grid.
    """
    pixels = continuum.shape[0]
    squares = (np.arange(pixels) - (pixels - 1) / 2) ** 2
    distance = (squares[:, None] + squares) / disc_radius(pixels, solar_radius_arcsec) ** 2
    valid = (distance < 1) & np.isfinite(continuum)
    # Rings of equal area, and a line between their middles.
    ring = np.minimum((distance * _RINGS).astype(int), _RINGS - 1)
    middles, levels = [], []
    for number in range(_RINGS):
        chosen = valid & (ring == number)
        if chosen.any():
            middles.append(float(distance[chosen].mean()))
            levels.append(float(np.median(continuum[chosen])))
    if not levels:
        return np.full(continuum.shape, np.nan)
    quiet = np.interp(distance, middles, levels)
    result: np.ndarray = np.where(valid & (quiet > 0), quiet, np.nan)
    return result


def contrast(continuum: np.ndarray, solar_radius_arcsec: float = GRID_RADIUS_ARCSEC) -> np.ndarray:
    """Divide a continuum image by that of the quiet Sun; see :func:`quiet_sun`."""
    divided: np.ndarray = continuum / quiet_sun(continuum, solar_radius_arcsec)
    return divided


def draw(continuum: np.ndarray, seed: int, solar_radius_arcsec: float = GRID_RADIUS_ARCSEC) -> np.ndarray:
    """Draw the spots of a continuum image.

    Parameters
    ----------
    continuum : numpy.ndarray
        Intensity in any unit, shape (Y, X), on the dataset's grid.
    seed : int
        Of strokes and paper: same seed, same drawing.
    solar_radius_arcsec : float
        Of the grid.

    Returns
    -------
    numpy.ndarray
        Grey levels, float32, shape (Y, X).
    """
    rng = np.random.default_rng([seed, 71])
    shape = continuum.shape
    j, i = np.mgrid[: shape[0], : shape[1]]
    middle, radius = (shape[0] - 1) / 2, disc_radius(shape[0], solar_radius_arcsec)
    relative = contrast(continuum, solar_radius_arcsec)
    # A pencil does not follow the Sun exactly, and a hatch is not of one grey.
    angle, phase = rng.uniform(0.5, 1.1), rng.uniform(0, 2 * np.pi)
    stroke = np.sin((np.cos(angle) * i + np.sin(angle) * j) * 2 * np.pi / _STROKE_PIXELS + phase)
    image = np.ones(shape)
    with np.errstate(invalid="ignore"):
        image[relative < PENUMBRA] = _PENUMBRA_GREY
        image[relative < UMBRA] = _UMBRA_GREY
        image[relative < PENUMBRA] += _STROKE_DEPTH * (image * stroke)[relative < PENUMBRA]
    away = np.abs(np.hypot(j - middle, i - middle) - radius)
    line = np.clip(1.0 - away / max(0.6, shape[0] / 700), 0, 1)
    image = image * (1 - line) + _LINE_GREY * line
    waves = [rng.uniform(-1, 1) * np.cos(a * i * np.pi / shape[1] + b * j * np.pi / shape[0] + rng.uniform(0, 6))
             for a in range(3) for b in range(3)]  # fmt: skip
    paper = 1.0 - _SHADE * (0.5 + 0.5 * np.tanh(np.sum(waves, axis=0)))
    drawn: np.ndarray = np.clip(image * paper + _GRAIN * rng.standard_normal(shape), 0, 1).astype(np.float32)
    return drawn


@dataclass(frozen=True)
class Circle:
    """The disc in a drawing: middle in pixels counted from 0, and radius."""

    x: float
    y: float
    radius: float


def find_disc(drawing: np.ndarray) -> Circle:
    """Find the circle of the limb in a drawing.

    Circles through three dark points are tried; the one whose line is dark along most of its way wins, and is fitted to the
    dark points near it by least squares. Spots and writing fill no circle, a limb does.

    Parameters
    ----------
    drawing : numpy.ndarray
        Grey levels, shape (Y, X).

    Raises
    ------
    UsageError
        If no circle is drawn along at least 60 % of its length.
    """
    least = min(drawing.shape)
    dark = _dark(drawing)
    rows, columns = np.nonzero(dark)
    best: tuple[float, Circle] = (0.0, Circle(0.0, 0.0, 0.0))
    rng = np.random.default_rng(0)
    if rows.size >= 3:
        points = np.column_stack([columns, rows]).astype(float)
        if len(points) > _MOST_POINTS:
            points = points[rng.choice(len(points), _MOST_POINTS, replace=False)]
        for _ in range(_TRIES):
            circle = _through(points[rng.choice(len(points), 3, replace=False)])
            if circle is None or not _SMALLEST * least < circle.radius < _LARGEST * least:
                continue
            share = _drawn(dark, circle)
            if share > best[0]:
                best = share, circle
        if best[0] > _LEAST_ARC / 2:
            all_points = np.column_stack([columns, rows]).astype(float)
            circle = best[1]
            for within in (3 * _WITHIN, 2 * _WITHIN, _WITHIN):
                circle = _fit(all_points, circle, max(1.5, within * circle.radius))
            best = max(best, (_drawn(dark, circle), circle), key=lambda one: one[0])
    if best[0] < _LEAST_ARC:
        raise UsageError(
            f"No limb is found: the best circle is drawn along {best[0]:.0%} of its length.",
            "Scale and orientation of the spots are not known without it.",
            "Cut the picture so that the whole limb is in it, or give the disc yourself.",
        )
    return best[1]


def _dark(drawing: np.ndarray) -> np.ndarray:
    """Return where lines are: darker than the paper around them."""
    from scipy.ndimage import uniform_filter

    values = np.nan_to_num(drawing.astype(np.float64), nan=1.0)
    around = uniform_filter(values, max(9, min(drawing.shape) // 16), mode="nearest")
    depth = around - values
    dark: np.ndarray = depth > max(0.06, 4.0 * float(np.median(np.abs(depth))))
    return dark


def _through(points: np.ndarray) -> Circle | None:
    """Return the circle through three points, shape (3, 2) in x and y; None if they are on a line."""
    a, b = points[1] - points[0], points[2] - points[0]
    cross = 2.0 * (a[0] * b[1] - a[1] * b[0])
    if abs(cross) < 1e-6:
        return None
    x = (b[1] * (a @ a) - a[1] * (b @ b)) / cross
    y = (a[0] * (b @ b) - b[0] * (a @ a)) / cross
    return Circle(float(points[0, 0] + x), float(points[0, 1] + y), float(np.hypot(x, y)))


def _drawn(dark: np.ndarray, circle: Circle) -> float:
    """Return the share of a circle's length that is dark, or within a pixel of it."""
    angles = np.arange(0, 2 * np.pi, 2 * np.pi / 360)
    hit = np.zeros(angles.size, bool)
    for offset in (-1.0, 0.0, 1.0):
        i = np.rint(circle.x + (circle.radius + offset) * np.cos(angles)).astype(int)
        j = np.rint(circle.y + (circle.radius + offset) * np.sin(angles)).astype(int)
        inside = (i >= 0) & (i < dark.shape[1]) & (j >= 0) & (j < dark.shape[0])
        hit[inside] |= dark[j[inside], i[inside]]
    return float(hit.mean())


def _fit(points: np.ndarray, circle: Circle, within: float) -> Circle:
    """Fit a circle to the points near one by algebraic least squares (Kasa 1976)."""
    distance = np.hypot(points[:, 0] - circle.x, points[:, 1] - circle.y)
    near = points[np.abs(distance - circle.radius) < within]
    if len(near) < 8:
        return circle
    x, y = near[:, 0] - circle.x, near[:, 1] - circle.y
    matrix = np.column_stack([2 * x, 2 * y, np.ones_like(x)])
    (u, v, w), *_ = np.linalg.lstsq(matrix, x**2 + y**2, rcond=None)
    return Circle(float(circle.x + u), float(circle.y + v), float(np.sqrt(w + u**2 + v**2)))
