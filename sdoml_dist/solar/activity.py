"""Solar activity of the simulated mission: active regions that emerge, drift and decay, and their flares, on a seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_FIRST = np.datetime64("2009-11-01", "ns")
_DAYS = 7670
_NS_PER_DAY = 86_400e9
CARRINGTON_DEG_PER_DAY = 14.1844
"""Sidereal rotation of the Carrington system."""


MAGNETIC_FEATURES_DEG_PER_DAY = (14.71, -2.39, -1.78)
"""Sidereal rotation A, B, C of ``A + B sin^2 + C sin^4`` of the latitude (Snodgrass & Ulrich 1990, ApJ 351, 309)."""


def rotation_deg_per_day(latitude_deg: np.ndarray | float) -> np.ndarray:
    """Return the sidereal rotation rate of magnetic features (Snodgrass & Ulrich 1990)."""
    sine2 = np.sin(np.radians(latitude_deg)) ** 2
    a, b, c = MAGNETIC_FEATURES_DEG_PER_DAY
    rate: np.ndarray = a + b * sine2 + c * sine2**2
    return rate


@dataclass(frozen=True)
class Regions:
    """Active regions: arrays over regions, shape (regions,).

    Attributes
    ----------
    emergence_day, rise_days, decay_days : numpy.ndarray
        Days since `_FIRST`, and the time scales of growth and decay.
    latitude_deg, longitude_deg : numpy.ndarray
        Heliographic latitude; Carrington longitude at emergence.
    strength, size_deg, tilt_deg : numpy.ndarray
        Peak strength (1 is a typical region), Gaussian size, and tilt of the bipole, from west towards north.
    """

    emergence_day: np.ndarray
    rise_days: np.ndarray
    decay_days: np.ndarray
    latitude_deg: np.ndarray
    longitude_deg: np.ndarray
    strength: np.ndarray
    size_deg: np.ndarray
    tilt_deg: np.ndarray

    def envelope(self, day: float) -> np.ndarray:
        """Return the strength of each region at a day: 0 before emergence, then growth and slow decay."""
        age = day - self.emergence_day
        grown = 1.0 - np.exp(-np.clip(age, 0, None) / self.rise_days)
        envelope: np.ndarray = np.where(
            age > 0, self.strength * grown * np.exp(-np.clip(age, 0, None) / self.decay_days), 0.0
        )
        return envelope

    def longitude_at(self, day: float) -> np.ndarray:
        """Return the Carrington longitude of each region at a day, carried by differential rotation."""
        drift = (rotation_deg_per_day(self.latitude_deg) - CARRINGTON_DEG_PER_DAY) * (day - self.emergence_day)
        longitude: np.ndarray = (self.longitude_deg + drift) % 360.0
        return longitude


def day_number(time: np.datetime64) -> float:
    """Return days since the simulation's first day."""
    return float((time.astype("datetime64[ns]") - _FIRST).astype(np.int64)) / _NS_PER_DAY


def _cycle(day: np.ndarray) -> np.ndarray:
    """Return activity between 0 and 1 (cycles 24 and 25: minima at the end of 2008 and of 2019)."""
    years = 2009.83 + day / 365.25
    phase = np.where(years < 2019.9, (years - 2008.9) / 11.0, (years - 2019.9) / 11.0)
    activity: np.ndarray = np.clip(np.sin(np.pi * np.clip(phase, 0, 1)) ** 1.2, 0.05, 1.0)
    return activity


@lru_cache(maxsize=4)
def active_regions(seed: int) -> Regions:
    """Draw all active regions of the mission."""
    rng = np.random.default_rng([seed, 11])
    candidates = rng.uniform(-60, _DAYS, 6000)
    day = np.sort(candidates[rng.uniform(size=candidates.size) < 0.75 * _cycle(candidates)])
    number = day.size
    years = 2009.83 + day / 365.25
    phase = np.where(years < 2019.9, (years - 2008.9) / 11.0, (years - 2019.9) / 11.0).clip(0, 1)
    # Spoerer's law: belts move from about 28 to 8 degrees during a cycle.
    latitude = (28.0 - 20.0 * phase + rng.normal(0, 4.0, number)) * rng.choice([-1.0, 1.0], number)
    strength = np.exp(rng.normal(-0.25, 0.65, number))
    return Regions(
        emergence_day=day,
        rise_days=rng.uniform(0.8, 3.5, number),
        decay_days=rng.uniform(8.0, 35.0, number),
        latitude_deg=latitude,
        longitude_deg=rng.uniform(0, 360, number),
        strength=strength,
        size_deg=2.2 * strength**0.4 * rng.uniform(0.8, 1.3, number),
        # Joy's law: tilt of half the latitude, leading spot nearer to the equator.
        tilt_deg=-0.5 * latitude + rng.normal(0, 8.0, number),
    )


@lru_cache(maxsize=4)
def flares(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the flares of the mission: peak day, region index and strength, each of shape (flares,)."""
    rng = np.random.default_rng([seed, 13])
    regions = active_regions(seed)
    counts = rng.poisson(3.0 * regions.strength)
    index = np.repeat(np.arange(counts.size), counts)
    day = regions.emergence_day[index] + rng.exponential(1.0, index.size) * regions.decay_days[index] * 0.4
    strength = (rng.pareto(1.1, index.size) + 1.0).clip(None, 60.0)
    order = np.argsort(day)
    return day[order], index[order], strength[order]


def flare_level(seed: int, time: np.datetime64) -> tuple[np.ndarray, np.ndarray]:
    """Return (region index, brightness) of the flares under way: minutes of rise, tens of minutes of decay."""
    day, index, strength = flares(seed)
    minutes = (day_number(time) - day) * 1440.0
    active = (minutes > -10) & (minutes < 180)
    shape = np.where(minutes < 0, np.exp(-((minutes / 3.0) ** 2)), np.exp(-minutes.clip(0) / 25.0))
    return index[active], (strength * shape)[active]
