"""A simulated Sun whose true emission is known at every time and place.

The photosphere-to-corona scene is a sum of physically shaped parts: a quiet network that rotates differentially
(Snodgrass & Ulrich 1990, ApJ 351, 309), polar coronal holes, bipolar active regions that emerge and decay on a seed
at Spoerer's latitudes with Joy's tilt, flares, limb brightening of the optically thin corona or darkening of the UV
continuum, and an off-limb corona that falls off by a scale height. Levels follow the mean values of SDOML v2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
from scipy.ndimage import gaussian_filter1d

from sdoml_dist.solar.activity import (
    CARRINGTON_DEG_PER_DAY,
    active_regions,
    day_number,
    flare_level,
    rotation_deg_per_day,
)
from sdoml_dist.solar.geometry import FIELD_ARCSEC
from sdoml_dist.solar.orbit import Observer, ephemeris

_LATITUDES, _LONGITUDES = 1000, 1800
# The sphere is kept on rows even in the sine of latitude and columns even in a pseudo-angle of longitude, so that
# projecting a pixel takes no trigonometry (four times faster).
_SINES = (np.arange(_LATITUDES) + 0.5) / _LATITUDES * 2.0 - 1.0
_LATITUDE = np.degrees(np.arcsin(_SINES))
_PSEUDO = (np.arange(_LONGITUDES) + 0.5) / _LONGITUDES * 4.0 - 2.0
_LONGITUDE = np.degrees(
    np.arctan2(np.where(np.abs(_PSEUDO) <= 1, _PSEUDO, np.sign(_PSEUDO) * (2 - np.abs(_PSEUDO))), 1 - np.abs(_PSEUDO))
)
_FADE_STEPS = 4096
_PATTERN_DAYS = 6.0
_FADE_RANGE = 2.0


@dataclass(frozen=True)
class Appearance:
    """How a channel shows the Sun.

    Attributes
    ----------
    level : float
        Brightness of the quiet disc centre, DN/s per 0.6-arcsec pixel.
    network : float
        Contrast of the network.
    region : float
        Brightness of an active region's core over the quiet Sun.
    spread : float
        Size of the region's emission over that of its field.
    hole : float
        Brightness of a polar hole over the quiet Sun.
    limb : float
        Limb brightening (positive) or darkening (negative).
    height : float
        Scale height of the off-limb corona in solar radii.
    flare : float
        Response to flares.
    """

    level: float
    network: float
    region: float
    spread: float
    hole: float
    limb: float
    height: float
    flare: float


# Levels are such that means over the frame come near those of SDOML v2 (94 0.53, 131 3.2, 171 110, 193 117, 211 34,
# 304 29, 335 2.0, 1600 36, 1700 445 DN/s); the rest follows what the channels show (Lemen et al. 2012, table 1).
APPEARANCE = {
    "94A": Appearance(0.6, 0.25, 22.0, 0.9, 0.7, 0.9, 0.07, 40.0),
    "131A": Appearance(4.6, 0.45, 9.0, 1.0, 0.7, 0.8, 0.05, 30.0),
    "171A": Appearance(135.0, 0.50, 7.0, 1.5, 0.65, 0.9, 0.06, 2.0),
    "193A": Appearance(125.0, 0.35, 9.0, 1.5, 0.28, 1.0, 0.09, 3.0),
    "211A": Appearance(33.0, 0.32, 12.0, 1.6, 0.25, 1.0, 0.10, 3.0),
    "304A": Appearance(60.0, 0.75, 6.0, 1.1, 0.75, 0.35, 0.012, 3.0),
    "335A": Appearance(1.8, 0.30, 16.0, 1.4, 0.45, 0.9, 0.09, 5.0),
    "1600A": Appearance(78.0, 0.30, 1.6, 0.8, 1.0, -0.45, 0.0035, 1.0),
    "1700A": Appearance(1010.0, 0.16, 0.7, 0.8, 1.0, -0.55, 0.003, 0.2),
}


@lru_cache(maxsize=4)
def _network(seed: int) -> np.ndarray:
    """Return the quiet pattern, shape (latitudes, longitudes) even in both angles, mean 0 and variance 1."""
    rng = np.random.default_rng([seed, 17])
    rows = 900
    latitude = (np.arange(rows) + 0.5) / rows * np.pi - np.pi / 2
    pattern = np.zeros((rows, _LONGITUDES))
    step = 180.0 / rows
    for size_deg, weight in ((0.5, 0.55), (1.6, 0.75), (9.0, 0.45)):
        noise = rng.standard_normal(pattern.shape)
        noise = gaussian_filter1d(noise, size_deg / step, axis=0, mode="reflect")
        # A circle of latitude is shorter than the equator: the same size on the Sun is a wider angle.
        frequency = np.fft.rfftfreq(_LONGITUDES, d=360.0 / _LONGITUDES)
        width = size_deg / np.cos(latitude).clip(0.02)
        response = np.exp(-2 * (np.pi * width[:, None] * frequency[None, :]) ** 2)
        noise = np.fft.irfft(np.fft.rfft(noise, axis=1) * response, n=_LONGITUDES, axis=1)
        spread = noise.std(axis=1, keepdims=True)
        pattern += weight * noise / np.maximum(spread, 0.3 * np.median(spread))
    pattern /= pattern.std()
    return pattern.astype(np.float32)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _render(
    texture: np.ndarray, corona: np.ndarray, x0: float, xx: float, xy: float, y0: float, yx: float, yy: float,
    sine_b0: float, cosine_b0: float, limb: float, fades: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Project the texture, and add limb and corona; coordinates are solar radii on the sky, x west and y north."""
    rows, columns = out.shape
    latitudes, longitudes = texture.shape
    for j in range(rows):
        for i in range(columns):
            x = x0 + xx * i + xy * j
            y = y0 + yx * i + yy * j
            r2 = x * x + y * y
            fade = 1.0
            mu = 0.0
            if r2 < 1.0:
                mu = np.sqrt(1.0 - r2)
                sine_latitude = y * cosine_b0 + mu * sine_b0
                depth = mu * cosine_b0 - y * sine_b0
            else:
                r = np.sqrt(r2)
                x /= r
                sine_latitude = y / r * cosine_b0
                depth = -y / r * sine_b0
                place = (r - 1.0) / _FADE_RANGE * (_FADE_STEPS - 1)
                step = min(int(place), _FADE_STEPS - 2)
                fade = fades[step] + (place - step) * (fades[step + 1] - fades[step])
            # Pseudo-angle of longitude: 0 at the central meridian, 1 at 90 degrees west, 2 behind.
            share = x / (abs(x) + abs(depth) + 1e-12)
            if depth < 0:
                share = (2.0 - share) if x >= 0 else (-2.0 - share)
            u = (sine_latitude + 1.0) / 2.0 * latitudes - 0.5
            v = (share + 2.0) / 4.0 * longitudes - 0.5
            a = min(max(int(np.floor(u)), 0), latitudes - 2)
            b = int(np.floor(v))
            fu = min(max(u - a, 0.0), 1.0)
            fv = v - b
            west = b + 1 if b + 1 < longitudes else 0
            b = b if b >= 0 else longitudes - 1
            surface = (1 - fu) * ((1 - fv) * texture[a, b] + fv * texture[a, west]) + fu * (
                (1 - fv) * texture[a + 1, b] + fv * texture[a + 1, west]
            )
            smooth = (1 - fu) * ((1 - fv) * corona[a, b] + fv * corona[a, west]) + fu * (
                (1 - fv) * corona[a + 1, b] + fv * corona[a + 1, west]
            )
            # Along a line of sight near the limb many structures add up: fine contrast gives way to the mean corona.
            blend = mu / (mu + 0.12) * 1.12
            value = blend * surface + (1 - blend) * smooth
            if limb >= 0:
                value *= 1.0 + limb * 0.30 * (1.0 / (mu + 0.18) - 1.0 / 1.18)
            else:
                value *= 1.0 + limb * (1.0 - mu)
            out[j, i] = value * fade


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _add_region(
    latitude: np.ndarray, away: np.ndarray, rows: np.ndarray, columns: np.ndarray, centre: float, size: float, sine: float,
    cosine: float, number: float, bright: float, flare: float, sharp: np.ndarray, smooth: np.ndarray,
) -> None:  # fmt: skip
    """Add one region's emission: bright feet, loops between them, a halo, and a flare above the middle."""
    for a in range(rows.size):
        dy = (latitude[a] - centre) / size
        narrow = np.cos(np.radians(latitude[a])) / size
        for b in range(columns.size):
            dx = away[b] * narrow
            along, across = dx * cosine + dy * sine, -dx * sine + dy * cosine
            squared = across * across
            distance = along * along + squared
            if distance > 100.0:
                continue
            halo = np.exp(-distance / 9.0)
            part = 0.04 * halo
            if distance < 40.0:
                # Loops: circles through both feet, the field lines of two opposite charges in the plane.
                angle = np.arctan2(across, along - 0.9) - np.arctan2(across, along + 0.9)
                part += 0.45 * np.exp(-distance / 3.0) * (0.6 + 0.4 * np.cos(9.0 * angle + number))
            if distance < 16.0:
                feet = np.exp(-((along - 0.9) ** 2 + squared) * 1.6) + 0.8 * np.exp(
                    -((along + 0.9) ** 2 + squared) * 1.2
                )
                part += 0.6 * feet
                if flare > 0.01:
                    part += flare / bright * np.exp(-(along * along + 9.0 * squared) * 6.0)
            sharp[rows[a], columns[b]] += np.float32(bright * part)
            smooth[rows[a], columns[b]] += np.float32(0.22 * bright * halo)


def _fading(height: float) -> np.ndarray:
    """Return the fall of the corona above the limb: a scale height, and a fainter part of four times that."""
    above = np.arange(_FADE_STEPS) / (_FADE_STEPS - 1) * _FADE_RANGE
    fall: np.ndarray = 0.93 * np.exp(-above / height) + 0.07 * np.exp(-above / (4.0 * height))
    return fall


# No region further from the central meridian than this can be seen: at 40 degrees of latitude and a tilt of 7 degrees,
# the disc reaches 96 degrees.
_LAST_SEEN_DEG = 100.0


class SunModel:
    """The simulated Sun.

    Parameters
    ----------
    seed : int
        Same seed, same Sun.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.regions = active_regions(seed)
        # The quiet pattern is the same in all channels of one moment.
        self._last_quiet: tuple[float, float, np.ndarray] | None = None

    def _texture(self, channel: str, time: np.datetime64, l0_deg: float) -> tuple[np.ndarray, np.ndarray]:
        """Return brightness on the sphere in Stonyhurst coordinates, and a smooth version of it for the corona."""
        look = APPEARANCE[channel]
        day = day_number(time)
        latitude, longitude = _LATITUDE, _LONGITUDE
        network = self._quiet(day, l0_deg)
        quiet = np.exp(np.float32(look.network) * network - np.float32(look.network**2 / 2))
        cap = 1.0 / (1.0 + np.exp((np.abs(latitude) - 66.0) / 3.0))
        base = (look.hole + (1.0 - look.hole) * cap[:, None]).astype(np.float32)
        bright, smooth = self._regions(look, time, day, latitude, longitude, l0_deg)
        surface = base * quiet + bright * (np.float32(0.55) + np.float32(0.45) * np.exp(np.float32(0.7) * network))
        corona = base * (1.0 + 0.25 * np.cos(np.radians(latitude)) ** 2).astype(np.float32)[:, None] + smooth
        level = np.float32(look.level)
        return level * surface, level * corona

    def _quiet(self, day: float, l0_deg: float) -> np.ndarray:
        """Return the quiet pattern on the sphere as it is seen at a day: mean 0, variance 1.

        Every pattern is carried by differential rotation and lives for some days; two overlap at any time, so that
        the network evolves steadily and never winds up.
        """
        last = self._last_quiet
        if last is not None and last[:2] == (day, l0_deg):
            return last[2]
        pattern = _network(self.seed)
        rows = ((_LATITUDE + 90.0) / 180.0 * pattern.shape[0]).astype(np.int32)[:, None]
        rate = (rotation_deg_per_day(_LATITUDE) - CARRINGTON_DEG_PER_DAY).astype(np.float32)
        seen = _LONGITUDE.astype(np.float32) + np.float32(l0_deg)
        total = np.zeros((_LATITUDES, _LONGITUDES), np.float32)
        phase = day / _PATTERN_DAYS
        for generation in (int(np.floor(phase)), int(np.floor(phase)) + 1):
            weight = np.cos(np.pi / 2 * (phase - generation))
            # Each generation reads another stretch of longitudes, mirrored every second time.
            start = (generation * 137.508) % 360.0
            drift = rate * np.float32(day - generation * _PATTERN_DAYS)
            column = (seen[None, :] - drift[:, None] + np.float32(start)) * np.float32(_LONGITUDES / 360.0)
            low = np.floor(column)
            part = column - low
            west = low.astype(np.int32) % _LONGITUDES
            source = pattern[::-1] if generation % 2 else pattern
            value = source[rows, west]
            total += np.float32(weight) * (value + part * (source[rows, (west + 1) % _LONGITUDES] - value))
        self._last_quiet = day, l0_deg, total
        return total

    def _regions(
        self,
        look: Appearance,
        time: np.datetime64,
        day: float,
        latitude: np.ndarray,
        longitude: np.ndarray,
        l0_deg: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the emission of active regions on the sphere, in units of the quiet level: sharp, and smoothed."""
        sharp = np.zeros((latitude.size, longitude.size), np.float32)
        smooth = np.zeros_like(sharp)
        regions = self.regions
        strength = regions.envelope(day)
        flaring = np.zeros(strength.size)
        index, brightness = flare_level(self.seed, time)
        np.add.at(flaring, index, brightness)
        where = (regions.longitude_at(day) - l0_deg + 180.0) % 360.0 - 180.0
        for k in np.flatnonzero(strength > 0.02):
            size = regions.size_deg[k] * look.spread
            reach = 6.5 * size
            rows = np.flatnonzero(np.abs(latitude - regions.latitude_deg[k]) < reach)
            away = (longitude - where[k] + 180.0) % 360.0 - 180.0
            stretch = np.cos(np.radians(min(abs(regions.latitude_deg[k]) + reach, 80.0)))
            columns = np.flatnonzero(np.abs(away) < reach / stretch)
            if rows.size == 0 or columns.size == 0 or abs(where[k]) - reach / stretch > _LAST_SEEN_DEG:
                continue
            tilt = np.radians(regions.tilt_deg[k])
            _add_region(
                latitude[rows], away[columns], rows, columns, regions.latitude_deg[k], size, np.sin(tilt), np.cos(tilt),
                float(k), strength[k] * look.region, look.flare * flaring[k], sharp, smooth,
            )  # fmt: skip
        return sharp, smooth

    def render(
        self,
        channel: str,
        time: np.datetime64,
        shape: tuple[int, int],
        affine: tuple[float, float, float, float, float, float],
        seen_from: Observer | None = None,
    ) -> np.ndarray:
        """Return the true emission on any grid.

        Parameters
        ----------
        channel : str
            Channel.
        time : numpy.datetime64
            UTC.
        shape : tuple of int
            Rows and columns.
        affine : tuple of float
            (x0, xx, xy, y0, yx, yy): column i and row j are at ``x0 + xx i + xy j`` west and ``y0 + yx i + yy j``
            north of the Sun's centre, in solar radii.
        seen_from : Observer, optional
            By whom, for example a spacecraft over the far side; by default SDO.

        Returns
        -------
        numpy.ndarray
            Float32, DN/s per pixel of 0.6 arcsec, without degradation or noise.
        """
        look, place = APPEARANCE[channel], seen_from or ephemeris(time)
        texture, corona = self._texture(channel, time, place.l0_deg)
        out = np.empty(shape, np.float32)
        b0 = np.radians(place.b0_deg)
        _render(texture, corona, *affine, np.sin(b0), np.cos(b0), look.limb, _fading(look.height), out)
        return out

    def truth(
        self, channel: str, time: np.datetime64, pixels: int = 512, solar_radius_arcsec: float = 976.0, samples: int = 8,
        seen_from: Observer | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Return what a perfect pipeline gives: emission averaged over the pixels of the dataset's grid.

        Parameters
        ----------
        channel, time
            As in :meth:`render`.
        pixels, solar_radius_arcsec
            The grid.
        samples : int
            Points per pixel and axis.
        seen_from
            As in :meth:`render`.

        Returns
        -------
        numpy.ndarray
            Shape (pixels, pixels), float32, DN/s.
        """
        fine = pixels * samples
        step = FIELD_ARCSEC / solar_radius_arcsec / fine
        first = -(fine - 1) / 2 * step
        image = self.render(channel, time, (fine, fine), (first, step, 0.0, first, 0.0, step), seen_from)
        mean: np.ndarray = image.reshape(pixels, samples, pixels, samples).mean(axis=(1, 3), dtype=np.float64)
        return mean.astype(np.float32)
