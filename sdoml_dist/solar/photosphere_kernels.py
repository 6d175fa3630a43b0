"""Kernels of the simulated photosphere: field, velocity and light of every pixel of an image."""

from __future__ import annotations

import numba
import numpy as np

from sdoml_dist.solar.geometry import RSUN_REF_M
from sdoml_dist.solar.orbit import CARRINGTON_SIDEREAL_DEG_PER_DAY
from sdoml_dist.solar.quiet_sun import SECONDS_PER_DAY, STEP_DEG

Affine = tuple[float, float, float, float, float, float]
"""Where pixels lie, as in :meth:`sdoml_dist.solar.scene.SunModel.render`."""

# Sunspots absorb up to half of the incoming power and hold the rest down (Braun, Duvall & LaBonte 1987, ApJ 319, L27);
# the shape in field strength is this model's own.
_ABSORBED = 0.8
_ABSORBING_GAUSS = 600.0
# Field that holds convection down and leaves no room for small elements.
_CONVECTION_GAUSS = 500.0

# Convective blueshift from centre to limb: within some 30 m/s of the mean bisectors of Fe I 630.25 nm in table 2 of
# Loehner-Boettcher et al. (2018, A&A 611, A4), a line formed much as HMI's 617.3 nm.
_BLUESHIFT_M_S, _LIMB_SHIFT_M_S = -280.0, 540.0

_CONTINUUM_DN_S = 5.0e4
_DARKEST_MU = 0.01
# Penumbra to 0.75, umbra to 0.23 of the quiet Sun; the umbra's boundary lies near the 1867 G (vertical) of
# Jurcak et al. (2018, A&A 611, L4), a little lower and softened so that mid-sized spots have one.
_PENUMBRA = (0.25, 800.0, 70.0)
_UMBRA = (0.52, 1750.0, 130.0)

# Sums may be reordered, so that loops over charges run several at a time; NaN keeps its meaning.
_FREE = {"reassoc", "contract", "arcp", "nsz"}


@numba.njit(cache=True, nogil=True, inline="always", error_model="numpy")
def _mix(
    pattern: np.ndarray, rates: np.ndarray, latitude: float, longitude: float, phases: np.ndarray, values: np.ndarray
) -> float:  # fmt: skip
    """Interpolate the two patterns alive at a place, degrees, into `values`, and return its rotation, degrees per day.

    Rows of `phases` are generations: days since it was at its strongest, weight, first longitude, mirrored or not.
    """
    rows, columns, parts = pattern.shape
    # Rates come as an array: a compiled function would keep the law of the day it was compiled.
    u = (latitude + 90.0) / STEP_DEG - 0.5
    a = min(max(int(np.floor(u)), 0), rows - 2)
    rate = rates[a] + (u - a) * (rates[a + 1] - rates[a])
    values[:] = 0.0
    for g in range(phases.shape[0]):
        mirrored = phases[g, 3] > 0
        u = ((-latitude if mirrored else latitude) + 90.0) / STEP_DEG - 0.5
        v = (longitude - (rate - CARRINGTON_SIDEREAL_DEG_PER_DAY) * phases[g, 0] + phases[g, 2]) / STEP_DEG
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
def magnetic(
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
def turn(affine: Affine, sine_b0: float, cosine_b0: float, field: np.ndarray) -> None:
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
def doppler(
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

            u = (latitude + 90.0) / STEP_DEG - 0.5 - first_row
            v = longitude / STEP_DEG
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
            spin = np.radians(rate) / SECONDS_PER_DAY * RSUN_REF_M
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
def shine(affine: Affine, darkening: np.ndarray, field: np.ndarray, out: np.ndarray) -> None:
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
