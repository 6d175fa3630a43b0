"""A simulated photosphere under the simulated corona: magnetic field, Doppler velocity and continuum intensity.

The active regions are those of :mod:`sdoml_dist.solar.activity`, at the same places and times. Each is a bipole of spots
with Hale's polarity and Joy's tilt. A spot is a magnetic charge below the surface, so that the field is an exact
potential field: strongest and vertical in the middle, weaker and more inclined outwards. Around the spots lies plage,
everywhere else a network of mixed polarity. The plasma rotates, streams in supergranules and oscillates in p modes.

Positions are those of a parallel projection, as in the corona; line-of-sight velocities take the finite distance into
account, because it turns kilometres per second of the spacecraft into tens of metres per second at the limb.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from sdoml_dist.solar.activity import active_regions, day_number, rotation_deg_per_day
from sdoml_dist.solar.geometry import RSUN_REF_M
from sdoml_dist.solar.orbit import CARRINGTON_SIDEREAL_DEG_PER_DAY, Observer, ephemeris

Affine = tuple[float, float, float, float, float, float]
"""Where pixels lie, as in :meth:`sdoml_dist.solar.scene.SunModel.render`."""

# Patterns lie on a grid even in both angles: rows from the south pole, columns westwards from Carrington longitude 0.
_ROWS, _COLUMNS = 900, 1800
_STEP_DEG = 180.0 / _ROWS
_LATITUDE_DEG = (np.arange(_ROWS) + 0.5) * _STEP_DEG - 90.0
_RATES = rotation_deg_per_day(_LATITUDE_DEG)

# Hale et al. (1919, ApJ 49, 153): polarities change from cycle to cycle. Cycle 24, even, has negative leading spots in
# the north; the scene begins cycle 25 at 2019.9.
_CYCLE_25_DAY = (2019.9 - 2009.83) * 365.25
_LEADING, _FOLLOWING = 0.9, -0.9
# Field in the middle of pores and of the largest spots (Solanki 2003, Astron. Astrophys. Rev. 11, 153), and depth of
# the charge in sizes of the region: the visible spot is half as wide again as its charge is deep.
_WEAKEST_GAUSS, _STRONGEST_GAUSS = 1500.0, 2400.0
_DEPTH = 0.3
_PLAGE_GAUSS = 180.0

# Network elements average to some ten gauss over a pixel of an arcsecond or two.
_NETWORK_GAUSS = 14.0
# Hathaway et al. (2000, Solar Phys. 193, 299): cells of some 35 Mm and a day or two, flows of about 300 m/s.
_SUPERGRANULE_M_S = 300.0
_SUPERGRANULE_DEG = 0.6
_SUPERGRANULE_DAYS = 1.5

# p modes: five minutes (Leighton, Noyes & Simon 1962, ApJ 135, 474), most power at 3.3 mHz.
_MODES = 480
_MODE_M_S = 400.0
_DEGREES = (15, 200)
_PEAK_HZ, _SPREAD_HZ, _RANGE_HZ = 3.3e-3, 0.45e-3, (2.0e-3, 5.0e-3)
_GRAVITY_M_S2 = 274.0
# Sunspots absorb up to half of the incoming power and hold the rest down (Braun, Duvall & LaBonte 1987, ApJ 319, L27);
# the shape in field strength is this model's own.
_ABSORBED = 0.8
_ABSORBING_GAUSS = 600.0
# Power falls a day or so before emergence (qualitatively: Hartlep et al. 2011, Solar Phys. 268, 321; Kasapis et al.
# 2024, arXiv:2402.08890).
_WARNING_DAYS = 1.5
_WARNING_DEPTH = 0.35
# Field that holds convection down and leaves no room for small elements.
_CONVECTION_GAUSS = 500.0

# Convective blueshift from centre to limb: within some 30 m/s of the mean bisectors of Fe I 630.25 nm in table 2 of
# Loehner-Boettcher et al. (2018, A&A 611, A4), a line formed much as HMI's 617.3 nm.
_BLUESHIFT_M_S, _LIMB_SHIFT_M_S = -280.0, 540.0

_CONTINUUM_DN_S = 5.0e4
# Limb darkening at 617.3 nm: powers 0 to 5 of ln(mu), HMI's own (JSOC hmi_limbdark, coefficients version 2).
_LIMB_DARKENING = np.array([1.0, 0.459224, 0.132395, 0.019601, 0.000802, -4.31934e-5])
_DARKEST_MU = 0.01
# Penumbra to 0.75, umbra to 0.23 of the quiet Sun; the umbra's boundary lies near the 1867 G (vertical) of
# Jurcak et al. (2018, A&A 611, L4), a little lower and softened so that mid-sized spots have one.
_PENUMBRA = (0.25, 800.0, 70.0)
_UMBRA = (0.52, 1750.0, 130.0)

_SECONDS_PER_DAY = 86_400.0
# Sums may be reordered, so that loops over charges run several at a time; NaN keeps its meaning.
_FREE = {"reassoc", "contract", "arcp", "nsz"}


@dataclass(frozen=True)
class Waves:
    """The p modes of the Sun: arrays over modes, in order of their azimuthal order.

    Attributes
    ----------
    degree, order : numpy.ndarray
        Spherical degree and azimuthal order (not negative), integers.
    angular_rate : numpy.ndarray
        Angular frequency in rad/s in the frame of the Sun's rotation; negative for retrograde waves.
    phase : numpy.ndarray
        Phase at the simulation's first moment, radians.
    profile : numpy.ndarray
        Shape (modes, latitudes), float32: Legendre functions with a mean square of 1 over the sphere.
    """

    degree: np.ndarray
    order: np.ndarray
    angular_rate: np.ndarray
    phase: np.ndarray
    profile: np.ndarray


@numba.njit(cache=True, nogil=True)
def _legendre(degree: np.ndarray, order: np.ndarray, sine: np.ndarray, out: np.ndarray) -> None:
    """Fill associated Legendre functions, mean square 1 over the sphere, by the stable recursion in degree."""
    for k in range(degree.size):
        l_k, m = degree[k], order[k]
        for i in range(sine.size):
            x = sine[i]
            root = np.sqrt(1.0 - x * x)
            value = 1.0
            for j in range(1, m + 1):
                value *= root * np.sqrt((2.0 * j + 1.0) / (2.0 * j))
            before = 0.0
            for n in range(m + 1, l_k + 1):
                a = np.sqrt((4.0 * n * n - 1.0) / (n * n - m * m))
                b = np.sqrt(((n - 1.0) ** 2 - m * m) / (4.0 * (n - 1.0) ** 2 - 1.0))
                before, value = value, a * (x * value - b * before)
            out[k, i] = value


@lru_cache(maxsize=2)
def _waves(seed: int) -> Waves:
    """Draw the p modes: frequencies on the ridges of a polytrope, close to the observed envelope of power."""
    rng = np.random.default_rng([seed, 23])
    degree = rng.integers(*_DEGREES, 4 * _MODES)
    wanted = rng.normal(_PEAK_HZ, _SPREAD_HZ, degree.size)
    # Ridges of a plane polytrope of index 3: omega^2 = (1 + 2 n / 3) g k (Christensen-Dalsgaard, Lecture Notes on
    # Stellar Oscillations, section 7.2); the radial order n is the one nearest to the frequency wanted.
    surface = _GRAVITY_M_S2 * np.sqrt(degree * (degree + 1.0)) / RSUN_REF_M
    radial = np.maximum(np.round(((2 * np.pi * wanted) ** 2 / surface - 1.0) * 1.5), 1)
    frequency = np.sqrt((1.0 + radial / 1.5) * surface) / (2 * np.pi)
    chosen = np.flatnonzero((frequency > _RANGE_HZ[0]) & (frequency < _RANGE_HZ[1]))[:_MODES]
    degree, frequency = degree[chosen], frequency[chosen]
    signed = rng.integers(-degree, degree + 1)
    ranks = np.argsort(np.abs(signed), kind="stable")
    degree, signed, frequency = degree[ranks], signed[ranks], frequency[ranks]
    profile = np.empty((degree.size, _ROWS))
    _legendre(degree, np.abs(signed), np.sin(np.radians(_LATITUDE_DEG)), profile)
    return Waves(
        degree=degree,
        order=np.abs(signed),
        # cos(m longitude - omega t) travels west.
        angular_rate=np.where(signed < 0, 1.0, -1.0) * 2 * np.pi * frequency,
        phase=rng.uniform(0, 2 * np.pi, degree.size),
        profile=profile.astype(np.float32),
    )


def _smooth(noise: np.ndarray, size_deg: float) -> np.ndarray:
    """Return noise on the sphere smoothed by a Gaussian of the same size everywhere on the Sun."""
    smooth = gaussian_filter1d(noise, size_deg / _STEP_DEG, axis=0, mode="reflect")
    frequency = np.fft.rfftfreq(_COLUMNS, d=_STEP_DEG)
    width = size_deg / np.cos(np.radians(_LATITUDE_DEG)).clip(0.02)
    response = np.exp(-2 * (np.pi * width[:, None] * frequency[None, :]) ** 2)
    filtered: np.ndarray = np.fft.irfft(np.fft.rfft(smooth, axis=1) * response, n=_COLUMNS, axis=1)
    return filtered


def _even(field: np.ndarray) -> np.ndarray:
    """Return a field scaled to a mean square of 1 on every circle of latitude."""
    scaled: np.ndarray = field / np.sqrt(np.mean(field**2, axis=1, keepdims=True))
    return scaled


@lru_cache(maxsize=2)
def _pattern(seed: int) -> np.ndarray:
    """Return the quiet Sun, shape (latitudes, longitudes, 4), float32: network, texture, flow north and flow west.

    Network in gauss with a mean of exactly 0 on each circle of latitude; texture with mean 0 and variance 1; flows in
    m/s. Flows lead to where the network is dense, as supergranules sweep it to their edges.
    """
    rng = np.random.default_rng([seed, 29])
    noise = rng.standard_normal((_ROWS, _COLUMNS))
    cells = _even(_smooth(noise, _SUPERGRANULE_DEG)) - _even(_smooth(noise, 2 * _SUPERGRANULE_DEG))
    cells = _even(cells - cells.mean(axis=1, keepdims=True))
    fine = _even(_smooth(rng.standard_normal((_ROWS, _COLUMNS)), 0.22))
    network = fine * np.exp(1.1 * cells.clip(None, 3.0))
    network -= network.mean(axis=1, keepdims=True)
    shrink = np.cos(np.radians(_LATITUDE_DEG)).clip(0.02)[:, None]
    north = np.gradient(cells, axis=0)
    west = (np.roll(cells, -1, axis=1) - np.roll(cells, 1, axis=1)) / (2.0 * shrink)
    pattern = np.stack(
        [
            _NETWORK_GAUSS * _even(network),
            _even(0.8 * fine + 0.6 * cells),
            _SUPERGRANULE_M_S / np.sqrt(2.0) * _even(north),
            _SUPERGRANULE_M_S / np.sqrt(2.0) * _even(west),
        ],
        axis=-1,
    )
    return np.ascontiguousarray(pattern, np.float32)


@numba.njit(cache=True, nogil=True, inline="always", error_model="numpy")
def _mix(
    pattern: np.ndarray, rates: np.ndarray, latitude: float, longitude: float, phases: np.ndarray, values: np.ndarray
) -> float:  # fmt: skip
    """Interpolate the two patterns alive at a place, degrees, into `values`, and return its rotation, degrees per day.

    Rows of `phases` are generations: days since it was at its strongest, weight, first longitude, mirrored or not.
    """
    rows, columns, parts = pattern.shape
    # Rates come as an array: a compiled function would keep the law of the day it was compiled.
    u = (latitude + 90.0) / _STEP_DEG - 0.5
    a = min(max(int(np.floor(u)), 0), rows - 2)
    rate = rates[a] + (u - a) * (rates[a + 1] - rates[a])
    values[:] = 0.0
    for g in range(phases.shape[0]):
        mirrored = phases[g, 3] > 0
        u = ((-latitude if mirrored else latitude) + 90.0) / _STEP_DEG - 0.5
        v = (longitude - (rate - CARRINGTON_SIDEREAL_DEG_PER_DAY) * phases[g, 0] + phases[g, 2]) / _STEP_DEG
        a = min(max(int(np.floor(u)), 0), rows - 2)
        fu = min(max(u - a, 0.0), 1.0)
        low = np.floor(v)
        fv = v - low
        b = int(low) % columns
        c = b + 1 if b + 1 < columns else 0
        for p in range(parts):
            value = (1 - fu) * ((1 - fv) * pattern[a, b, p] + fv * pattern[a, c, p]) + fu * (
                (1 - fv) * pattern[a + 1, b, p] + fv * pattern[a + 1, c, p]
            )
            # Seen in a mirror a flow to the north is one to the south.
            values[p] += phases[g, 1] * (-value if mirrored and p == 2 else value)
    return rate


@numba.njit(cache=True, nogil=True, fastmath=_FREE, error_model="numpy")
def _magnetic(
    affine: Affine, sine_b0: float, cosine_b0: float, l0_deg: float, pattern: np.ndarray, rates: np.ndarray,
    phases: np.ndarray, charges: np.ndarray, plages: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Fill Br, Btheta (southwards) and Bphi (westwards), gauss.

    `charges` has columns (west, north, outward, charge), and rows of `plages` (west, north, outward, 1 / size^2, gauss), in solar
    radii along the axes of the Sun: west, its north pole and the central meridian on the equator.
    """
    x0, xx, xy, y0, yx, yy = affine
    values = np.empty(pattern.shape[2])
    for j in range(out.shape[1]):
        for i in range(out.shape[2]):
            x = x0 + xx * i + xy * j
            y = y0 + yx * i + yy * j
            r2 = x * x + y * y
            if r2 >= 1.0:
                out[0, j, i] = out[1, j, i] = out[2, j, i] = np.nan
                continue
            mu = np.sqrt(1.0 - r2)
            north = y * cosine_b0 + mu * sine_b0
            outward = mu * cosine_b0 - y * sine_b0
            field_w = field_n = field_o = 0.0
            for k in range(charges.shape[1]):
                dx, dy, dz = x - charges[0, k], north - charges[1, k], outward - charges[2, k]
                d2 = dx * dx + dy * dy + dz * dz
                pull = charges[3, k] / (d2 * np.sqrt(d2))
                field_w += pull * dx
                field_n += pull * dy
                field_o += pull * dz
            latitude = np.degrees(np.arcsin(min(max(north, -1.0), 1.0)))
            longitude = np.degrees(np.arctan2(x, outward)) + l0_deg
            _mix(pattern, rates, latitude, longitude, phases, values)
            # Small elements stand upright (buoyancy), in the network as in plage.
            upright = values[0]
            for k in range(plages.shape[0]):
                dx, dy, dz = x - plages[k, 0], north - plages[k, 1], outward - plages[k, 2]
                reach = (dx * dx + dy * dy + dz * dz) * plages[k, 3]
                if reach < 9.0:
                    upright += plages[k, 4] * np.exp(-reach) * np.exp(0.9 * values[1] - 0.405)
            # A spot leaves no room for small elements.
            spot2 = field_w * field_w + field_n * field_n + field_o * field_o
            upright /= 1.0 + spot2 / _CONVECTION_GAUSS**2
            across = np.sqrt(max(1.0 - north * north, 1e-12))
            # Unit vectors: radial (x, north, outward), west (outward, 0, -x) / across.
            radial = field_w * x + field_n * north + field_o * outward
            west = (field_w * outward - field_o * x) / across
            # South is minus the part along (-x north, across^2, -outward north) / across.
            up = (field_n - radial * north) / across
            out[0, j, i] = radial + upright
            out[1, j, i] = -up
            out[2, j, i] = west


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _turn(affine: Affine, sine_b0: float, cosine_b0: float, field: np.ndarray) -> None:
    """Turn (Br, Btheta, Bphi) into (Bx, By, Bz) of the image plane in place (Gary & Hagyard 1990, Solar Phys. 126, 21)."""
    x0, xx, xy, y0, yx, yy = affine
    for j in range(field.shape[1]):
        for i in range(field.shape[2]):
            x = x0 + xx * i + xy * j
            y = y0 + yx * i + yy * j
            r2 = x * x + y * y
            if r2 >= 1.0:
                continue
            mu = np.sqrt(1.0 - r2)
            sine = y * cosine_b0 + mu * sine_b0
            outward = mu * cosine_b0 - y * sine_b0
            cosine = np.sqrt(max(1.0 - sine * sine, 1e-12))
            sine_l, cosine_l = x / cosine, outward / cosine
            radial, south, west = field[0, j, i], field[1, j, i], field[2, j, i]
            # Along the axes of the Sun: west, its pole, and outwards on the central meridian.
            level = radial * cosine + south * sine
            field_w = level * sine_l + west * cosine_l
            field_o = level * cosine_l - west * sine_l
            field_n = radial * sine - south * cosine
            field[0, j, i] = field_w
            field[1, j, i] = field_n * cosine_b0 - field_o * sine_b0
            field[2, j, i] = field_n * sine_b0 + field_o * cosine_b0


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _doppler(
    affine: Affine, sine_b0: float, cosine_b0: float, l0_deg: float, pattern: np.ndarray, rates: np.ndarray,
    phases: np.ndarray, waves: np.ndarray, first_row: int, field: np.ndarray, warnings: np.ndarray, angular: float,
    craft: tuple[float, float, float], out: np.ndarray,
) -> None:  # fmt: skip
    """Fill the velocity away from the observer, m/s; `angular` is the Sun's radius over its distance.

    `warnings` has rows (west, north, outward, 1 / size^2, share of the power lost) for regions about to emerge.
    """
    x0, xx, xy, y0, yx, yy = affine
    rows, columns = waves.shape
    values = np.empty(pattern.shape[2])
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            x = x0 + xx * i + xy * j
            y = y0 + yx * i + yy * j
            r2 = x * x + y * y
            if r2 >= 1.0:
                out[j, i] = np.nan
                continue
            mu = np.sqrt(1.0 - r2)
            north = y * cosine_b0 + mu * sine_b0
            outward = mu * cosine_b0 - y * sine_b0
            latitude = np.degrees(np.arcsin(min(max(north, -1.0), 1.0)))
            longitude = np.degrees(np.arctan2(x, outward)) + l0_deg
            rate = _mix(pattern, rates, latitude, longitude, phases, values)
            strength2 = field[0, j, i] ** 2 + field[1, j, i] ** 2 + field[2, j, i] ** 2
            quiet = 1.0 / (1.0 + strength2 / _CONVECTION_GAUSS**2)

            u = (latitude + 90.0) / _STEP_DEG - 0.5 - first_row
            v = longitude / _STEP_DEG
            a = min(max(int(np.floor(u)), 0), rows - 2)
            fu = min(max(u - a, 0.0), 1.0)
            low = np.floor(v)
            fv = v - low
            b = int(low) % columns
            c = b + 1 if b + 1 < columns else 0
            power = 1.0 - _ABSORBED * strength2 / (strength2 + _ABSORBING_GAUSS**2)
            for k in range(warnings.shape[0]):
                dx, dy, dz = x - warnings[k, 0], north - warnings[k, 1], outward - warnings[k, 2]
                power *= 1.0 - warnings[k, 4] * np.exp(-(dx * dx + dy * dy + dz * dz) * warnings[k, 3])
            upwards = np.sqrt(power) * (
                (1 - fu) * ((1 - fv) * waves[a, b] + fv * waves[a, c])
                + fu * ((1 - fv) * waves[a + 1, b] + fv * waves[a + 1, c])
            )

            across = np.sqrt(max(1.0 - north * north, 1e-12))
            spin = np.radians(rate) / _SECONDS_PER_DAY * RSUN_REF_M
            west = spin * across + quiet * values[3]
            up = quiet * values[2]
            # Along the axes of the Sun, then of the image.
            level = (upwards * across - up * north) / across
            move_w = level * x + west * outward / across
            move_o = level * outward - west * x / across
            move_n = upwards * north + up * across
            move_y = move_n * cosine_b0 - move_o * sine_b0
            move_z = move_n * sine_b0 + move_o * cosine_b0
            # From the spacecraft to the place, in units of its distance: west, north and towards the Sun.
            look_x, look_y, look_z = angular * x, angular * y, 1.0 - angular * mu
            length = np.sqrt(look_x * look_x + look_y * look_y + look_z * look_z)
            away = (move_w - craft[1]) * look_x + (move_y - craft[2]) * look_y - (move_z - craft[0]) * look_z
            out[j, i] = away / length + quiet * (_BLUESHIFT_M_S + _LIMB_SHIFT_M_S * (1.0 - mu) ** 3)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _shine(affine: Affine, darkening: np.ndarray, field: np.ndarray, out: np.ndarray) -> None:
    """Fill the continuum intensity, DN/s, from the field."""
    x0, xx, xy, y0, yx, yy = affine
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            x = x0 + xx * i + xy * j
            y = y0 + yx * i + yy * j
            r2 = x * x + y * y
            if r2 >= 1.0:
                out[j, i] = 0.0
                continue
            logarithm = np.log(max(np.sqrt(1.0 - r2), _DARKEST_MU))
            value = 0.0
            for k in range(darkening.size - 1, -1, -1):
                value = value * logarithm + darkening[k]
            strength = np.sqrt(field[0, j, i] ** 2 + field[1, j, i] ** 2 + field[2, j, i] ** 2)
            light = 1.0
            for share, edge, softness in (_PENUMBRA, _UMBRA):
                light -= share / (1.0 + np.exp((edge - strength) / softness))
            out[j, i] = _CONTINUUM_DN_S * value * light


def _generations(day: float) -> np.ndarray:
    """Return the patterns alive at a day, rows as in `_mix`: two overlap, so that the quiet Sun evolves steadily."""
    phase = day / _SUPERGRANULE_DAYS
    rows = []
    for generation in (int(np.floor(phase)), int(np.floor(phase)) + 1):
        weight = np.cos(np.pi / 2 * (phase - generation))
        # Each generation reads another stretch of longitudes, mirrored every second time.
        rows.append((day - generation * _SUPERGRANULE_DAYS, weight, generation * 137.508 % 360.0, generation % 2))
    return np.array(rows, float)


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
        """Return charges and plages for `_magnetic` and the warnings for `_doppler`."""
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
        _magnetic(
            affine,
            np.sin(b0),
            np.cos(b0),
            place.l0_deg,
            _pattern(self.seed),
            _RATES,
            _generations(day),
            charges,
            plages,
            field,
        )
        return field

    def _upwards(self, day: float, low: int, high: int) -> np.ndarray:
        """Return the velocity of the p modes outwards on rows `low` to `high` of the sphere, m/s, float32."""
        waves = _waves(self.seed)
        amplitude = _MODE_M_S * np.sqrt(2.0 / waves.degree.size)
        turning = amplitude * np.exp(1j * (waves.phase + waves.angular_rate * (day * _SECONDS_PER_DAY)))
        spectrum = np.zeros((high - low, _COLUMNS // 2 + 1), np.complex64)
        orders, first = np.unique(waves.order, return_index=True)
        parts = waves.profile[:, low:high] * turning[:, None].astype(np.complex64)
        spectrum[:, orders] = np.add.reduceat(parts, first, axis=0).T
        # A cosine of amplitude a is N a / 2 in the transform, the constant N a.
        spectrum *= _COLUMNS / 2
        spectrum[:, 0] *= 2
        moving: np.ndarray = fft.irfft(spectrum, n=_COLUMNS, axis=1)
        return moving

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
        _turn(affine, np.sin(b0), np.cos(b0), field)
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
        _doppler(
            affine, np.sin(b0), np.cos(b0), place.l0_deg, _pattern(self.seed), _RATES, _generations(day),
            self._upwards(day, low, high), low, field, self._sources(day, place.l0_deg)[2],
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
        _shine(affine, _LIMB_DARKENING, self._field(day_number(time), ephemeris(time), shape, affine), out)
        return out


def _rows_seen(shape: tuple[int, int], affine: Affine, b0_deg: float) -> tuple[int, int]:
    """Return the rows of the sphere that a grid may need: a single pixel then costs two rows of waves, not all."""
    x0, xx, xy, y0, yx, yy = affine
    if max(shape) > 16:
        return 0, _ROWS
    j, i = np.mgrid[: shape[0], : shape[1]]
    x, y = x0 + xx * i + xy * j, y0 + yx * i + yy * j
    seen = x**2 + y**2 < 1
    if not seen.any():
        return 0, 2
    b0 = np.radians(b0_deg)
    sine = y[seen] * np.cos(b0) + np.sqrt(1 - x[seen] ** 2 - y[seen] ** 2) * np.sin(b0)
    rows = (np.degrees(np.arcsin(sine.clip(-1, 1))) + 90.0) / _STEP_DEG - 0.5
    low = int(np.clip(np.floor(rows.min()), 0, _ROWS - 2))
    return low, int(np.clip(np.floor(rows.max()) + 2, low + 2, _ROWS))
