"""The quiet Sun of the simulation: p modes, and patterns of the network and of supergranules, on a grid over the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from sdoml_dist.solar.activity import rotation_deg_per_day
from sdoml_dist.solar.geometry import RSUN_REF_M

# Patterns lie on a grid even in both angles: rows from the south pole, columns westwards from Carrington longitude 0.
ROWS, _COLUMNS = 900, 1800
STEP_DEG = 180.0 / ROWS
_LATITUDE_DEG = (np.arange(ROWS) + 0.5) * STEP_DEG - 90.0
RATES = rotation_deg_per_day(_LATITUDE_DEG)

SECONDS_PER_DAY = 86_400.0

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
    profile = np.empty((degree.size, ROWS))
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
    smooth = gaussian_filter1d(noise, size_deg / STEP_DEG, axis=0, mode="reflect")
    frequency = np.fft.rfftfreq(_COLUMNS, d=STEP_DEG)
    width = size_deg / np.cos(np.radians(_LATITUDE_DEG)).clip(0.02)
    response = np.exp(-2 * (np.pi * width[:, None] * frequency[None, :]) ** 2)
    filtered: np.ndarray = np.fft.irfft(np.fft.rfft(smooth, axis=1) * response, n=_COLUMNS, axis=1)
    return filtered


def _even(field: np.ndarray) -> np.ndarray:
    """Return a field scaled to a mean square of 1 on every circle of latitude."""
    scaled: np.ndarray = field / np.sqrt(np.mean(field**2, axis=1, keepdims=True))
    return scaled


@lru_cache(maxsize=2)
def pattern_of(seed: int) -> np.ndarray:
    """Return the quiet Sun, shape (latitudes, longitudes, 4), float32: network, texture, flow north and flow west.

    Network in gauss with a mean of exactly 0 on each circle of latitude; texture with mean 0 and variance 1; flows in
    m/s. Flows lead to where the network is dense, as supergranules sweep it to their edges.
    """
    rng = np.random.default_rng([seed, 29])
    noise = rng.standard_normal((ROWS, _COLUMNS))
    cells = _even(_smooth(noise, _SUPERGRANULE_DEG)) - _even(_smooth(noise, 2 * _SUPERGRANULE_DEG))
    cells = _even(cells - cells.mean(axis=1, keepdims=True))
    fine = _even(_smooth(rng.standard_normal((ROWS, _COLUMNS)), 0.22))
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


def generations(day: float) -> np.ndarray:
    """Return the patterns alive at a day, rows as the kernels take them: two overlap, so that the quiet Sun evolves steadily."""
    phase = day / _SUPERGRANULE_DAYS
    rows = []
    for generation in (int(np.floor(phase)), int(np.floor(phase)) + 1):
        weight = np.cos(np.pi / 2 * (phase - generation))
        # Each generation reads another stretch of longitudes, mirrored every second time.
        rows.append((day - generation * _SUPERGRANULE_DAYS, weight, generation * 137.508 % 360.0, generation % 2))
    return np.array(rows, float)


def upwards(seed: int, day: float, low: int, high: int) -> np.ndarray:
    """Return the velocity of the p modes outwards on rows `low` to `high` of the sphere, m/s, float32."""
    waves = _waves(seed)
    amplitude = _MODE_M_S * np.sqrt(2.0 / waves.degree.size)
    turning = amplitude * np.exp(1j * (waves.phase + waves.angular_rate * (day * SECONDS_PER_DAY)))
    spectrum = np.zeros((high - low, _COLUMNS // 2 + 1), np.complex64)
    orders, first = np.unique(waves.order, return_index=True)
    parts = waves.profile[:, low:high] * turning[:, None].astype(np.complex64)
    spectrum[:, orders] = np.add.reduceat(parts, first, axis=0).T
    # A cosine of amplitude a is N a / 2 in the transform, the constant N a.
    spectrum *= _COLUMNS / 2
    spectrum[:, 0] *= 2
    moving: np.ndarray = fft.irfft(spectrum, n=_COLUMNS, axis=1)
    return moving
