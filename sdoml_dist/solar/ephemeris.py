"""Where SDO is: distance, solar B0 and L0, and the seasons in which the Earth covers the Sun.

Low-precision formulas of Meeus, Astronomical Algorithms (2nd ed. 1998), chapters 25 and 29; good to some hundredths of
a degree and 1e-4 of the distance. SDO is taken to be at the Earth's centre but for its velocity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdoml_dist.solar.geometry import rsun_obs_arcsec

AU_M = 149_597_870_700.0
"""Astronomical unit, IAU 2012 resolution B2, metres."""
_J2000 = np.datetime64("2000-01-01T12:00:00", "ns")
_NS_PER_DAY = 86_400e9
# Longitudes count from the node with a sidereal period of 25.38 days; rotation 1 began at JD 2398140.2270 (chapter 29).
_CARRINGTON_JD, _SIDEREAL_DAYS, _SYNODIC_DAYS = 2_398_220.0, 25.38, 27.2752316
_INCLINATION_DEG = 7.25
# Inclined geosynchronous orbit (Pesnell et al. 2012, Solar Physics 275, 3): radius 42164 km, hence 3.07 km/s; around
# the equinoxes the Earth covers the Sun once a day for up to 72 minutes during some 23 days.
_ORBIT_SPEED_M_S = 3074.0
_ECLIPSE_HALF_WIDTH_DAYS = 11.5
_LONGEST_ECLIPSE_S = 72 * 60.0
_ECLIPSE_MIDDLE_S = 6 * 3600 + 50 * 60


@dataclass(frozen=True)
class Ephemeris:
    """Geometry of SDO at one time.

    Attributes
    ----------
    dsun_obs_m : float
        Distance to the Sun's centre.
    rsun_obs_arcsec : float
        Angular solar radius.
    b0_deg, l0_deg : float
        Carrington latitude and longitude of the disc's centre.
    carrington_rotation : int
        Number of the rotation.
    obs_vr_m_s : float
        Velocity away from the Sun.
    """

    dsun_obs_m: float
    rsun_obs_arcsec: float
    b0_deg: float
    l0_deg: float
    carrington_rotation: int
    obs_vr_m_s: float


def ephemeris(time: np.datetime64) -> Ephemeris:
    """Return the geometry at a UTC time; the minute between UTC and dynamical time is below the formulas' accuracy."""
    days = float((time.astype("datetime64[ns]") - _J2000).astype(np.int64)) / _NS_PER_DAY
    julian_day = days + 2_451_545.0
    century = days / 36525.0
    anomaly = np.radians(357.52911 + 35999.05029 * century)
    centre = 1.914602 * np.sin(anomaly) + 0.019993 * np.sin(2 * anomaly) + 0.000289 * np.sin(3 * anomaly)
    longitude = 280.46646 + 36000.76983 * century + centre
    eccentricity = 0.016708634 - 0.000042037 * century
    radius_au = 1.000001018 * (1 - eccentricity**2) / (1 + eccentricity * np.cos(anomaly + np.radians(centre)))
    apparent = np.radians(longitude - 0.00569)
    node = np.radians(73.6667 + 1.3958333 * (julian_day - 2_396_758.0) / 36525.0)
    inclination = np.radians(_INCLINATION_DEG)
    b0 = np.degrees(np.arcsin(np.sin(apparent - node) * np.sin(inclination)))
    eta = np.degrees(np.arctan2(-np.sin(apparent - node) * np.cos(inclination), -np.cos(apparent - node)))
    theta = (julian_day - _CARRINGTON_JD) * 360.0 / _SIDEREAL_DAYS
    rotation = (julian_day - 2_398_140.2270) / _SYNODIC_DAYS
    distance = float(radius_au * AU_M)
    radial = AU_M * eccentricity * np.sin(anomaly) * np.radians(0.98560028) / 86400.0
    orbit = _ORBIT_SPEED_M_S * np.sin(2 * np.pi * days)
    return Ephemeris(
        distance, rsun_obs_arcsec(distance), float(b0), float((eta - theta) % 360.0), int(rotation) + 1,
        float(radial + orbit),
    )  # fmt: skip


def in_eclipse_season(time: np.datetime64) -> bool:
    """Whether the Earth covers the Sun at a UTC time; the daily middle follows from SDO's longitude, 102 degrees west."""
    moment = time.astype("datetime64[ns]")
    year = str(moment.astype("datetime64[Y]"))
    for equinox in ("03-20T18", "09-22T18"):
        distance = abs(float((moment - np.datetime64(f"{year}-{equinox}", "ns")).astype(np.int64))) / _NS_PER_DAY
        if distance < _ECLIPSE_HALF_WIDTH_DAYS:
            length = _LONGEST_ECLIPSE_S * np.sqrt(1 - (distance / _ECLIPSE_HALF_WIDTH_DAYS) ** 2)
            second = float((moment - moment.astype("datetime64[D]")).astype(np.int64)) / 1e9
            return bool(abs(second - _ECLIPSE_MIDDLE_S) < length / 2)
    return False
