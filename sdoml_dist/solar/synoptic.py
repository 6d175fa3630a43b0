"""Maps of the whole Sun from magnetograms of several sides: synchronic maps with the far side in them.

A conventional synoptic map is put together from the front side of 27 days. With magnetograms of the far side all longitudes
are of one time (Jeong et al. 2020). Weights of the published maps are not known; here views are averaged with the square of
mu, the cosine of the angle to the line of sight, as weight, and what is left of the total flux is taken off everywhere.

A map has rows even in the sine of latitude from south to north, and columns even in Carrington longitude from 0: all cells have
the same area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.translation import disc_radius

# Nearer to the limb, noise and errors of position are blown up by dividing by mu (0.25: 14.5 degrees from the limb).
_LEAST_MU = 0.25


@dataclass(frozen=True)
class View:
    """A magnetogram of one side of the Sun.

    Attributes
    ----------
    field : numpy.ndarray
        Field along the line of sight, gauss, shape (Y, X), on the dataset's grid; NaN where there is none.
    l0_deg, b0_deg : float
        Carrington longitude and latitude of the disc's centre (CRLN_OBS, CRLT_OBS).
    weight : float
        Trust in this view over others.
    """

    field: np.ndarray
    l0_deg: float
    b0_deg: float
    weight: float = 1.0


@dataclass(frozen=True)
class SynchronicMap:
    """A map of the radial field.

    Attributes
    ----------
    field : numpy.ndarray
        Gauss, shape (rows, columns); NaN where no view reaches.
    mu : numpy.ndarray
        The largest mu under which a cell was seen; 0 where it was not.
    removed_gauss : float
        What was taken off everywhere so that the net flux is zero.
    """

    field: np.ndarray
    mu: np.ndarray
    removed_gauss: float


def map_grid(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sines of the latitudes of rows and Carrington longitudes of columns in degrees, at the middles of cells."""
    return (np.arange(rows) + 0.5) / rows * 2.0 - 1.0, (np.arange(columns) + 0.5) / columns * 360.0


def project(
    view: View, rows: int = 180, columns: int = 360, solar_radius_arcsec: float = 976.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the radial field of one view on the map, and mu.

    Parameters
    ----------
    view : View
        A magnetogram; its field is taken to be radial, so that it is divided by mu.
    rows, columns : int
        Of the map.
    solar_radius_arcsec : float
        Of the magnetogram's grid.

    Returns
    -------
    tuple of numpy.ndarray
        Gauss, NaN where it is not seen well enough, and mu (negative behind the limb), shape (rows, columns).
    """
    sine, longitude = map_grid(rows, columns)
    cosine = np.sqrt(1.0 - sine**2)
    away = np.radians(longitude - view.l0_deg)
    b0 = np.radians(view.b0_deg)
    x = cosine[:, None] * np.sin(away)
    y = sine[:, None] * np.cos(b0) - cosine[:, None] * np.sin(b0) * np.cos(away)
    mu = sine[:, None] * np.sin(b0) + cosine[:, None] * np.cos(b0) * np.cos(away)
    pixels = view.field.shape[0]
    radius, middle = disc_radius(pixels, solar_radius_arcsec), (pixels - 1) / 2
    places = np.stack([middle + y * radius, middle + x * radius])
    # Bilinear; a cell next to a pixel without a value has none either.
    seen = map_coordinates(view.field.astype(np.float64), places, order=1, mode="constant", cval=np.nan)
    radial: np.ndarray = np.where(mu >= _LEAST_MU, seen / np.maximum(mu, _LEAST_MU), np.nan)
    return radial, mu


def merge(
    views: Sequence[View], rows: int = 180, columns: int = 360, *, solar_radius_arcsec: float = 976.0,
    background: np.ndarray | None = None,
) -> SynchronicMap:  # fmt: skip
    """Merge views of one time to a map.

    Parameters
    ----------
    views : sequence of View
        Front and far sides.
    rows, columns : int
        Of the map.
    solar_radius_arcsec : float
        Of the magnetograms' grid.
    background : numpy.ndarray, optional
        Radial field for cells that no view reaches, for example an older map, shape (rows, columns).

    Raises
    ------
    UsageError
        If there is no view, or none has a value.
    """
    if not views:
        raise UsageError("There is no magnetogram to make a map of.")
    total, weights, best = (np.zeros((rows, columns)) for _ in range(3))
    for view in views:
        field, mu = project(view, rows, columns, solar_radius_arcsec)
        there = np.isfinite(field)
        weight = np.where(there, view.weight * np.maximum(mu, 0.0) ** 2, 0.0)
        total += weight * np.where(there, field, 0.0)
        weights += weight
        best = np.maximum(best, np.where(there, mu, 0.0))
    field = np.where(weights > 0, total / np.where(weights > 0, weights, 1.0), np.nan)
    if background is not None:
        field = np.where(np.isfinite(field), field, background)
    if not np.isfinite(field).any():
        raise UsageError("No magnetogram has a value on the map.")
    removed = float(np.nanmean(field))
    return SynchronicMap(field - removed, best, removed)
