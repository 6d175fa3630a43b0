"""Acoustic power of Doppler series in frequency bands, for windows that hop along a long series.

The published route takes a Fourier transform per pixel and window. Here the sums of a window follow from those of the one
before: with one global phase for all windows, the coefficients of the transform of N differences repeat with period N,
so that what a hop adds is the transform of the differences that entered minus those that left, which is taken in pieces
of 16 samples about their middles. Only the frequencies of the bands are computed. It is exact; the sums are begun anew
every so many hops, so that rounding does not pile up. The work is done on tiles of pixels whose sums stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numba
import numpy as np

Convention = Literal["solared", "psd"]
GapPolicy = Literal["mask", "zero", "strict"]
Bands = tuple[tuple[float, float], ...]

BANDS_MILLIHERTZ: Bands = ((2.0, 3.0), (3.0, 4.0), (4.0, 5.0), (5.0, 6.0))
"""Bands of SOLARED (Kasapis et al. 2024, arXiv 2402.08890)."""

# Pixels that are worked on together: their sums, 2 x 115 x 256 float32, stay in half a megabyte of second-level cache.
_PIXELS = 256
# Samples that are transformed together: each 8 factors of a bin fit the registers (`_dot` is written for 2 x 8).
_PIECE = 16
# Frames that are copied and differenced together while they are in the cache.
_FRAMES = 256
# The sums are begun anew after this many windows' worth of hops; one beginning costs as much as a whole window of hops.
_WINDOWS_PER_RESTART = 12


@dataclass(frozen=True)
class BandPower:
    """Band powers of hopping windows.

    Attributes
    ----------
    power : numpy.ndarray
        Shape (window, band, y, x), float32; NaN where the gap policy says that there is none.
    duty_cycle : numpy.ndarray
        Share of the window's differences that are there, shape (window, y, x), float32.
    start : numpy.ndarray
        Frame where each window begins, shape (window,), int64.
    units : str
        Unit of the power.
    frequencies_millihertz : tuple of numpy.ndarray
        Frequencies that each band is made of, by the convention.
    """

    power: np.ndarray
    duty_cycle: np.ndarray
    start: np.ndarray
    units: str
    frequencies_millihertz: tuple[np.ndarray, ...]


def band_bins(
    window: int, cadence_s: float, bands: Bands, convention: Convention
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the bins of each band and their weights.

    Parameters
    ----------
    window : int
        Frames of a window; the transform is over one difference fewer.
    cadence_s : float
        Seconds between frames.
    bands : tuple of (float, float)
        Lower and upper edges in mHz.
    convention : {"solared", "psd"}
        ``solared``: frequency of bin k is ``1000 k / (window cadence)`` mHz, both edges belong to the band, and the band is
        integrated by the trapezoid rule over bins with unit spacing of ``cadence^2 / T |F|^2``, T = window cadence
        (NASA-IMPACT/SuryaBench, ar_emergence). ``psd``: the true frequency ``1000 k / ((window - 1) cadence)``, lower edge
        included, upper not; the one-sided power spectral density ``2 cadence / N |F|^2`` integrated over the band.

    Returns
    -------
    tuple of (list of numpy.ndarray, list of numpy.ndarray)
        Bin numbers and weights of ``|F|^2``, per band.

    Raises
    ------
    ValueError
        If a band holds no bin.
    """
    differences = window - 1
    number = np.arange(differences // 2 + 1)
    span = window * cadence_s if convention == "solared" else differences * cadence_s
    frequency = 1000.0 * number / span
    bins, weights = [], []
    for low, high in bands:
        if convention == "solared":
            chosen = np.flatnonzero((frequency >= low) & (frequency <= high))
            weight = np.full(chosen.size, cadence_s**2 / span)
            if chosen.size > 1:
                weight[[0, -1]] *= 0.5
            else:
                weight[:] = 0.0  # a trapezoid over one point
        else:
            chosen = np.flatnonzero((frequency >= low) & (frequency < high))
            # df = 1 / (N cadence) turns the density 2 cadence / N |F|^2 into 2 |F|^2 / N^2.
            weight = np.full(chosen.size, 2.0 / differences**2)
            weight[(chosen == 0) | (2 * chosen == differences)] *= 0.5
        if chosen.size == 0:
            raise ValueError(
                f"the band {low} to {high} mHz holds no frequency of {window} frames every {cadence_s:g} s "
                f"(spacing {1000 / span:.3g} mHz, highest {frequency[-1]:.3g} mHz)"
            )
        bins.append(chosen)
        weights.append(weight)
    return bins, weights


@lru_cache(maxsize=8)
def _coefficients(differences: int, bins: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the two factors of the transform of a piece of `_PIECE` samples.

    ``exp(-i t (n + j)) = exp(-i t (n + m)) exp(-i t (j - m))``, t = 2 pi k / differences, m the middle of the piece: the
    second factor is even in its real part and odd in its imaginary part about the middle, which halves the work.

    Returns
    -------
    tuple of (numpy.ndarray, numpy.ndarray)
        Cosines of the first half of a piece and sines of the second, shape (bins, _PIECE); cosine and sine of the first
        factor for every n in the period, shape (differences, 2, bins); float32.
    """
    step = np.array(bins) * (2 * np.pi / differences)
    middle = (_PIECE - 1) / 2
    angle = np.outer(step, np.arange(_PIECE) - middle)
    inner = np.concatenate([np.cos(angle[:, : _PIECE // 2]), np.sin(angle[:, _PIECE // 2 :])], axis=1)
    turn = np.outer(np.arange(differences), np.array(bins)) % differences * (2 * np.pi / differences) + middle * step
    return inner.astype(np.float32), np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)


# "reassoc" lets the sum be taken in any order; without "nnan" and "ninf", what is not finite keeps its meaning.
@numba.njit(cache=True, nogil=True, fastmath={"reassoc"})
def _differences(series: np.ndarray, begin: int, end: int) -> bool:
    """Turn samples, shape (time, _PIXELS), to differences with the next, in place; whether all are there."""
    check = np.float32(0.0)
    for n in range(begin, end):
        for p in range(_PIXELS):
            value = series[n + 1, p] - series[n, p]
            series[n, p] = value
            check += np.float32(0.0) * value
    return check == 0.0


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _duty(differences: np.ndarray, hop: int, period: int, out: np.ndarray) -> None:
    """Fill the share of differences that are there, shape (windows, pixels), then put 0 for those that are not."""
    count = np.zeros(_PIXELS, np.int32)
    for index in range(out.shape[0]):
        begin = index * hop
        if index == 0 or hop >= period:
            count[:] = 0
            for n in range(begin, begin + period):
                for p in range(_PIXELS):
                    count[p] += np.int32(np.isfinite(differences[n, p]))
        else:
            for n in range(begin - hop, begin):
                for p in range(_PIXELS):
                    count[p] += np.int32(np.isfinite(differences[n + period, p]))
                    count[p] -= np.int32(np.isfinite(differences[n, p]))
        for p in range(out.shape[1]):
            out[index, p] = count[p] / period
    for n in range(differences.shape[0]):
        for p in range(_PIXELS):
            if not np.isfinite(differences[n, p]):
                differences[n, p] = 0.0


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _fold(samples: np.ndarray, begin: int, length: int, period: int, entered: bool, out: np.ndarray) -> None:
    """Fill sums (first half) and differences (second) of what lies alike about the middle of a piece.

    The piece is of `length` samples from `begin`, or if `entered` those a period later minus these; then zeros.
    """
    for j in range(_PIECE):
        if j >= length:
            out[j] = 0.0
        elif entered:
            for p in range(_PIXELS):
                out[j, p] = samples[begin + j + period, p] - samples[begin + j, p]
        else:
            out[j] = samples[begin + j]
    for j in range(_PIECE // 2):
        mirror = _PIECE - 1 - j
        for p in range(_PIXELS):
            out[j, p] += out[mirror, p]
        for p in range(_PIXELS):
            out[mirror, p] = 2 * out[mirror, p] - out[j, p]


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _dot(factors: np.ndarray, k: int, j: int, x: np.ndarray, out: np.ndarray) -> None:
    """Fill the product of eight factors of bin `k` with rows of `x`, from `j`; written out to keep them in registers."""
    c0, c1, c2, c3 = factors[k, j], factors[k, j + 1], factors[k, j + 2], factors[k, j + 3]
    c4, c5, c6, c7 = factors[k, j + 4], factors[k, j + 5], factors[k, j + 6], factors[k, j + 7]
    at = j // 8 * _PIXELS
    for p in range(_PIXELS):
        out[at + p] = (
            c0 * x[j, p] + c1 * x[j + 1, p] + c2 * x[j + 2, p] + c3 * x[j + 3, p]
            + c4 * x[j + 4, p] + c5 * x[j + 5, p] + c6 * x[j + 6, p] + c7 * x[j + 7, p]
        )  # fmt: skip


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _hops(
    samples: np.ndarray, hop: int, phase: int, inner: np.ndarray, turn: np.ndarray, weights: np.ndarray,
    power: np.ndarray, low: int, high: int,
) -> None:  # fmt: skip
    """Fill band powers of the pixels `low` to `high` for windows that begin every hop from the first sample.

    `samples` are differences, all finite, `phase` is the place of the first in the period; weights are per band and bin.
    """
    period, bins = turn.shape[0], turn.shape[2]
    # Real parts and imaginary parts in one row at a fixed distance: the compiler sees that they do not overlap.
    sums = np.zeros((bins, 2 * _PIXELS), np.float32)
    local = np.empty(2 * _PIXELS, np.float32)
    folded = np.empty((_PIECE, _PIXELS), np.float32)
    bands = np.empty((weights.shape[0], _PIXELS), np.float32)
    for index in range(power.shape[0]):
        fresh = index == 0 or hop >= period
        begin, end = (index * hop, index * hop + period) if fresh else ((index - 1) * hop, index * hop)
        if fresh:
            sums[:] = 0.0
        bands[:] = 0.0
        for n in range(begin, end, _PIECE):
            _fold(samples, n, end - n, period, not fresh, folded)
            place = (phase + n) % period
            for k in range(bins):
                _dot(inner, k, 0, folded, local)
                _dot(inner, k, 8, folded, local)
                cosine, sine = turn[place, 0, k], turn[place, 1, k]
                for p in range(_PIXELS):
                    even, odd = local[p], local[_PIXELS + p]
                    sums[k, p] += cosine * even - sine * odd
                    sums[k, _PIXELS + p] -= sine * even + cosine * odd
                if n + _PIECE < end:
                    continue
                for band in range(weights.shape[0]):
                    weight = weights[band, k]
                    if weight != 0.0:
                        for p in range(_PIXELS):
                            real, imaginary = sums[k, p], sums[k, _PIXELS + p]
                            bands[band, p] += weight * (real * real + imaginary * imaginary)
        for band in range(weights.shape[0]):
            power[index, band, low:high] = bands[band, : high - low]


def band_power(
    velocity: np.ndarray, cadence_s: float = 45.0, window: int = 640, hop: int = 80,
    bands_millihertz: Bands = BANDS_MILLIHERTZ, convention: Convention = "solared", gaps: GapPolicy = "mask",
    minimum_duty_cycle: float = 0.5,
) -> BandPower:  # fmt: skip
    """Return the acoustic power of a series in bands, for windows that hop along it.

    The series is differenced in time first, which removes rotation and slow trends (Kasapis et al. 2024). Beside the series
    and the result it takes memory for 256 pixels and at most 13 windows' length of frames, float32 (9 MB for 640 frames),
    and tables of the same order, however long the series is.

    Parameters
    ----------
    velocity : numpy.ndarray
        Shape (time, y, x), m/s, any real type and memory layout; NaN for missing samples.
    cadence_s : float
        Seconds between frames.
    window : int
        Frames of a window; 640 of 45 s are 8 hours.
    hop : int
        Frames from one window to the next: 80 is an hour, 16 are 12 minutes. Work goes in steps of 16 frames.
    bands_millihertz : tuple of (float, float)
        Edges of the bands, mHz.
    convention : {"solared", "psd"}
        What the power is; see :func:`band_bins`.
    gaps : {"mask", "zero", "strict"}
        What a missing difference does. ``mask``: it counts as 0 and the power is divided by the duty cycle, which keeps
        the level of noise; below `minimum_duty_cycle` the power is NaN. ``zero``: it counts as 0. ``strict``: the power of
        its windows is NaN.
    minimum_duty_cycle : float
        For ``mask``.

    Returns
    -------
    BandPower
        Powers, duty cycle, starts.

    Raises
    ------
    ValueError
        If the series is shorter than a window, or a band holds no frequency.
    """
    if velocity.ndim != 3:
        raise ValueError(f"velocity has shape {velocity.shape}, not (time, y, x)")
    if window < 3 or hop < 1:
        raise ValueError(f"a window of {window} frames that hops by {hop} is not one")
    frames, rows, columns = velocity.shape
    if frames < window:
        raise ValueError(f"a series of {frames} frames has no window of {window}")
    start = np.arange(0, frames - window + 1, hop)
    bins, weights = band_bins(window, cadence_s, bands_millihertz, convention)
    used = np.unique(np.concatenate(bins))
    period = window - 1
    inner, turn = _coefficients(period, tuple(int(value) for value in used))
    table = np.zeros((len(bins), used.size), np.float32)
    for row, chosen, weight in zip(table, bins, weights, strict=True):
        row[np.searchsorted(used, chosen)] = weight
    power = np.empty((start.size, len(bins), rows * columns), np.float32)
    duty = np.ones((start.size, rows * columns), np.float32)
    least = {"mask": minimum_duty_cycle, "zero": 0.0, "strict": 1.0}[gaps]
    restart = _WINDOWS_PER_RESTART * period // hop if hop < period else 1
    # Differences of some pixels in the windows of one beginning; the same memory for all.
    buffer = np.empty((int(start[:restart][-1]) + window, _PIXELS), np.float32)
    for low in range(0, rows * columns, _PIXELS):
        high = min(low + _PIXELS, rows * columns)
        for index in range(0, start.size, restart):
            run = slice(index, min(index + restart, start.size))
            begin, end = int(start[run][0]), int(start[run][-1]) + window
            samples = buffer[: end - begin]
            complete = _gather(velocity[begin:end], low, high, samples)
            share = duty[run, low:high]
            if not complete:
                _duty(samples[:-1], hop, period, share)
            _hops(samples, hop, begin % period, inner, turn, table, power[run], low, high)
            part = power[run, :, low:high]
            if gaps == "mask" and not complete:
                with np.errstate(divide="ignore", invalid="ignore"):
                    part /= share[:, None]
            lacking = share < least
            if lacking.any():
                part[np.broadcast_to(lacking[:, None], part.shape)] = np.nan
    span = (window if convention == "solared" else period) * cadence_s
    return BandPower(
        power.reshape(start.size, len(bins), rows, columns), duty.reshape(start.size, rows, columns), start,
        "(m/s)^2 s per bin, summed over bins" if convention == "solared" else "(m/s)^2",
        tuple(1000.0 * chosen / span for chosen in bins),
    )  # fmt: skip


def _gather(velocity: np.ndarray, low: int, high: int, out: np.ndarray) -> bool:
    """Fill differences in time of the pixels `low` to `high`, counted over (y, x), and zeros; whether all are there."""
    frames, _, columns = velocity.shape
    complete = True
    out[:, high - low :] = 0.0
    for begin in range(0, frames, _FRAMES):
        end = min(begin + _FRAMES, frames)
        for row in range(low // columns, -(-high // columns)):
            left, right = max(low, row * columns), min(high, (row + 1) * columns)
            part = velocity[begin:end, row, left - row * columns : right - row * columns]
            out[begin:end, left - low : right - low] = part
        complete &= _differences(out, max(begin - 1, 0), end - 1)
    return complete


def reference_band_power(
    velocity: np.ndarray, cadence_s: float = 45.0, window: int = 640, hop: int = 80,
    bands_millihertz: Bands = BANDS_MILLIHERTZ, convention: Convention = "solared",
) -> np.ndarray:  # fmt: skip
    """Return the same powers by a double-precision Fourier transform of every window; for checks.

    Parameters
    ----------
    velocity, cadence_s, window, hop, bands_millihertz, convention
        As in :func:`band_power`; the series must be complete.

    Returns
    -------
    numpy.ndarray
        Shape (window, band, y, x), float64.
    """
    bins, weights = band_bins(window, cadence_s, bands_millihertz, convention)
    found = []
    for begin in range(0, velocity.shape[0] - window + 1, hop):
        part = np.diff(velocity[begin : begin + window].astype(np.float64), axis=0)
        spectrum = np.abs(np.fft.rfft(part, axis=0)) ** 2
        found.append([np.tensordot(weight, spectrum[chosen], 1) for chosen, weight in zip(bins, weights, strict=True)])
    return np.array(found)
