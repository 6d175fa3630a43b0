"""Registration and binning in one pass over the pixels.

Rolling to solar north, recentring, changing the plate scale and averaging over the footprint of a target pixel are one
linear filter: the sum, over evenly spaced points of the footprint, of cubic interpolation (Keys 1981, a = -1/2). Where
rows of the target run along rows of the source (rolls near 0 or 180 degrees), that filter is a product of one along x
and one along y, tabulated by the sub-pixel phase. Any other roll takes the same sum point by point.
"""

from __future__ import annotations

from typing import Literal

import numba
import numpy as np

from sdoml_dist.solar.geometry import SourceTransform

_PHASES = 256
# Within half a footprint the source row may drift by this many pixels before the filter no longer counts as separable.
_LARGEST_DRIFT = 0.035
# The filter of 8 source pixels per target pixel, the common case, has this many taps.
_TAPS = 12
# Along a row, filter weights are interpolated between places whose sub-pixel phases differ by this at most.
_LONGEST_DRIFT = 1 / 16
_TILE = 64
_UNDONE = np.float32(-np.inf)


def keys_cubic(distance: np.ndarray) -> np.ndarray:
    """Return the cubic convolution kernel of Keys (1981) with a = -1/2."""
    d = np.abs(distance)
    inner = 1.0 - 2.5 * d**2 + 1.5 * d**3
    outer = 2.0 - 4.0 * d + 2.5 * d**2 - 0.5 * d**3
    result: np.ndarray = np.where(d < 1, inner, np.where(d < 2, outer, 0.0))
    return result


def filter_table(step: float, samples: int) -> tuple[np.ndarray, int]:
    """Return the filter along one axis for every sub-pixel phase.

    Parameters
    ----------
    step : float
        Source pixels from one target pixel to the next; its sign does not matter, as the filter is symmetric.
    samples : int
        Points averaged per target pixel.

    Returns
    -------
    tuple of (numpy.ndarray, int)
        Weights, shape (phases, taps), summing to 1 for each phase; and the offset of the first tap from the whole
        part of the position.
    """
    points = ((np.arange(samples) + 0.5) / samples - 0.5) * abs(step)
    reach = points.max() + 2.0
    offsets = np.arange(-int(reach), int(reach + 1) + 1)
    phases = np.arange(_PHASES + 1) / _PHASES
    distance = offsets[None, :, None] - (phases[:, None, None] + points[None, None, :])
    weights = keys_cubic(distance).mean(axis=2)
    return weights / weights.sum(axis=1, keepdims=True), -int(reach)


@numba.njit(cache=True, nogil=True)
def _invalid(value: float, blank: float, positive_only: bool) -> bool:
    return value == blank or not np.isfinite(value) or (positive_only and value <= 0)


@numba.njit(cache=True, nogil=True)
def _flag_tiles(raw: np.ndarray, blank: float, positive_only: bool, flags: np.ndarray) -> bool:
    """Mark the tiles that hold an invalid pixel; whether there are any."""
    found = False
    rows, columns = raw.shape
    for row in range(rows):
        for tile in range(flags.shape[1]):
            bad = False
            for column in range(tile * _TILE, min((tile + 1) * _TILE, columns)):
                bad |= _invalid(raw[row, column], blank, positive_only)
            if bad:
                flags[row // _TILE, tile] = True
                found = True
    return found


@numba.njit(cache=True, nogil=True, fastmath=True, boundscheck=False, error_model="numpy")
def _columns(
    flat: np.ndarray, base: int, stride: int, weights: np.ndarray, slopes: np.ndarray, line: np.ndarray, start: int,
    count: int,
) -> None:  # fmt: skip
    """Filter `count` source columns along y; weights change linearly from column to column as the row drifts."""
    # Twelve rows by name: written so, the loop becomes vector instructions, which indexing by tap prevents (5x slower).
    r0, r1, r2 = flat[base:], flat[base + stride :], flat[base + 2 * stride :]
    r3, r4, r5 = flat[base + 3 * stride :], flat[base + 4 * stride :], flat[base + 5 * stride :]
    r6, r7, r8 = flat[base + 6 * stride :], flat[base + 7 * stride :], flat[base + 8 * stride :]
    r9, r10, r11 = flat[base + 9 * stride :], flat[base + 10 * stride :], flat[base + 11 * stride :]
    w0, w1, w2, w3, w4, w5 = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5]
    w6, w7, w8, w9, w10, w11 = weights[6], weights[7], weights[8], weights[9], weights[10], weights[11]
    s0, s1, s2, s3, s4, s5 = slopes[0], slopes[1], slopes[2], slopes[3], slopes[4], slopes[5]
    s6, s7, s8, s9, s10, s11 = slopes[6], slopes[7], slopes[8], slopes[9], slopes[10], slopes[11]
    out = line[start : start + count]
    for c in range(count):
        step = np.float32(np.int32(c))
        out[c] = (
            (w0 + step * s0) * np.float32(r0[c]) + (w1 + step * s1) * np.float32(r1[c])
            + (w2 + step * s2) * np.float32(r2[c]) + (w3 + step * s3) * np.float32(r3[c])
            + (w4 + step * s4) * np.float32(r4[c]) + (w5 + step * s5) * np.float32(r5[c])
            + (w6 + step * s6) * np.float32(r6[c]) + (w7 + step * s7) * np.float32(r7[c])
            + (w8 + step * s8) * np.float32(r8[c]) + (w9 + step * s9) * np.float32(r9[c])
            + (w10 + step * s10) * np.float32(r10[c]) + (w11 + step * s11) * np.float32(r11[c])
        )  # fmt: skip


@numba.njit(cache=True, nogil=True, fastmath=True, boundscheck=False, error_model="numpy")
def _filter_rows(
    flat: np.ndarray, stride: int, rows: int, columns: int, y_first: float, y_step: float, wy: np.ndarray,
    first_y: int, line: np.ndarray,
) -> None:  # fmt: skip
    """Filter the source along y on the line ``y = y_first + y_step * column``."""
    slopes = np.empty(_TAPS, np.float32)
    start = 0
    while start < columns:
        y = y_first + y_step * start
        whole = int(np.floor(y))
        count = columns - start
        if y_step > 0:
            count = min(count, int((whole + 1 - y) / y_step) + 1, int(_LONGEST_DRIFT / y_step) + 1)
        elif y_step < 0:
            count = min(count, int((whole - y) / y_step) + 1, int(_LONGEST_DRIFT / -y_step) + 1)
        low = whole + first_y
        if low >= 0 and low + _TAPS <= rows:
            here = wy[int(min(max(y - whole, 0.0), 1.0) * _PHASES + 0.5)]
            there = wy[int(min(max(y + y_step * count - whole, 0.0), 1.0) * _PHASES + 0.5)]
            for t in range(_TAPS):
                slopes[t] = (there[t] - here[t]) / count
            _columns(flat, low * stride + start, stride, here, slopes, line, start, count)
        start += count


@numba.njit(cache=True, nogil=True, fastmath=True, boundscheck=False, error_model="numpy")
def _separable(
    flat: np.ndarray, stride: int, rows: int, columns: int,
    x0: float, xx: float, xy: float, y0: float, yx: float, yy: float,
    wx: np.ndarray, first_x: int, wy: np.ndarray, first_y: int,
    flags: np.ndarray, any_invalid: bool, out: np.ndarray,
) -> None:  # fmt: skip
    """Fill `out` where every source pixel of a target pixel is there and valid; the rest becomes -inf."""
    pixels = out.shape[0]
    line = np.zeros(columns, np.float32)
    y_step = yx / xx
    for j in range(pixels):
        y_first = y0 + yy * j - y_step * (x0 + xy * j)
        _filter_rows(flat, stride, rows, columns, y_first, y_step, wy, first_y, line)
        for i in range(pixels):
            x = x0 + xx * i + xy * j
            whole = int(np.floor(x))
            left = whole + first_x
            y_left = y_first + y_step * left
            y_right = y_left + y_step * _TAPS
            low = int(np.floor(min(y_left, y_right))) + first_y
            high = int(np.floor(max(y_left, y_right))) + first_y + _TAPS
            inside = left >= 0 and low >= 0 and left + _TAPS <= columns and high <= rows
            if inside and any_invalid:
                for a in range(low // _TILE, (high - 1) // _TILE + 1):
                    for b in range(left // _TILE, (left + _TAPS - 1) // _TILE + 1):
                        if flags[a, b]:
                            inside = False
            if inside:
                weights = wx[int((x - whole) * _PHASES + 0.5)]
                total = np.float32(0.0)
                for c in range(_TAPS):
                    total += weights[c] * line[left + c]
                out[j, i] = total
            else:
                out[j, i] = _UNDONE


@numba.njit(cache=True, nogil=True)
def _masked(
    raw: np.ndarray, x0: float, xx: float, xy: float, y0: float, yx: float, yy: float,
    wx: np.ndarray, first_x: int, wy: np.ndarray, first_y: int,
    blank: float, positive_only: bool, minimum: float, out: np.ndarray,
) -> None:  # fmt: skip
    """Fill what `_separable` left: the average over the valid source pixels, or NaN where there are too few."""
    rows, columns = raw.shape
    pixels = out.shape[0]
    for j in range(pixels):
        for i in range(pixels):
            if out[j, i] != _UNDONE:
                continue
            x = x0 + xx * i + xy * j
            y = y0 + yx * i + yy * j
            whole_x = int(np.floor(x))
            whole_y = int(np.floor(y))
            weights_x = wx[int((x - whole_x) * _PHASES + 0.5)]
            weights_y = wy[int((y - whole_y) * _PHASES + 0.5)]
            value = 0.0
            valid = 0.0
            for t in range(weights_y.size):
                row = whole_y + first_y + t
                if row < 0 or row >= rows:
                    continue
                for c in range(weights_x.size):
                    column = whole_x + first_x + c
                    if column < 0 or column >= columns:
                        continue
                    pixel = raw[row, column]
                    if not _invalid(pixel, blank, positive_only):
                        weight = weights_y[t] * weights_x[c]
                        value += weight * pixel
                        valid += weight
            out[j, i] = value / valid if valid >= minimum else np.nan


@numba.njit(cache=True, nogil=True)
def _pointwise(
    raw: np.ndarray, x0: float, xx: float, xy: float, y0: float, yx: float, yy: float,
    samples: int, phases: np.ndarray, blank: float, positive_only: bool, minimum: float, out: np.ndarray,
) -> None:  # fmt: skip
    """Fill `out` for any roll: cubic interpolation at each point of the footprint."""
    rows, columns = raw.shape
    pixels = out.shape[0]
    for j in range(pixels):
        for i in range(pixels):
            value = 0.0
            valid = 0.0
            for b in range(samples):
                for a in range(samples):
                    u = i + (a + 0.5) / samples - 0.5
                    v = j + (b + 0.5) / samples - 0.5
                    x = x0 + xx * u + xy * v
                    y = y0 + yx * u + yy * v
                    whole_x = int(np.floor(x))
                    whole_y = int(np.floor(y))
                    weights_x = phases[int((x - whole_x) * _PHASES + 0.5)]
                    weights_y = phases[int((y - whole_y) * _PHASES + 0.5)]
                    for t in range(4):
                        row = whole_y + t - 1
                        if row < 0 or row >= rows:
                            continue
                        for c in range(4):
                            column = whole_x + c - 1
                            if column < 0 or column >= columns:
                                continue
                            pixel = raw[row, column]
                            if not _invalid(pixel, blank, positive_only):
                                weight = weights_y[t] * weights_x[c]
                                value += weight * pixel
                                valid += weight
            valid /= samples * samples
            out[j, i] = value / (samples * samples) / valid if valid >= minimum else np.nan


def register_and_bin(
    raw: np.ndarray,
    transform: SourceTransform,
    pixels: int,
    *,
    blank: int | None = None,
    negative: Literal["keep", "mask"] = "keep",
    minimum_valid_fraction: float = 0.5,
) -> np.ndarray:
    """Bring a frame to the target grid: one area average per target pixel over the valid source pixels.

    Parameters
    ----------
    raw : numpy.ndarray
        Frame, shape (y, x), any integer or float type. NaN and infinite pixels are invalid.
    transform : SourceTransform
        Map from target to source pixels.
    pixels : int
        Pixels per axis of the target.
    blank : int, optional
        Value of invalid pixels (FITS BLANK).
    negative : {"keep", "mask"}
        Whether values <= 0 are valid.
    minimum_valid_fraction : float
        A target pixel with less valid weight is NaN. Pixels beyond the edge are invalid.

    Returns
    -------
    numpy.ndarray
        Shape (pixels, pixels), float32, in the units of `raw`.
    """
    # One point per source pixel of the footprint is enough; more would only repeat what interpolation knows.
    reach_x = max(abs(transform.xx), abs(transform.xy))
    reach_y = max(abs(transform.yx), abs(transform.yy))
    samples = max(1, round(max(reach_x, reach_y)))
    if raw.strides[1] != raw.itemsize or raw.strides[0] < raw.shape[1] * raw.itemsize:
        raw = np.ascontiguousarray(raw)
    if raw.dtype.kind == "f" and raw.dtype != np.float32:
        raw = raw.astype(np.float32)
    out = np.empty((pixels, pixels), np.float32)
    sentinel = np.nan if blank is None or raw.dtype.kind == "f" else float(blank)
    positive_only = negative == "mask"
    position = (transform.x0, transform.xx, transform.xy, transform.y0, transform.yx, transform.yy)
    drift = max(abs(transform.xy), abs(transform.yx)) * (samples - 1) / samples / 2
    if drift > _LARGEST_DRIFT:
        cubic, _ = filter_table(0.0, 1)
        taps = np.ascontiguousarray(cubic[:, 1:5], dtype=np.float32)  # offsets -1 to 2
        _pointwise(raw, *position, samples, taps, sentinel, positive_only, minimum_valid_fraction, out)
        return out
    table_x, first_x = filter_table(transform.xx, samples)
    same = abs(transform.xx) == abs(transform.yy)
    table_y, first_y = (table_x, first_x) if same else filter_table(transform.yy, samples)
    flags = np.zeros(tuple(-(-size // _TILE) for size in raw.shape), np.bool_)
    search = positive_only or raw.dtype.kind == "f" or (blank is not None and _holds(raw, blank))
    any_invalid = bool(search and _flag_tiles(raw, sentinel, positive_only, flags))
    if table_x.shape[1] <= _TAPS and table_y.shape[1] <= _TAPS:
        wide_x, wide_y = _widened(table_x), _widened(table_y)
        flat, stride = _flattened(raw)
        _separable(flat, stride, *raw.shape, *position, wide_x, first_x, wide_y, first_y, flags, any_invalid, out)
    else:
        out.fill(_UNDONE)
    _masked(raw, *position, table_x, first_x, table_y, first_y, sentinel, positive_only, minimum_valid_fraction, out)
    return out


def _widened(table: np.ndarray) -> np.ndarray:
    """Fill a filter table up to the fixed number of taps."""
    wide = np.zeros((table.shape[0], _TAPS), np.float32)
    wide[:, : table.shape[1]] = table
    return wide


def _flattened(raw: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the rows as one line of memory, and how many elements lie between the starts of two rows."""
    stride = raw.strides[0] // raw.itemsize
    size = (raw.shape[0] - 1) * stride + raw.shape[1]
    return np.lib.stride_tricks.as_strided(raw, (size,), (raw.itemsize,), writeable=False), stride


def _holds(raw: np.ndarray, value: int) -> bool:
    """Whether an integer image holds a value; quick for the usual BLANK, the smallest value of the type."""
    if value == np.iinfo(raw.dtype).min:
        return bool(raw.min() == value)
    return bool((raw == value).any())
