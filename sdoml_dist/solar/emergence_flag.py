"""When a tile darkens for good: the published criterion of emergence, with gaps kept as gaps.

Kasapis et al. (2025, ApJS 280, 64; code skasapis/AR_Emergence_Prediction) call a tile emerging where its continuum
intensity, brought to 0..1 by the extremes of the region, falls by at least 0.01 per hourly step for four steps or more.
The intensity is smoothed over five steps before the gradient is taken, and the gradient over five steps again before it is
compared: without the second smoothing half of the published times come out an hour or more off.
"""

from __future__ import annotations

import numpy as np

from sdoml_dist.solar.emergence import Timeline
from sdoml_dist.solar.tiles import GRID, inner_tiles, without_baseline

SMOOTH_STEPS, THRESHOLD, RUN_STEPS = 5, -0.01, 4
"""Moving average, slope per step and shortest run of the published criterion, for steps of an hour."""
_HOUR = np.timedelta64(3600, "s")


def _stretches(good: np.ndarray) -> list[tuple[int, int]]:
    """Return starts and stops of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Return the moving average; the first and last value are repeated beyond the ends."""
    return np.convolve(np.pad(values, width // 2, mode="edge"), np.full(width, 1.0 / width), mode="valid")


def emergence_slope(
    intensity: np.ndarray, *, smooth: int = SMOOTH_STEPS, smooth_slope: int | None = None
) -> np.ndarray:
    """Return the smoothed change of an intensity per step, which the criterion is about.

    Parameters
    ----------
    intensity : numpy.ndarray
        Shape (time,), even steps, NaN where nothing was observed.
    smooth : int
        Length of both moving averages, odd.
    smooth_slope : int, optional
        Length of that of the slope, where it is another one. The published code takes forecasts as they are, and smooths
        their slope alone.

    Returns
    -------
    numpy.ndarray
        Shape (time,), NaN in gaps and at single values between gaps. Nothing is carried over a gap: each stretch is
        smoothed on its own.

    Raises
    ------
    ValueError
        If the intensity has more than one dimension, or `smooth` is even.
    """
    if intensity.ndim != 1:
        raise ValueError(f"the intensity of one tile is needed, not shape {intensity.shape}")
    after = smooth if smooth_slope is None else smooth_slope
    for steps in (smooth, after):
        if steps < 1 or steps % 2 == 0:
            raise ValueError(f"a moving average has an odd number of steps, not {steps}")
    slope = np.full(intensity.shape, np.nan)
    for start, stop in _stretches(np.isfinite(intensity)):
        if stop - start > 1:
            level = _smoothed(intensity[start:stop].astype(np.float64), smooth)
            slope[start:stop] = _smoothed(np.gradient(level), after)
    return slope


def first_run(slope: np.ndarray, threshold: float, run: int) -> int | None:
    """Return the first step of the first `run` steps in a row whose slope is at or below a threshold; NaN ends a run."""
    with np.errstate(invalid="ignore"):
        falling = slope <= threshold
    return next((start for start, stop in _stretches(falling) if stop - start >= run), None)


def emergence_step(
    intensity: np.ndarray, *, smooth: int = SMOOTH_STEPS, threshold: float = THRESHOLD, run: int = RUN_STEPS
) -> int | None:
    """Return the first step at which a tile is flagged as emerging.

    Parameters
    ----------
    intensity : numpy.ndarray
        Continuum intensity of one tile, 0..1 by the extremes of its region (see :func:`normalised`), shape (time,), on
        even steps; NaN where nothing was observed.
    smooth : int
        Length of both moving averages, odd.
    threshold : float
        Change per step at or below which a step counts.
    run : int
        So many steps in a row must count; a gap ends a run.

    Returns
    -------
    int or None
        First step of the first such run.
    """
    return first_run(emergence_slope(intensity, smooth=smooth), threshold, run)


def normalised(values: np.ndarray) -> np.ndarray:
    """Bring values to 0..1 by their extremes; NaN does not count, and what never changes becomes 0."""
    good = values[np.isfinite(values)]
    low, high = (float(good.min()), float(good.max())) if good.size else (0.0, 1.0)
    scaled: np.ndarray = (values - low) / ((high - low) or 1.0)
    return scaled


def typical_step(times: np.ndarray) -> np.timedelta64:
    """Return the usual time between steps: the median, which gaps do not change; an hour if there is but one."""
    if times.size < 2:
        return _HOUR
    seconds = np.median(np.diff(times.astype("datetime64[s]")).astype(np.int64))
    return np.timedelta64(int(seconds), "s")


def emergence_times(timeline: Timeline, grid: int = GRID) -> np.ndarray:
    """Return when each tile is flagged as emerging.

    The baseline is taken off and the intensity of the inner tiles brought to 0..1 as published. Where steps are not an hour
    long, lengths and threshold are those of the same time.

    Parameters
    ----------
    timeline : Timeline
        The region; missing times and NaN are gaps.
    grid : int
        Tiles per axis.

    Returns
    -------
    numpy.ndarray
        ``datetime64[s]``, shape (tiles,); NaT for tiles that are not flagged, and for the first and last row.
    """
    step = typical_step(timeline.times)
    even = timeline.steps(step)
    hours = float(step / _HOUR)
    inner = inner_tiles(grid)
    intensity = normalised(without_baseline(even.intensity.astype(np.float64), grid)[inner])
    smooth = 2 * max(0, round((SMOOTH_STEPS / hours - 1) / 2)) + 1
    run = max(1, round(RUN_STEPS / hours))
    found = np.full(grid * grid, np.datetime64("NaT", "s"))
    for tile, values in enumerate(intensity, start=inner.start):
        at = emergence_step(values, smooth=smooth, threshold=THRESHOLD * hours, run=run)
        if at is not None:
            found[tile] = even.times[at].astype("datetime64[s]")
    return found
