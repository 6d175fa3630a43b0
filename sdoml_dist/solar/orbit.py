"""Where SDO is: distance, heliographic coordinates, velocities and eclipses, from closed formulas.

The Earth follows the low-accuracy theory of Meeus, *Astronomical Algorithms* (2nd edition, 1998), chapter 25, and the
solar axis chapter 29. SDO itself flies a circular geosynchronous orbit with the inclination and ground longitude of
Pesnell et al. 2012 (Solar Physics 275, 3). No ephemeris files, no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sdoml_dist.solar.geometry import rsun_obs_arcsec
from sdoml_dist.solar.times import utc_to_tai

AU_M = 149_597_870_691.0
"""Astronomical unit of SDO headers (keyword DSUN_REF), metres."""

CARRINGTON_SIDEREAL_DEG_PER_DAY = 14.1844
"""Rotation of Carrington's system against the stars, 360 deg in 25.38 d (Archinal et al. 2018), degrees per day."""

SOLAR_INCLINATION_DEG = 7.25
"""Inclination of the solar equator to the ecliptic (Carrington 1863; Meeus chapter 29)."""

_J2000 = np.datetime64("2000-01-01T12:00:00", "ns")
_TT_MINUS_TAI = np.timedelta64(32_184_000_000, "ns")
# Geosynchronous orbit of SDO: inclination 28.5 deg above 102 deg west (Pesnell et al. 2012, section 4). The node of
# 180 deg is what makes its two eclipse seasons of about three weeks fall around the equinoxes.
_ORBIT_RADIUS_M = 42_164_000.0
_ORBIT_INCLINATION_DEG = 28.5
_ORBIT_NODE_DEG = 180.0
_GROUND_LONGITUDE_DEG = -102.0
_SIDEREAL_DEG_PER_DAY = 360.98564736629
_EARTH_RADIUS_M = 6_378_137.0
# The penumbra widens by the Sun's angular radius at 1 au.
_PENUMBRA_SLOPE = 696_000_000.0 / AU_M
_MERIDIAN_J2000_DEG = 84.176 - 61.1006
# Light from the Sun's centre is this old at 1 au (IERS: 499.005 s), in days.
_LIGHT_TIME_DAYS = 499.004_784 / 86_400.0
# General precession in longitude, degrees per Julian century (IAU 1976).
_PRECESSION_DEG = 5029.0966 / 3600.0


@dataclass(frozen=True)
class Observer:
    """Where SDO is and how it moves at one moment.

    Attributes
    ----------
    dsun_obs_m : float
        Distance to the Sun's centre, metres (DSUN_OBS).
    rsun_obs_arcsec : float
        Angular radius of the Sun, arcsec (RSUN_OBS).
    b0_deg, l0_deg : float
        Carrington latitude and longitude of the centre of the disc, degrees (CRLT_OBS, CRLN_OBS).
    hgln_deg : float
        Stonyhurst longitude, degrees: within 0.02 of 0.
    carrington_rotation : int
        CAR_ROT.
    velocity_m_s : tuple of float
        Away from the Sun, to solar west, to solar north (OBS_VR, OBS_VW, OBS_VN), m/s.
    hae_m : tuple of float
        Heliocentric position in the mean ecliptic and equinox of J2000 (HAEX_OBS, ...), metres.
    gae_m : tuple of float
        Geocentric position in the same axes (GAEX_OBS, ...), metres.
    eclipsed : bool
        Whether the Earth covers the Sun at least in part.
    """

    dsun_obs_m: float
    rsun_obs_arcsec: float
    b0_deg: float
    l0_deg: float
    hgln_deg: float
    carrington_rotation: int
    velocity_m_s: tuple[float, float, float]
    hae_m: tuple[float, float, float]
    gae_m: tuple[float, float, float]
    eclipsed: bool


def _days_tt(time: Any) -> Any:
    """Return days of terrestrial time since J2000.0 for UTC times."""
    stamp: Any = np.asarray(time, dtype="datetime64[ns]")
    return (utc_to_tai(stamp) + _TT_MINUS_TAI - _J2000).astype(np.int64) / 86_400e9


def _earth(time: Any) -> tuple[Any, Any, Any, Any]:
    """Return the Sun's longitude and true anomaly (radians), the distance (au) and the eccentricity."""
    century = _days_tt(time) / 36_525.0
    mean_longitude = 280.46646 + (36_000.76983 + 0.0003032 * century) * century
    anomaly = np.radians(357.52911 + (35_999.05029 - 0.0001537 * century) * century)
    eccentricity = 0.016708634 - (0.000042037 + 0.0000001267 * century) * century
    centre = (
        (1.914602 - (0.004817 + 0.000014 * century) * century) * np.sin(anomaly)
        + (0.019993 - 0.000101 * century) * np.sin(2 * anomaly)
        + 0.000289 * np.sin(3 * anomaly)
    )
    true_anomaly = anomaly + np.radians(centre)
    distance = 1.000001018 * (1 - eccentricity**2) / (1 + eccentricity * np.cos(true_anomaly))
    return np.radians(mean_longitude + centre), true_anomaly, distance, eccentricity


def earth_distance_au(time: Any) -> Any:
    """Return the distance of the Earth from the Sun in au at UTC times; Meeus (25.5), good to 1e-4."""
    return _earth(time)[2]


def _axis(century: Any) -> tuple[Any, Any, Any]:
    """Return unit vectors of the solar axis frame in the ecliptic of date: node, 90 degrees on, north; shape (3, ...)."""
    # Meeus chapter 29: K = 73.6667 + 1.3958333 (JDE - 2396758) / 36525; J2000.0 is JDE 2451545.
    node = np.radians(73.6667 + 1.3958333 * (century + (2_451_545.0 - 2_396_758.0) / 36_525.0))
    tilt = np.radians(SOLAR_INCLINATION_DEG)
    zero = np.zeros_like(node)
    first = np.stack([np.cos(node), np.sin(node), zero])
    north = np.stack([np.sin(tilt) * np.sin(node), -np.sin(tilt) * np.cos(node), np.cos(tilt) + zero])
    return first, np.cross(north, first, axis=0), north


def _heliographic(position: Any, days: Any, distance_au: Any) -> tuple[Any, Any]:
    """Return Carrington latitude and longitude in degrees of a direction in the ecliptic of date."""
    first, second, north = _axis(days / 36_525.0)
    direction = position / np.sqrt(np.sum(position**2, axis=0))
    latitude = np.degrees(np.arcsin(np.sum(direction * north, axis=0)))
    angle = np.degrees(np.arctan2(np.sum(direction * second, axis=0), np.sum(direction * first, axis=0)))
    # Carrington's zero meridian by W = 84.176 + 14.1844 d from the node on the equator of J2000 (Archinal et al. 2018,
    # Celest. Mech. 130, 22); that node is 61.1006 deg along from the one on the ecliptic. What is seen left the Sun a
    # light time ago.
    meridian = _MERIDIAN_J2000_DEG + CARRINGTON_SIDEREAL_DEG_PER_DAY * (days - _LIGHT_TIME_DAYS * distance_au)
    return latitude, (angle - meridian) % 360.0


def carrington(time: Any) -> tuple[Any, Any]:
    """Return B0 and L0 in degrees as seen from the Earth's centre at UTC times (Meeus chapter 29)."""
    longitude, _, distance, _ = _earth(time)
    earth = -np.stack([np.cos(longitude), np.sin(longitude), np.zeros_like(longitude)])
    return _heliographic(earth, _days_tt(time), distance)


def carrington_rotation(time: Any) -> Any:
    """Return the Carrington rotation number with its fraction at UTC times."""
    _, l0 = carrington(time)
    # Meeus (29.1): rotation C begins at JDE 2398140.2270 + 27.2752316 C, within 0.2 d: enough to pick the whole part.
    estimate = (_days_tt(time) + 2_451_545.0 - 2_398_140.2270) / 27.2752316
    fraction = 1.0 - l0 / 360.0
    return np.round(estimate - fraction) + fraction


def _spacecraft(time: Any) -> tuple[Any, Any]:
    """Return geocentric position (m) and velocity (m/s) of SDO in the ecliptic of date, each of shape (3, ...)."""
    stamp = np.asarray(time, dtype="datetime64[ns]")
    # Greenwich mean sidereal time, Meeus (12.4); UTC stands for UT1 (within 0.9 s = 0.004 deg).
    universal = (stamp - _J2000).astype(np.int64) / 86_400e9
    sidereal = 280.46061837 + _SIDEREAL_DEG_PER_DAY * universal
    along = np.radians(sidereal + _GROUND_LONGITUDE_DEG - _ORBIT_NODE_DEG)
    node, tilt = np.radians(_ORBIT_NODE_DEG), np.radians(_ORBIT_INCLINATION_DEG)
    obliquity = np.radians(23.4392911 - 0.0130042 * _days_tt(time) / 36_525.0)
    rate = np.radians(_SIDEREAL_DEG_PER_DAY) / 86_400.0
    vectors = []
    for a, b in ((np.cos(along), np.sin(along)), (-rate * np.sin(along), rate * np.cos(along))):
        x = np.cos(node) * a - np.sin(node) * np.cos(tilt) * b
        y = np.sin(node) * a + np.cos(node) * np.cos(tilt) * b
        z = np.sin(tilt) * b
        y, z = y * np.cos(obliquity) + z * np.sin(obliquity), z * np.cos(obliquity) - y * np.sin(obliquity)
        vectors.append(_ORBIT_RADIUS_M * np.stack([x, y, z]))
    return vectors[0], vectors[1]


def eclipsed(time: Any) -> Any:
    """Return whether the Earth's penumbra covers SDO at UTC times (seasons around the equinoxes, up to 72 min a day)."""
    position, _ = _spacecraft(time)
    longitude, _, _, _ = _earth(time)
    sunward = position[0] * np.cos(longitude) + position[1] * np.sin(longitude)
    aside = np.sqrt(np.maximum(np.sum(position**2, axis=0) - sunward**2, 0.0))
    return (sunward < 0) & (aside < _EARTH_RADIUS_M - sunward * _PENUMBRA_SLOPE)


def ephemeris(time: np.datetime64) -> Observer:
    """Return where SDO is at a UTC time."""
    longitude, anomaly, distance, eccentricity = (float(value) for value in _earth(time))
    days = float(_days_tt(time))
    century = days / 36_525.0
    outward = -np.array([np.cos(longitude), np.sin(longitude), 0.0])
    forward = np.array([-outward[1], outward[0], 0.0])
    craft, craft_velocity = _spacecraft(time)
    position = outward * distance * AU_M + craft
    # Kepler: mean motion of the anomalistic year, 0.98560028 deg per day (Meeus chapter 25: 35999.05029 per century).
    speed = np.radians(35_999.05029 / 36_525.0) / 86_400.0 * AU_M / np.sqrt(1 - eccentricity**2)
    velocity = speed * (eccentricity * np.sin(anomaly) * outward + (1 + eccentricity * np.cos(anomaly)) * forward)
    velocity = velocity + craft_velocity
    dsun = float(np.sqrt(np.sum(position**2)))
    radial = position / dsun
    north_axis = _axis(np.float64(century))[2]
    north = north_axis - np.dot(north_axis, radial) * radial
    north /= np.sqrt(np.sum(north**2))
    west = np.cross(north, radial)
    latitude, carrington_longitude = _heliographic(position, days, dsun / AU_M)
    earth_longitude = carrington(time)[1]
    turn = np.radians(-_PRECESSION_DEG * century)
    to_j2000 = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1.0]])
    hae, gae = to_j2000 @ position, to_j2000 @ craft
    return Observer(
        dsun_obs_m=dsun,
        rsun_obs_arcsec=rsun_obs_arcsec(dsun),
        b0_deg=float(latitude),
        l0_deg=float(carrington_longitude),
        hgln_deg=float((carrington_longitude - earth_longitude + 180.0) % 360.0 - 180.0),
        carrington_rotation=int(carrington_rotation(time)),
        velocity_m_s=(float(velocity @ radial), float(velocity @ west), float(velocity @ north)),
        hae_m=(float(hae[0]), float(hae[1]), float(hae[2])),
        gae_m=(float(gae[0]), float(gae[1]), float(gae[2])),
        eclipsed=bool(eclipsed(time)),
    )
