"""Synchronic maps and potential fields against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from sdoml_dist.errors import UsageError
from sdoml_dist.solar.pfss import PotentialField, legendre
from sdoml_dist.solar.synoptic import View, map_grid, merge, project
from sdoml_dist.solar.translation import disc_radius

ROWS, COLUMNS, OUTER = 60, 120, 2.5


def factor(degree: int, r: float) -> float:
    """The radial factor as it is published."""
    top = (degree + 1) + degree * (r / OUTER) ** (2 * degree + 1)
    return r ** -(degree + 2) * top / ((degree + 1) + degree * (1 / OUTER) ** (2 * degree + 1))


def test_legendre_functions_are_orthonormal_and_have_their_slopes() -> None:
    points, weights = np.polynomial.legendre.leggauss(40)
    values, slopes = legendre(12, points)
    for order in (0, 1, 5):
        products = np.einsum("lj,kj,j->lk", values[order:, order], values[order:, order], weights) / 2
        np.testing.assert_allclose(products, np.eye(13 - order) * (1 if order == 0 else 2), atol=1e-12)
    angle = np.array([0.4, 1.1, 2.0])
    step = 1e-6
    before, after = (legendre(12, np.cos(angle + change))[0] for change in (-step, step))
    np.testing.assert_allclose(legendre(12, np.cos(angle))[1], (after - before) / (2 * step), atol=1e-6)
    assert slopes.shape == values.shape


def test_a_dipole_and_a_sectoral_quadrupole_have_their_closed_forms() -> None:
    sine, longitude = map_grid(ROWS, COLUMNS)
    cosine = np.sqrt(1 - sine**2)
    phi = np.radians(longitude)
    # B_r = 3 cos(theta) + 2 sin^2(theta) cos(2 phi - 0.7) gauss at the photosphere, and 5 G of monopole that is not there.
    surface = 5 + 3 * sine[:, None] + 2 * (cosine**2)[:, None] * np.cos(2 * phi - 0.7)
    field = PotentialField.of_map(surface, 10, OUTER)
    radius = np.array([1.0, 1.4, OUTER])
    got = field.at(radius, sine, longitude)
    for place, r in enumerate(radius):
        one, two = factor(1, r), factor(2, r)
        radial = 3 * one * sine[:, None] + 2 * two * (cosine**2)[:, None] * np.cos(2 * phi - 0.7)
        np.testing.assert_allclose(got[0, place], radial, atol=1e-9)
        # Potential of degree l over the radial field, in units of the radius: zero at the source surface.
        p = [(r ** -(k + 1) - OUTER ** -(2 * k + 1) * r**k) / ((k + 1) + k * OUTER ** -(2 * k + 1)) / r for k in (1, 2)]
        south = 3 * p[0] * cosine[:, None] - 4 * p[1] * (sine * cosine)[:, None] * np.cos(2 * phi - 0.7)
        west = 4 * p[1] * cosine[:, None] * np.sin(2 * phi - 0.7)
        np.testing.assert_allclose(got[1, place], south, atol=1e-9)
        np.testing.assert_allclose(got[2, place], west, atol=1e-9)
    np.testing.assert_allclose(got[1:, 2], 0, atol=1e-12)


def test_open_field_of_a_dipole_begins_where_its_flux_says() -> None:
    sine, _ = map_grid(ROWS, COLUMNS)
    field = PotentialField.of_map(np.repeat(sine[:, None], COLUMNS, axis=1), 3, OUTER)
    opened = field.open_regions(ROWS, 24)
    # All flux through a hemisphere of the source surface comes from the cap: cos^2(latitude) = f_1(R_ss) R_ss^2.
    edge = np.sqrt(1 - factor(1, OUTER) * OUTER**2)
    north, south = opened[sine > edge + 0.04], opened[sine < -edge - 0.04]
    assert (north == 1).all()
    assert (south == -1).all()
    assert (opened[np.abs(sine) < edge - 0.04] == 0).all()


def test_maps_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="1 cells without a value"):
        PotentialField.of_map(np.where(np.eye(20) * np.arange(20) == 19, np.nan, 1.0))
    for degree, outer in ((0, 2.5), (11, 2.5), (3, 1.0)):
        with pytest.raises(UsageError, match="do not fit"):
            PotentialField.of_map(np.ones((20, 40)), degree, outer)
    with pytest.raises(UsageError, match="no magnetogram"):
        merge([])


def line_of_sight(l0_deg: float, b0_deg: float, pixels: int = 256) -> View:
    """A view of a radial field of 10 sin(latitude) + 4 cos(latitude) cos(longitude) gauss, and 1 G of offset."""
    radius, middle = disc_radius(pixels), (pixels - 1) / 2
    y, x = (np.mgrid[:pixels, :pixels] - middle) / radius
    mu = np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
    b0 = np.radians(b0_deg)
    sine = y * np.cos(b0) + mu * np.sin(b0)
    depth = mu * np.cos(b0) - y * np.sin(b0)
    longitude = np.radians(l0_deg) + np.arctan2(x, depth)
    radial = 1 + 10 * sine + 4 * np.sqrt(np.clip(1 - sine**2, 0, 1)) * np.cos(longitude)
    return View(np.where(mu > 0, radial * mu, np.nan).astype(np.float32), l0_deg, b0_deg)


def test_views_of_all_sides_make_the_map_that_they_are_views_of() -> None:
    sine, longitude = map_grid(ROWS, COLUMNS)
    truth = 10 * sine[:, None] + 4 * np.sqrt(1 - sine**2)[:, None] * np.cos(np.radians(longitude))
    front = line_of_sight(40.0, 6.0)
    field, mu = project(front, ROWS, COLUMNS)
    seen = np.isfinite(field)
    assert mu[seen].min() >= 0.25
    np.testing.assert_allclose(field[seen], truth[seen] + 1, atol=0.15)
    views = [front, line_of_sight(40.0 + 130, -5.0), line_of_sight(40.0 - 120, 2.0)]
    whole = merge(views, ROWS, COLUMNS)
    there = np.isfinite(whole.field)
    assert there.mean() > 0.94
    assert whole.removed_gauss == pytest.approx(1.0, abs=0.15)
    np.testing.assert_allclose(whole.field[there], truth[there], atol=0.3)
    # A wrong view weighs little where another looks straight down.
    wrong = View(-views[1].field, views[1].l0_deg, views[1].b0_deg, weight=0.01)
    spoilt = merge([front, wrong, views[2]], ROWS, COLUMNS)
    centre = (ROWS // 2, int(40 / 360 * COLUMNS))
    assert spoilt.field[centre] + spoilt.removed_gauss == pytest.approx(truth[centre] + 1, abs=0.15)
    filled = merge([front], ROWS, COLUMNS, background=truth + 1)
    assert np.isfinite(filled.field).all()
    potential = PotentialField.of_map(filled.field, 8)
    # 10 sin(latitude) in functions of mean square 1: 10 / sqrt(3); and 4 cos(latitude) cos(longitude).
    assert potential.cosines[1, 0] == pytest.approx(10 / np.sqrt(3), rel=0.02)
    assert potential.cosines[1, 1] == pytest.approx(4 / np.sqrt(3), rel=0.02)
