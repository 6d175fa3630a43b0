"""Potential field between the photosphere and a source surface, by spherical harmonics.

Between R and R_ss there are no currents, and at R_ss the field is radial (Schatten, Wilcox & Ness 1969; Altschuler & Newkirk
1969). A harmonic of degree l of the radial field falls with height as

    B_l(r) / B_l(R) = (R/r)^(l+2) [(l+1) + l (r/R_ss)^(2l+1)] / [(l+1) + l (R/R_ss)^(2l+1)]

Lengths are in solar radii. Coefficients belong to real harmonics: for m >= 0 P_lm cos(m phi), for m < 0 P_l|m| sin(|m| phi),
with functions whose square has the mean 1 over the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.synoptic import map_grid

SOURCE_SURFACE = 2.5
"""Usual radius of the source surface in solar radii (Hoeksema, Wilcox & Scherrer 1983)."""

_HEIGHTS, _STEP = 48, 0.02
_MOST_STEPS = 2000


def legendre(degree: int, cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return associated Legendre functions and their derivatives with respect to colatitude.

    Parameters
    ----------
    degree : int
        Largest degree.
    cosine : numpy.ndarray
        Cosines of colatitudes, shape (points,), not at the poles.

    Returns
    -------
    tuple of numpy.ndarray
        Shape (degree + 1, degree + 1, points), by degree and order, normalised so that P_lm cos(m phi) has a mean square of 1.
    """
    sine = np.sqrt(1.0 - cosine**2)
    values = np.zeros((degree + 1, degree + 1, cosine.size))
    slopes = np.zeros_like(values)
    values[0, 0] = 1.0
    for m in range(1, degree + 1):
        # sqrt(2) makes up for the mean of cos^2, which first appears at m = 1.
        factor = np.sqrt((2 * m + 1) / (2 * m)) * (np.sqrt(2.0) if m == 1 else 1.0)
        values[m, m] = factor * sine * values[m - 1, m - 1]
    for m in range(degree + 1):
        for n in range(m + 1, degree + 1):
            a = np.sqrt((4.0 * n**2 - 1.0) / (n**2 - m**2))
            before = 0.0
            if n > m + 1:
                b = np.sqrt(((n - 1.0) ** 2 - m**2) / (4.0 * (n - 1.0) ** 2 - 1.0))
                before = b * values[n - 2, m]
            values[n, m] = a * (cosine * values[n - 1, m] - before)
        for n in range(m, degree + 1):
            lower = 0.0
            if n > m:
                lower = np.sqrt((2.0 * n + 1.0) / (2.0 * n - 1.0) * (n**2 - m**2)) * values[n - 1, m]
            slopes[n, m] = (n * cosine * values[n, m] - lower) / sine
    return values, slopes


@dataclass(frozen=True)
class PotentialField:
    """A field between photosphere and source surface.

    Attributes
    ----------
    cosines, sines : numpy.ndarray
        Coefficients of the radial field at the photosphere with cos and sin, gauss, shape (degree + 1, degree + 1).
    source_surface : float
        R_ss in solar radii.
    """

    cosines: np.ndarray
    sines: np.ndarray
    source_surface: float = SOURCE_SURFACE

    @property
    def degree(self) -> int:
        """Largest degree."""
        return self.cosines.shape[0] - 1

    @classmethod
    def of_map(
        cls, field: np.ndarray, degree: int | None = None, source_surface: float = SOURCE_SURFACE
    ) -> PotentialField:  # fmt: skip
        """Return the potential field over a map of the radial field.

        Parameters
        ----------
        field : numpy.ndarray
            Gauss, shape (rows, columns), as in :mod:`sdoml_dist.solar.synoptic`, without gaps. Its mean is left out: there are
            no monopoles.
        degree : int, optional
            Largest degree; by default a third of the rows. Rows even in sine resolve no more than half of them.
        source_surface : float
            R_ss in solar radii.

        Raises
        ------
        UsageError
            If the map has gaps, or the degree or R_ss make no sense.
        """
        rows, columns = field.shape
        degree = rows // 3 if degree is None else degree
        gaps = int((~np.isfinite(field)).sum())
        if gaps:
            raise UsageError(f"The map has {gaps} cells without a value.", "A potential needs the whole surface.",
                             "Merge views of all sides, or give a background.")  # fmt: skip
        if not 1 <= degree <= min(rows, columns) // 2 or source_surface <= 1:
            raise UsageError(
                f"Degree {degree} and source surface {source_surface} do not fit a map of {rows} x {columns} cells: use "
                f"degrees 1 to {min(rows, columns) // 2}, and a source surface above 1."
            )
        sine, longitude = map_grid(rows, columns)
        values, _ = legendre(degree, sine)
        spectrum = np.fft.rfft(field, axis=1)[:, : degree + 1] / columns
        # Longitudes of columns begin half a cell after 0.
        orders = np.arange(degree + 1)
        spectrum = spectrum * np.exp(-1j * orders * np.radians(longitude[0]))
        parts = np.zeros((degree + 1, degree + 1), complex)
        for m in range(degree + 1):
            # A sum over rows would let degrees leak into each other, as functions are not orthogonal on a map's rows. A cosine
            # of amplitude a is a / 2 in the transform.
            parts[m:, m] = np.linalg.lstsq(values[m:, m].T, spectrum[:, m] * (1.0 if m == 0 else 2.0), rcond=None)[0]
        parts[0, 0] = 0.0
        return cls(parts.real.copy(), -parts.imag.copy(), source_surface)

    def at(self, radius: np.ndarray, sine: np.ndarray, longitude_deg: np.ndarray) -> np.ndarray:
        """Return the field on a grid of radii, latitudes and longitudes.

        Parameters
        ----------
        radius : numpy.ndarray
            Solar radii, 1 to R_ss, shape (heights,).
        sine : numpy.ndarray
            Sines of latitudes, not at the poles, shape (rows,).
        longitude_deg : numpy.ndarray
            Degrees, shape (columns,).

        Returns
        -------
        numpy.ndarray
            Gauss: outwards, southwards and westwards, shape (3, heights, rows, columns).
        """
        degree = self.degree
        values, slopes = legendre(degree, sine)
        orders = np.arange(degree + 1)
        angle = np.radians(longitude_deg)[:, None] * orders
        cosine, turned = np.cos(angle), np.sin(angle)
        south = np.sqrt(1.0 - sine**2)
        field = np.empty((3, radius.size, sine.size, longitude_deg.size))
        degrees = np.arange(degree + 1.0)
        for place, r in enumerate(radius):
            above = (r / self.source_surface) ** degrees * self.source_surface ** -(degrees + 1.0)
            base = (degrees + 1.0) + degrees * self.source_surface ** -(2.0 * degrees + 1.0)
            radial = ((degrees + 1.0) * r ** -(degrees + 2.0) + degrees * above / r) / base
            potential = (r ** -(degrees + 1.0) - above) / base / r
            for part, factor, table in ((0, radial, values), (1, -potential, slopes)):
                c = np.einsum("lmj,lm->jm", table, factor[:, None] * self.cosines)
                s = np.einsum("lmj,lm->jm", table, factor[:, None] * self.sines)
                field[part, place] = c @ cosine.T + s @ turned.T
            c = np.einsum("lmj,lm->jm", values, potential[:, None] * self.cosines) * orders
            s = np.einsum("lmj,lm->jm", values, potential[:, None] * self.sines) * orders
            field[2, place] = (c @ turned.T - s @ cosine.T) / south[:, None]
        return field

    def open_regions(self, rows: int = 90, columns: int = 180) -> np.ndarray:
        """Return from where on the photosphere field lines reach the source surface.

        Lines are followed outwards by the midpoint rule on a grid; one that comes back is closed.

        Parameters
        ----------
        rows, columns : int
            Of the map.

        Returns
        -------
        numpy.ndarray
            The sign of the field where it is open, 0 where it is closed; int8, shape (rows, columns).
        """
        sine, longitude = map_grid(rows, columns)
        radius = np.linspace(1.0, self.source_surface, _HEIGHTS)
        grid = self.at(radius, sine, longitude)
        # In longitude the grid goes round.
        grid = np.concatenate([grid[..., -1:], grid, grid[..., :1]], axis=-1)
        sign = np.sign(grid[0, 0, :, 1:-1])
        points = (
            np.stack(np.broadcast_arrays(1.0, np.arcsin(sine)[:, None], np.radians(longitude))).reshape(3, -1).copy()
        )
        along, state = sign.ravel(), np.zeros(rows * columns, np.int8)
        going = np.arange(state.size)

        def direction(place: np.ndarray) -> np.ndarray:
            r, latitude, phi = place
            where = np.stack([
                (r - 1.0) / (self.source_surface - 1.0) * (_HEIGHTS - 1),
                ((np.sin(latitude) + 1.0) / 2.0 * rows - 0.5).clip(0, rows - 1),
                np.degrees(phi) % 360.0 / 360.0 * columns - 0.5 + 1.0,
            ])  # fmt: skip
            b = np.stack([map_coordinates(part, where, order=1, mode="nearest") for part in grid])
            b /= np.maximum(np.sqrt((b**2).sum(axis=0)), 1e-30)
            return np.stack([b[0], -b[1] / r, b[2] / (r * np.maximum(np.cos(latitude), 1e-3))])

        for _ in range(_MOST_STEPS):
            here, way = points[:, going], along[going] * _STEP
            half = here + 0.5 * way * direction(here)
            points[:, going] = here + way * direction(half)
            height = points[0, going]
            state[going[height >= self.source_surface]] = 1
            going = going[(height > 1.0) & (height < self.source_surface)]
            if not going.size:
                break
        opened: np.ndarray = (state.reshape(rows, columns) * sign).astype(np.int8)
        return opened
