"""Tracked patches: distances and areas, following rotation, against sunpy's coordinates and the simulated Sun."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdoml_dist.solar.activity import CARRINGTON_DEG_PER_DAY, rotation_deg_per_day
from sdoml_dist.solar.geometry import RSUN_REF_M, Pointing, rsun_obs_arcsec
from sdoml_dist.solar.orbit import ephemeris
from sdoml_dist.solar.photosphere import PhotosphereModel
from sdoml_dist.solar.tracking import Patch, View, tracked

TIME = np.datetime64("2014-03-01T12:00", "ns")


def unit(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    latitude, longitude = np.radians(latitude), np.radians(longitude)
    return np.stack([np.cos(latitude) * np.sin(longitude), np.sin(latitude), np.cos(latitude) * np.cos(longitude)])


@settings(max_examples=20, deadline=None)
@given(st.floats(-60, 60))
def test_postel_keeps_distances_from_the_centre(latitude: float) -> None:
    patch = Patch(latitude, 0.0, TIME, pixels=33, scale_deg=0.9)
    found = unit(*patch.coordinates())
    centre = unit(np.array(latitude), np.array(0.0))
    away = np.degrees(np.arccos(np.clip(np.tensordot(centre, found, 1), -1, 1)))
    y, x = (np.mgrid[:33, :33] - 16) * 0.9
    np.testing.assert_allclose(away, np.hypot(x, y), atol=2e-6)
    # Rows go north, columns west.
    rows, columns = patch.coordinates()
    assert rows[20, 16] > latitude > rows[12, 16]
    assert columns[16, 20] > 0 > columns[16, 12]


@settings(max_examples=20, deadline=None)
@given(st.floats(-60, 60))
def test_cea_keeps_areas(latitude: float) -> None:
    patch = Patch(latitude, 0.0, TIME, pixels=41, scale_deg=0.5, projection="cea")
    place = unit(*patch.coordinates())
    east, north = np.gradient(place, axis=2), np.gradient(place, axis=1)
    area = np.linalg.norm(np.cross(east, north, axis=0), axis=0)[1:-1, 1:-1]
    np.testing.assert_allclose(area, np.radians(0.5) ** 2, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.floats(-50, 50), st.floats(-60, 60), st.floats(-7.2, 7.2), st.floats(0, 360), st.floats(150, 153))
def test_pixels_are_where_sunpy_puts_them(lat: float, lon: float, b0: float, crota2: float, distance_gm: float) -> None:
    from astropy.coordinates import SkyCoord
    from sunpy.coordinates import HeliographicStonyhurst, Helioprojective

    dsun = distance_gm * 1e9
    observer = SkyCoord(0 * u.deg, b0 * u.deg, dsun * u.m, frame=HeliographicStonyhurst, obstime="2014-03-01T12:00")
    point = SkyCoord(
        lon * u.deg, lat * u.deg, RSUN_REF_M * u.m, frame=HeliographicStonyhurst, obstime="2014-03-01T12:00"
    )
    seen = point.transform_to(Helioprojective(observer=observer, obstime="2014-03-01T12:00"))
    scale = 0.504
    pointing = Pointing(2049.0, 2047.0, scale, scale, crota2, 968.0)
    column, row, mu = View.of(pointing, 100.0, b0, dsun).pixels(np.array(lat), np.array(lon + 100.0))
    # Back to arcseconds by the header's rotation.
    x, y = (column - 2048.0) * scale, (row - 2046.0) * scale
    turn = np.radians(crota2)
    assert np.cos(turn) * x - np.sin(turn) * y == pytest.approx(seen.Tx.to_value("arcsec"), abs=0.02)
    assert np.sin(turn) * x + np.cos(turn) * y == pytest.approx(seen.Ty.to_value("arcsec"), abs=0.02)
    angle = np.degrees(np.arccos(np.clip(mu, -1, 1)))
    assert 0 <= angle <= 120


def test_the_limb_has_the_angular_radius_of_the_distance() -> None:
    dsun = 148.2e9
    distance = dsun / RSUN_REF_M
    view = View(Pointing(1, 1, 1, 1, 0, 968), 0, 0, distance)
    longitude = np.linspace(60, 91, 4000)
    column, _, mu = view.pixels(np.zeros(4000), longitude)
    assert column.max() == pytest.approx(rsun_obs_arcsec(dsun), abs=1e-3)
    # The angle to the line of sight is 90 degrees there, a little before 90 degrees of longitude.
    assert abs(mu[np.argmax(column)]) < 2e-4
    assert longitude[np.argmax(column)] == pytest.approx(90 - np.degrees(1 / distance), abs=0.02)


def test_the_centre_moves_with_differential_rotation() -> None:
    later = TIME + np.timedelta64(2, "D")
    for latitude in (0.0, 20.0, -40.0):
        patch = Patch(latitude, 350.0, TIME)
        drift = 2 * (float(rotation_deg_per_day(latitude)) - CARRINGTON_DEG_PER_DAY)
        assert patch.centre_longitude(later) == pytest.approx((350 + drift) % 360)
    assert Patch(20.0, 10.0, TIME, rate_deg_per_day=CARRINGTON_DEG_PER_DAY).centre_longitude(later) == 10.0


def test_a_region_stays_in_its_patch_for_days() -> None:
    """The strongest region of the simulated Sun keeps its place in the patch while it crosses the disc."""
    sun = PhotosphereModel(0)
    day = 86_400_000_000_000
    size, scale = 700, 3.0
    frames = []
    for shift in (-1.5, 0.0, 1.5):
        time = TIME + np.timedelta64(int(shift * day), "ns")
        place = ephemeris(time)
        step = scale / place.rsun_obs_arcsec
        first = -(size - 1) / 2 * step
        image = sun.vector_field(time, (size, size), (first, step, 0.0, first, 0.0, step))
        pointing = Pointing(size / 2 + 0.5, size / 2 + 0.5, scale, scale, 0.0, place.rsun_obs_arcsec)
        frames.append((time, View(pointing, place.l0_deg, place.b0_deg), image[2]))
    # Where the field is strongest near the middle of the disc at the middle time.
    time, view, field = frames[1]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    strength = np.where(np.hypot(x, y) * scale < 450, np.abs(field), 0)
    row, column = np.unravel_index(np.argmax(np.nan_to_num(strength)), strength.shape)
    ring = (np.array([column, row]) - (size - 1) / 2) * scale / view.pointing.rsun_obs
    b0 = np.radians(view.b0_deg)
    front = np.sqrt(1 - ring @ ring)
    latitude = np.degrees(np.arcsin(ring[1] * np.cos(b0) + front * np.sin(b0)))
    longitude = view.l0_deg + np.degrees(np.arctan2(ring[0], front * np.cos(b0) - ring[1] * np.sin(b0)))
    patch = Patch(float(latitude), float(longitude), time, pixels=65, scale_deg=0.25)
    places = []
    for when, seen, image in frames:
        cut = np.nan_to_num(np.abs(tracked(image, seen, patch, when)))
        j, i = np.mgrid[:65, :65] - 32.0
        spot = cut * (np.hypot(i, j) < 8) * (cut > 0.5 * cut[24:41, 24:41].max())
        places.append(((spot * i).sum() / spot.sum(), (spot * j).sum() / spot.sum()))
    away = np.abs(np.diff(np.array(places), axis=0)).max()
    assert away < 1.5  # pixels of 0.25 degrees, while the disc turned by 40 degrees


def test_missing_pixels_and_the_limb_are_missing() -> None:
    view = View(Pointing(50.5, 50.5, 25.0, 25.0, 0.0, 960.0), 0.0, 0.0)
    image = np.ones((100, 100))
    image[60, 60] = np.nan
    patch = Patch(0.0, 0.0, TIME, pixels=101, scale_deg=2.0)
    found = tracked(image, view, patch, TIME)
    assert np.nanmax(np.abs(found - 1)) < 1e-6
    latitude, longitude = patch.coordinates()
    far = np.cos(np.radians(latitude)) * np.cos(np.radians(longitude)) < 0.1
    assert np.isnan(found[far]).all()
    assert 0 < np.isnan(found[~far]).sum() < 60
