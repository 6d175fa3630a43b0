"""Geometry of the spacecraft against sunpy and a real header."""

import numpy as np
import pytest
from astropy.time import Time
from sunpy.coordinates import sun

from sdoml_dist.solar import orbit

TIMES = np.arange(
    np.datetime64("2010-01-03T05", "h"), np.datetime64("2026-06-01", "h"), np.timedelta64(23 * 24 + 2, "h")
).astype("datetime64[ns]")


def test_distance_and_heliographic_centre_agree_with_sunpy():
    reference = Time(TIMES, scale="utc")
    b0, l0 = orbit.carrington(TIMES)
    assert np.abs(orbit.earth_distance_au(TIMES) - sun.earth_distance(reference).to_value("AU")).max() < 1e-4
    assert np.abs(b0 - sun.B0(reference).to_value("deg")).max() < 0.005
    assert np.abs((l0 - sun.L0(reference).to_value("deg") + 180) % 360 - 180).max() < 0.02


def test_rotation_number_agrees_with_sunpy():
    for time in TIMES[::20]:
        assert orbit.carrington_rotation(time) == pytest.approx(sun.carrington_rotation_number(time), abs=1e-3)


def test_observer_agrees_with_a_real_header():
    # AIA 171, 2011-02-15T00:00:01.34: DSUN_OBS, RSUN_OBS, CRLT_OBS, CAR_ROT and velocities of sunpy's test file.
    place = orbit.ephemeris(np.datetime64("2011-02-15T00:00:01.34", "ns"))
    assert place.dsun_obs_m == pytest.approx(147_724_815_128.0, rel=1e-4)
    assert place.rsun_obs_arcsec == pytest.approx(971.812597, abs=0.1)
    assert place.b0_deg == pytest.approx(-6.820544, abs=0.002)
    assert place.carrington_rotation == 2106
    assert place.velocity_m_s == pytest.approx((2812.012181, 30057.50278, -3110.628437), abs=60.0)


def test_vectors_are_consistent():
    place = orbit.ephemeris(np.datetime64("2014-07-01T12:00", "ns"))
    assert np.linalg.norm(place.hae_m) == pytest.approx(place.dsun_obs_m, rel=1e-12)
    # Geosynchronous radius.
    assert np.linalg.norm(place.gae_m) == pytest.approx(42_164_000.0, rel=1e-9)
    # Parallax is at most 42164 km / 1 au = 0.0161 deg.
    assert abs(place.hgln_deg) < 0.0165


def test_radial_velocity_is_the_change_of_distance():
    time = np.datetime64("2012-05-05T05:00", "ns")
    step = np.timedelta64(60, "s")
    before, after = (orbit.ephemeris(t).dsun_obs_m for t in (time - step, time + step))
    # The derivative of Meeus' distance also has the slow change of its elements, some metres per second.
    assert orbit.ephemeris(time).velocity_m_s[0] == pytest.approx((after - before) / 120.0, abs=10.0)


def test_eclipses_last_up_to_72_minutes_in_two_seasons_around_the_equinoxes():
    minutes = np.arange(np.datetime64("2011-01-01", "m"), np.datetime64("2012-01-01", "m")).astype("datetime64[ns]")
    covered = orbit.eclipsed(minutes)
    per_day = covered.reshape(-1, 1440).sum(axis=1)
    assert 70 <= per_day.max() <= 73
    days = np.flatnonzero(per_day)
    seasons = np.split(days, np.flatnonzero(np.diff(days) > 1) + 1)
    assert len(seasons) == 2
    # 20 March and 23 September are days 78 and 265.
    for season, equinox in zip(seasons, (78, 265), strict=True):
        assert 18 <= season.size <= 28
        assert season[0] < equinox < season[-1]
    assert orbit.ephemeris(minutes[covered][0]).eclipsed
    assert not orbit.ephemeris(np.datetime64("2011-06-21T07:00", "ns")).eclipsed
