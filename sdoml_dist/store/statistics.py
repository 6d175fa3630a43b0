"""Moments and histograms of images: computed per frame, merged over any frames in one fixed order."""

from __future__ import annotations

import numba
import numpy as np

BINS = 288
# Bins are even in asinh(value / _SOFTENING), so that they follow a logarithm for bright pixels and a line near zero;
# the range holds -1e4 (gauss and m/s of HMI) to 1e7 (DN/s, beyond what AIA's 14-bit camera gives at the shortest exposure).
_SOFTENING = 0.05
_LOW = float(np.arcsinh(-1e4 / _SOFTENING))
_STEP = (float(np.arcsinh(1e7 / _SOFTENING)) - _LOW) / BINS

MOMENTS = {
    "count": ("i4", "valid pixels"),
    "mean": ("f8", "mean of the valid pixels"),
    "variance": ("f8", "variance of the valid pixels"),
    "minimum": ("f4", "smallest valid pixel"),
    "maximum": ("f4", "largest valid pixel"),
}
"""Per-frame moments stored in the dataset: dtype and meaning."""


def bin_edges() -> np.ndarray:
    """Return the edges of the histogram bins, shape (BINS + 1,)."""
    edges: np.ndarray = _SOFTENING * np.sinh(_LOW + _STEP * np.arange(BINS + 1))
    return edges


@numba.njit(cache=True, nogil=True)
def describe(image: np.ndarray, histogram: np.ndarray) -> tuple[int, float, float, float, float]:
    """Return the moments of an image and fill its histogram.

    Parameters
    ----------
    image : numpy.ndarray
        Shape (y, x), NaN where there is no data.
    histogram : numpy.ndarray
        Shape (BINS,), uint32; overwritten. Values beyond the range count in the outermost bins.

    Returns
    -------
    tuple
        Count, mean, variance (of the population), minimum, maximum of the valid pixels; NaN if there are none.
    """
    histogram[:] = 0
    count = 0
    total = 0.0
    low = np.inf
    high = -np.inf
    for value in image.flat:
        if np.isfinite(value):
            count += 1
            total += value
            low = min(low, value)
            high = max(high, value)
            index = int((np.arcsinh(value / _SOFTENING) - _LOW) / _STEP)
            histogram[min(max(index, 0), BINS - 1)] += 1
    if count == 0:
        return 0, np.nan, np.nan, np.nan, np.nan
    mean = total / count
    squares = 0.0
    for value in image.flat:
        if np.isfinite(value):
            squares += (value - mean) ** 2
    return count, mean, squares / count, low, high


def merge_moments(count: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> tuple[int, float, float]:
    """Merge per-frame moments into count, mean and variance over all their pixels.

    Parameters
    ----------
    count, mean, variance : numpy.ndarray
        Shape (frames,). Frames with a count of 0 are skipped.

    Returns
    -------
    tuple of (int, float, float)
        Exact merge (Chan, Golub & LeVeque 1983) in the order given, so that the result is reproducible.
    """
    used = count > 0
    weights = count[used].astype(np.float64)
    total = weights.sum()
    if total == 0:
        return 0, float("nan"), float("nan")
    overall = float((weights * mean[used]).sum() / total)
    spread = float((weights * (variance[used] + (mean[used] - overall) ** 2)).sum() / total)
    return int(total), overall, spread


def quantiles(histogram: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return quantiles from a histogram, linear inside a bin.

    Parameters
    ----------
    histogram : numpy.ndarray
        Counts per bin, shape (BINS,).
    levels : numpy.ndarray
        Between 0 and 1, shape (levels,).

    Returns
    -------
    numpy.ndarray
        Shape (levels,), NaN if the histogram is empty. Bins are about 11 % wide, and values are accurate to that.
    """
    cumulative = np.concatenate([[0.0], np.cumsum(histogram, dtype=np.float64)])
    if cumulative[-1] == 0:
        return np.full(levels.shape, np.nan)
    used = np.concatenate([[True], np.diff(cumulative) > 0])
    first = np.argmax(cumulative > 0) - 1
    used[first] = True
    used[:first] = False
    return np.interp(levels * cumulative[-1], cumulative[used], bin_edges()[used])
