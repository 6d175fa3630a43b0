"""Acoustic power of Doppler series in frequency bands, for windows that hop along a long series.

The published route takes a Fourier transform per pixel and window. Here the sums of a window follow from those of the one
before: with one global phase for all windows, the coefficients of the transform of N differences repeat with period N,
so that what a hop adds is the product of a slice of one tiled matrix with the differences that entered minus those that
left. Only the frequencies of the bands are computed. It is exact; the sums are begun anew every so many hops, so
that rounding does not pile up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numba
import numpy as np
from scipy.linalg.blas import sgemm

Convention = Literal["solared", "psd"]
GapPolicy = Literal["mask", "zero", "strict"]
Bands = tuple[tuple[float, float], ...]

BANDS_MILLIHERTZ: Bands = ((2.0, 3.0), (3.0, 4.0), (4.0, 5.0), (5.0, 6.0))
"""Bands of SOLARED (Kasapis et al. 2024, arXiv 2402.08890)."""

# Pixels that are worked on together: their sums stay in the cache.
_PIXELS = 4096
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
def _coefficients(differences: int, bins: tuple[int, ...]) -> np.ndarray:
    """Return cosines and minus sines of every bin, twice the period long: shape (2 differences, 2 bins), float32."""
    phase = np.outer(np.arange(differences), np.array(bins)) % differences * (2 * np.pi / differences)
    once = np.concatenate([np.cos(phase), -np.sin(phase)], axis=1)
    return np.ascontiguousarray(np.concatenate([once, once]), dtype=np.float32)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _collect(sums: np.ndarray, first: np.ndarray, last: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Add the squares of the sums, shape (2 bins, pixels), to band powers, shape (bands, pixels)."""
    bins = sums.shape[0] // 2
    for band in range(out.shape[0]):
        row = out[band]
        row[:] = 0.0
        for k in range(first[band], last[band]):
            weight = weights[band, k - first[band]]
            real, imaginary = sums[k], sums[bins + k]
            for p in range(row.size):
                row[p] += weight * (real[p] * real[p] + imaginary[p] * imaginary[p])


@numba.njit(cache=True, nogil=True)
def _differences(velocity: np.ndarray, out: np.ndarray, valid: np.ndarray) -> bool:
    """Fill differences in time, 0 where a sample is missing, and say where they are valid; whether all are."""
    complete = True
    for n in range(out.shape[0]):
        for p in range(out.shape[1]):
            value = velocity[n + 1, p] - velocity[n, p]
            good = np.isfinite(value)
            valid[n, p] = good
            out[n, p] = value if good else 0.0
            complete &= good
    return complete


def band_power(
    velocity: np.ndarray, cadence_s: float = 45.0, window: int = 640, hop: int = 80,
    bands_millihertz: Bands = BANDS_MILLIHERTZ, convention: Convention = "solared", gaps: GapPolicy = "mask",
    minimum_duty_cycle: float = 0.5,
) -> BandPower:  # fmt: skip
    """Return the acoustic power of a series in bands, for windows that hop along it.

    The series is differenced in time first, which removes rotation and slow trends (Kasapis et al. 2024).

    Parameters
    ----------
    velocity : numpy.ndarray
        Shape (time, y, x), m/s, any float type; NaN for missing samples.
    cadence_s : float
        Seconds between frames.
    window : int
        Frames of a window; 640 of 45 s are 8 hours.
    hop : int
        Frames from one window to the next: 80 is an hour, 16 are 12 minutes.
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
    coefficients = _coefficients(window - 1, tuple(int(value) for value in used))
    first = np.array([np.searchsorted(used, chosen[0]) for chosen in bins])
    last = np.array([np.searchsorted(used, chosen[-1]) + 1 for chosen in bins])
    table = np.zeros((len(bins), max(chosen.size for chosen in bins)), np.float32)
    for index, weight in enumerate(weights):
        table[index, : weight.size] = weight
    power = np.empty((start.size, len(bins), rows * columns), np.float32)
    duty = np.empty((start.size, rows * columns), np.float32)
    flat = velocity.reshape(frames, rows * columns)
    for low in range(0, rows * columns, _PIXELS):
        high = min(low + _PIXELS, rows * columns)
        _tile(
            np.ascontiguousarray(flat[:, low:high], dtype=np.float32), start, hop, coefficients, first, last, table,
            power[:, :, low:high], duty[:, low:high],
        )  # fmt: skip
    if gaps == "mask":
        with np.errstate(divide="ignore", invalid="ignore"):
            power /= duty[:, None]
        power[np.broadcast_to((duty < minimum_duty_cycle)[:, None], power.shape)] = np.nan
    elif gaps == "strict":
        power[np.broadcast_to((duty < 1)[:, None], power.shape)] = np.nan
    span = (window if convention == "solared" else window - 1) * cadence_s
    return BandPower(
        power.reshape(start.size, len(bins), rows, columns), duty.reshape(start.size, rows, columns), start,
        "(m/s)^2 s per bin, summed over bins" if convention == "solared" else "(m/s)^2",
        tuple(1000.0 * chosen / span for chosen in bins),
    )  # fmt: skip


def _tile(
    velocity: np.ndarray, start: np.ndarray, hop: int, coefficients: np.ndarray, first: np.ndarray, last: np.ndarray,
    weights: np.ndarray, power: np.ndarray, duty: np.ndarray,
) -> None:  # fmt: skip
    """Fill powers and duty cycles of some pixels; `velocity` has shape (time, pixels)."""
    number = coefficients.shape[0] // 2
    pixels = velocity.shape[1]
    difference = np.empty((velocity.shape[0] - 1, pixels), np.float32)
    valid = np.empty(difference.shape, np.bool_)
    complete = _differences(velocity, difference, valid)
    # Column-major, so that BLAS adds to it in place; a row of `sums.T` is one bin over all pixels.
    sums = np.zeros((pixels, coefficients.shape[1]), np.float32, order="F")
    bands = np.empty((power.shape[1], pixels), np.float32)
    count = np.zeros(pixels, np.int64)
    restart = max(1, _WINDOWS_PER_RESTART * number // hop)
    entered = np.empty((hop, pixels), np.float32)
    for index, begin in enumerate(start):
        if index % restart == 0 or hop >= number:
            sums = _product(difference[begin : begin + number], begin % number, coefficients, 0.0, sums)
            count = valid[begin : begin + number].sum(axis=0)
        else:
            before = begin - hop
            np.subtract(difference[before + number : begin + number], difference[before:begin], out=entered)
            sums = _product(entered, before % number, coefficients, 1.0, sums)
            if not complete:
                count = count + valid[before + number : begin + number].sum(axis=0) - valid[before:begin].sum(axis=0)
        _collect(sums.T, first, last, weights, bands)
        power[index] = bands
        duty[index] = count / number


def _product(samples: np.ndarray, phase: int, coefficients: np.ndarray, beta: float, sums: np.ndarray) -> np.ndarray:
    """Return ``beta sums + samples^T coefficients``; `phase` is the place of the first sample in the period."""
    rows = coefficients[phase : phase + samples.shape[0]]
    result: np.ndarray = sgemm(1.0, samples.T, rows.T, beta, sums, trans_b=1, overwrite_c=1)
    return result


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
