"""Regions to track: a place on the Sun and the time for which it is followed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Region:
    """A place on the Sun that is followed for a while.

    Attributes
    ----------
    number : int
        NOAA number of the active region, or any number that names the region.
    latitude_deg, longitude_deg : float
        Heliographic latitude and Carrington longitude of the centre at `reference`.
    reference : numpy.datetime64
        UTC.
    start, end : numpy.datetime64
        Times of the first frame and after the last one, UTC.
    emergence : numpy.datetime64
        When the region was first seen, UTC; NaT where that is not known.
    """

    number: int
    latitude_deg: float
    longitude_deg: float
    reference: np.datetime64
    start: np.datetime64
    end: np.datetime64
    emergence: np.datetime64 = np.datetime64("NaT", "ns")  # noqa: RUF009 - immutable

    @property
    def name(self) -> str:
        """Name of the region's group, for example ``AR11158``."""
        return f"AR{self.number}"
