"""The background of Dopplergrams, against the simulated photosphere."""

from __future__ import annotations

import numpy as np
import pytest

from sdoml_dist.solar.geometry import Pointing
from sdoml_dist.solar.orbit import ephemeris
from sdoml_dist.solar.photosphere import PhotosphereModel
from sdoml_dist.solar.tracking import View
from sdoml_dist.solar.velocity import background_velocity, disc, fit_background, spacecraft_velocity

TIME = np.datetime64("2014-09-01T06:00", "ns")
SIZE, SCALE = 512, 4.0


def seen(observer: bool) -> tuple[np.ndarray, View]:
    place = ephemeris(TIME)
    step = SCALE / place.rsun_obs_arcsec
    first = -(SIZE - 1) / 2 * step
    image = PhotosphereModel(0).velocity(TIME, (SIZE, SIZE), (first, step, 0.0, first, 0.0, step), observer)
    middle = SIZE / 2 + 0.5
    return image, View(Pointing(middle, middle, SCALE, SCALE, 0.0, place.rsun_obs_arcsec), place.l0_deg, place.b0_deg)


def test_the_disc_is_where_it_is() -> None:
    _, view = seen(False)
    west, north, mu, sine = disc(view, (SIZE, SIZE))
    assert np.hypot(west, north)[SIZE // 2, SIZE // 2] < 0.01
    assert np.isnan(mu[0, 0])
    assert sine[SIZE // 2, SIZE // 2] == pytest.approx(np.sin(np.radians(view.b0_deg)), abs=0.01)
    # Turned by 180 degrees, west and north change sign.
    turned = View(Pointing(256.5, 256.5, SCALE, SCALE, 180.0, view.pointing.rsun_obs), view.l0_deg, view.b0_deg)
    np.testing.assert_allclose(disc(turned, (SIZE, SIZE))[0], -west, atol=1e-12)


def test_the_spacecraft_is_taken_off_exactly() -> None:
    with_craft, view = seen(True)
    without, _ = seen(False)
    craft = spacecraft_velocity(view, (SIZE, SIZE), ephemeris(TIME).velocity_m_s)
    assert craft[SIZE // 2, SIZE // 2] == pytest.approx(ephemeris(TIME).velocity_m_s[0], abs=1.0)
    left = with_craft - craft - without
    # The simulation sees in perspective, this in parallel: centimetres per second at most, of some kilometres.
    assert np.nanmax(np.abs(left)) < 0.8


def test_rotation_and_limb_shift_are_found() -> None:
    image, view = seen(False)
    found = fit_background(image, view)
    # Snodgrass & Ulrich (1990), by which the simulated Sun turns.
    a, b, c = found.rotation_deg_per_day
    assert a == pytest.approx(14.71, abs=0.25)
    assert b == pytest.approx(-2.39, abs=1.2)
    assert a + b / 4 + c / 16 == pytest.approx(14.71 - 2.39 / 4 - 1.78 / 16, abs=0.2)
    _, _, mu, _ = disc(view, (SIZE, SIZE))
    rest = (image - background_velocity(found, view, (SIZE, SIZE)))[mu > 0.3]
    assert abs(rest.mean()) < 3
    # What is left are oscillations and supergranules, some hundred m/s, of two km/s before.
    assert rest.std() < 450
    assert np.nanstd(image) > 1000
    with pytest.raises(ValueError, match="too few"):
        fit_background(np.full((SIZE, SIZE), np.nan), view)
