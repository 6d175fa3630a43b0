"""A simulated photosphere under the simulated corona: magnetic field, Doppler velocity and continuum intensity.

The active regions are those of :mod:`sdoml_dist.solar.activity`, at the same places and times. Each is a bipole of spots
with Hale's polarity and Joy's tilt. A spot is a magnetic charge below the surface, so that the field is an exact
potential field: strongest and vertical in the middle, weaker and more inclined outwards. Around the spots lies plage,
everywhere else a network of mixed polarity. The plasma rotates, streams in supergranules and oscillates in p modes.

Positions are those of a parallel projection, as in the corona; line-of-sight velocities take the finite distance into
account, because it turns kilometres per second of the spacecraft into tens of metres per second at the limb.
"""

from __future__ import annotations

import numpy as np

from sdoml_dist.solar.activity import active_regions, day_number
from sdoml_dist.solar.geometry import RSUN_REF_M
from sdoml_dist.solar.orbit import Observer, ephemeris
from sdoml_dist.solar.photosphere_kernels import Affine, doppler, magnetic, shine, turn
from sdoml_dist.solar.quiet_sun import RATES, ROWS, STEP_DEG, generations, pattern_of, upwards

__all__ = ["Affine", "PhotosphereModel"]

# Hale et al. (1919, ApJ 49, 153): polarities change from cycle to cycle. Cycle 24, even, has negative leading spots in
# the north; the scene begins cycle 25 at 2019.9.
_CYCLE_25_DAY = (2019.9 - 2009.83) * 365.25
_LEADING, _FOLLOWING = 0.9, -0.9
# Field in the middle of pores and of the largest spots (Solanki 2003, Astron. Astrophys. Rev. 11, 153), and depth of
# the charge in sizes of the region: the visible spot is half as wide again as its charge is deep.
_WEAKEST_GAUSS, _STRONGEST_GAUSS = 1500.0, 2400.0
_DEPTH = 0.3
_PLAGE_GAUSS = 180.0
# Power falls a day or so before emergence (qualitatively: Hartlep et al. 2011, Solar Phys. 268, 321; Kasapis et al.
# 2024, arXiv:2402.08890).
_WARNING_DAYS = 1.5
_WARNING_DEPTH = 0.35
# Limb darkening at 617.3 nm: powers 0 to 5 of ln(mu), HMI's own (JSOC hmi_limbdark, coefficients version 2).
_LIMB_DARKENING = np.array([1.0, 0.459224, 0.132395, 0.019601, 0.000802, -4.31934e-5])


def _place(coordinates_deg: np.ndarray, radius: float | np.ndarray = 1.0) -> np.ndarray:
    """Return positions in solar radii along (west, pole, outward on the central meridian), shape (n, 3).

    Stonyhurst latitude and longitude come as an array of shape (2, n).
    """
    latitude, longitude = np.radians(coordinates_deg)
    unit = [np.cos(latitude) * np.sin(longitude), np.sin(latitude), np.cos(latitude) * np.cos(longitude)]
    return np.stack(unit, axis=-1) * np.broadcast_to(radius, latitude.shape)[:, None]


class PhotosphereModel:
    """The simulated photosphere.

    Parameters
    ----------
    seed : int
        Same seed, same photosphere, and the one below the corona of ``SunModel(seed)``.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.regions = active_regions(seed)

    def leading_sign(self) -> np.ndarray:
        """Return the sign of the leading polarity of each region, shape (regions,): Hale's law."""
        north = np.sign(self.regions.latitude_deg)
        sign: np.ndarray = np.where(self.regions.emergence_day < _CYCLE_25_DAY, -north, north)
        return sign

    def _feet(self, chosen: np.ndarray, day: float, l0_deg: float, along: float, across: float = 0.0) -> np.ndarray:
        """Return Stonyhurst latitude and longitude, shape (2, n), of places given in sizes along and across bipoles."""
        regions = self.regions
        tilt, size = np.radians(regions.tilt_deg[chosen]), regions.size_deg[chosen]
        north = size * (along * np.sin(tilt) + across * np.cos(tilt))
        west = size * (along * np.cos(tilt) - across * np.sin(tilt))
        latitude = regions.latitude_deg[chosen] + north
        middle = regions.longitude_at(day)[chosen] - l0_deg
        return np.stack([latitude, middle + west / np.cos(np.radians(latitude))])

    def _sources(self, day: float, l0_deg: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return charges and plages for `magnetic` and the warnings for `doppler`."""
        regions = self.regions
        envelope = regions.envelope(day)
        middle = _place(np.stack([regions.latitude_deg, regions.longitude_at(day) - l0_deg]))
        # Regions well behind the limb leave no trace on the visible side. They go as a whole: half a bipole would.
        chosen = np.flatnonzero((envelope > 0.02) & (middle[:, 2] > -0.4))
        sign, envelope = self.leading_sign()[chosen], envelope[chosen]
        size = np.radians(regions.size_deg[chosen])
        # A spot grows and decays in area far more than in field: a pore still has some 1500 G.
        grown = 1.0 - np.exp(-2.5 * envelope)
        peak = _WEAKEST_GAUSS + (_STRONGEST_GAUSS - _WEAKEST_GAUSS) * grown
        depth = _DEPTH * size * np.sqrt(grown)
        charges, plages = [], []
        # One leading spot, following flux in two: parts add up to none, so that no flux leaves a region.
        for along, across, part in ((_LEADING, 0.0, 1.0), (_FOLLOWING, 0.0, -0.65), (_FOLLOWING + 0.35, 0.5, -0.35)):
            where = _place(self._feet(chosen, day, l0_deg, along, across), 1.0 - depth)
            charges.append(np.column_stack([where, part * sign * peak * depth**2]))
        for along, part in ((_LEADING - 0.2, 1.0), (_FOLLOWING, -1.0)):
            where = _place(self._feet(chosen, day, l0_deg, along))
            gauss = part * sign * _PLAGE_GAUSS * (1.0 - np.exp(-2.0 * envelope))
            plages.append(np.column_stack([where, 1.0 / (0.8 * size) ** 2, gauss]))
        soon = np.flatnonzero((regions.emergence_day > day) & (regions.emergence_day < day + _WARNING_DAYS))
        near = 1.0 - (regions.emergence_day[soon] - day) / _WARNING_DAYS
        lost = _WARNING_DEPTH * near * (1.0 - np.exp(-2.5 * regions.strength[soon]))
        warnings = np.column_stack(
            [_place(self._feet(soon, day, l0_deg, 0.0)), 1.0 / np.radians(1.5 * regions.size_deg[soon]) ** 2, lost]
        )
        return np.ascontiguousarray(np.concatenate(charges).T), np.concatenate(plages), warnings

    def _field(self, day: float, place: Observer, shape: tuple[int, int], affine: Affine) -> np.ndarray:
        """Return Br, Btheta and Bphi."""
        charges, plages, _ = self._sources(day, place.l0_deg)
        field = np.empty((3, *shape), np.float32)
        b0 = np.radians(place.b0_deg)
        magnetic(
            affine,
            np.sin(b0),
            np.cos(b0),
            place.l0_deg,
            pattern_of(self.seed),
            RATES,
            generations(day),
            charges,
            plages,
            field,
        )
        return field

    def heliographic_field(self, time: np.datetime64, shape: tuple[int, int], affine: Affine) -> np.ndarray:
        """Return the magnetic field along the local heliographic directions.

        Parameters
        ----------
        time : numpy.datetime64
            UTC.
        shape : tuple of int
            Rows and columns.
        affine : tuple of float
            (x0, xx, xy, y0, yx, yy): column i and row j are at ``x0 + xx i + xy j`` west and ``y0 + yx i + yy j``
            north of the Sun's centre, in solar radii.

        Returns
        -------
        numpy.ndarray
            Shape (3, rows, columns), float32, gauss: Br (outwards), Btheta (southwards), Bphi (westwards); NaN off the
            disc.
        """
        return self._field(day_number(time), ephemeris(time), shape, affine)

    def vector_field(
        self, time: np.datetime64, shape: tuple[int, int], affine: Affine, seen_from: Observer | None = None
    ) -> np.ndarray:
        """Return the magnetic field in the frame of the image.

        Parameters
        ----------
        time, shape, affine
            As in :meth:`heliographic_field`.
        seen_from : Observer, optional
            By whom; by default SDO.

        Returns
        -------
        numpy.ndarray
            Shape (3, rows, columns), float32, gauss: Bx (solar west), By (solar north), Bz (towards the observer, what
            a line-of-sight magnetogram shows); NaN off the disc.
        """
        place = seen_from or ephemeris(time)
        field = self._field(day_number(time), place, shape, affine)
        b0 = np.radians(place.b0_deg)
        turn(affine, np.sin(b0), np.cos(b0), field)
        return field

    def velocity(
        self, time: np.datetime64, shape: tuple[int, int], affine: Affine, observer: bool = True
    ) -> np.ndarray:
        """Return the line-of-sight velocity.

        Rotation, supergranulation, p modes and convective blueshift; the gravitational redshift is left out, as a
        constant that a reference wavelength takes up.

        Parameters
        ----------
        time, shape, affine
            As in :meth:`heliographic_field`.
        observer : bool
            Whether to add the spacecraft's motion: at the centre of the disc, plus OBS_VR.

        Returns
        -------
        numpy.ndarray
            Shape (rows, columns), float32, m/s, positive away from the observer; NaN off the disc.
        """
        place, day = ephemeris(time), day_number(time)
        field = self._field(day, place, shape, affine)
        out = np.empty(shape, np.float32)
        b0 = np.radians(place.b0_deg)
        low, high = _rows_seen(shape, affine, place.b0_deg)
        doppler(
            affine, np.sin(b0), np.cos(b0), place.l0_deg, pattern_of(self.seed), RATES, generations(day),
            upwards(self.seed, day, low, high), low, field, self._sources(day, place.l0_deg)[2],
            RSUN_REF_M / place.dsun_obs_m, place.velocity_m_s if observer else (0.0, 0.0, 0.0), out,
        )  # fmt: skip
        return out

    def continuum(self, time: np.datetime64, shape: tuple[int, int], affine: Affine) -> np.ndarray:
        """Return the continuum intensity near 617.3 nm.

        Parameters
        ----------
        time, shape, affine
            As in :meth:`heliographic_field`.

        Returns
        -------
        numpy.ndarray
            Shape (rows, columns), float32, DN/s; 0 off the disc.
        """
        out = np.empty(shape, np.float32)
        shine(affine, _LIMB_DARKENING, self._field(day_number(time), ephemeris(time), shape, affine), out)
        return out


def _rows_seen(shape: tuple[int, int], affine: Affine, b0_deg: float) -> tuple[int, int]:
    """Return the rows of the sphere that a grid may need: a single pixel then costs two rows of waves, not all."""
    x0, xx, xy, y0, yx, yy = affine
    if max(shape) > 16:
        return 0, ROWS
    j, i = np.mgrid[: shape[0], : shape[1]]
    x, y = x0 + xx * i + xy * j, y0 + yx * i + yy * j
    seen = x**2 + y**2 < 1
    if not seen.any():
        return 0, 2
    b0 = np.radians(b0_deg)
    sine = y[seen] * np.cos(b0) + np.sqrt(1 - x[seen] ** 2 - y[seen] ** 2) * np.sin(b0)
    rows = (np.degrees(np.arcsin(sine.clip(-1, 1))) + 90.0) / STEP_DEG - 0.5
    low = int(np.clip(np.floor(rows.min()), 0, ROWS - 2))
    return low, int(np.clip(np.floor(rows.max()) + 2, low + 2, ROWS))
