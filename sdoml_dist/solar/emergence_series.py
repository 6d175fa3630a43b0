"""Hourly series of emerging regions as forecasts take them: real time, missing values as NaN, examples cut on demand.

What differs from the published preparation (:func:`sdoml_dist.solar.emergence.windows`): regions with gaps are not left out
and gaps are not closed; channels are named; values are scaled by training regions alone, never by the extremes of the
region that is forecast, which hold its future.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt

import numpy as np

from sdoml_dist.solar.emergence import Timeline
from sdoml_dist.solar.tiles import inner_tiles, without_baseline

CHANNELS = ("power 2-3 mHz", "power 3-4 mHz", "power 4-5 mHz", "power 5-6 mHz", "unsigned flux", "continuum intensity")
"""Channels of a series, in this order. The first five are the inputs of the benchmark."""
FLUX, INTENSITY = 4, 5
HOUR = np.timedelta64(3600, "s")
_TOLERANCE = 0.02
"""Share of an hour by which a time may be off its step."""


@dataclass(frozen=True)
class Series:
    """A region.

    Attributes
    ----------
    region : int
        NOAA number.
    times : numpy.ndarray
        ``datetime64[s]``, shape (time,).
    values : numpy.ndarray
        Shape (time, 6, tiles), float32: :data:`CHANNELS` of the tiles without the first and last row, in physical units;
        NaN where something is missing.
    """

    region: int
    times: np.ndarray
    values: np.ndarray

    @property
    def extremes(self) -> tuple[float, float]:
        """Smallest and largest intensity, by which published scores are scaled; never an input of a forecast."""
        intensity = self.values[:, INTENSITY]
        return float(np.nanmin(intensity)), float(np.nanmax(intensity))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tiles."""
        # n x n tiles without two rows are n (n - 2), which is (n - 1)^2 - 1.
        columns = isqrt(self.values.shape[2] + 1) + 1
        return columns - 2, columns


def hourly(timeline: Timeline) -> Timeline:
    """Return a region on an hourly axis; hours without an observation are NaN.

    Times between the hours of the first one are left out, so that series of a finer step can be used.

    Raises
    ------
    ValueError
        If there are no times, or fewer than half of them would be used though steps are an hour or longer.
    """
    if not timeline.times.size:
        raise ValueError(f"region {timeline.region} has no times")
    hours = (timeline.times - timeline.times[0]) / HOUR
    on = np.abs(hours - np.rint(hours)) <= _TOLERANCE
    if timeline.times.size > 1 and np.median(np.diff(hours)) >= 1 - _TOLERANCE and on.mean() < 0.5:
        raise ValueError(f"steps of region {timeline.region} are no whole hours")
    kept = Timeline(
        timeline.region,
        timeline.times[on],
        timeline.power[..., on],
        timeline.flux[..., on],
        timeline.intensity[..., on],
    )
    return kept.steps(HOUR)


def series_of(timeline: Timeline, *, as_they_come: bool = False) -> Series:
    """Return the series of a region, the baseline of its columns taken off.

    Parameters
    ----------
    timeline : Timeline
        All tiles of a square grid. (Taking the baseline off a second time changes nothing.)
    as_they_come : bool
        Take the steps as contiguous, whatever lies between them, as published; otherwise on an hourly axis with gaps.

    Raises
    ------
    ValueError
        If the tiles make no square, or steps are no hours.
    """
    grid = isqrt(timeline.flux.shape[0])
    if grid**2 != timeline.flux.shape[0]:
        raise ValueError(f"region {timeline.region} has {timeline.flux.shape[0]} tiles, which make no square")
    even = timeline if as_they_come else hourly(timeline)
    stacked = np.concatenate([even.power, even.flux[None], even.intensity[None]]).astype(np.float64)
    inner = without_baseline(stacked, grid)[:, inner_tiles(grid)]
    return Series(timeline.region, even.times.astype("datetime64[s]"), inner.transpose(2, 0, 1).astype(np.float32))


def example_ends(series: Series, input_steps: int, horizon: int) -> np.ndarray:
    """Return the last input step of every example: all that have `input_steps` steps and a target `horizon` later.

    With 96 steps and a horizon of 11 a region of 240 steps has 134; the benchmark takes one less than there are.
    """
    return np.arange(input_steps - 1, len(series.times) - horizon)


def forecast_ends(series: Series, input_steps: int) -> np.ndarray:
    """Return the last input step of every forecast that can be made: unlike :func:`example_ends` those without a target too."""
    return np.arange(input_steps - 1, len(series.times))


def lengthened(series: Series, steps: int) -> Series:
    """Return a series with so many more hours after its last one, in which nothing was observed."""
    after = series.times[-1] + np.arange(1, steps + 1) * HOUR
    missing = np.full((steps, *series.values.shape[1:]), np.nan, series.values.dtype)
    return Series(series.region, np.concatenate([series.times, after]), np.concatenate([series.values, missing]))


def known_share(series: Series, ends: np.ndarray, steps: int, channels: int) -> np.ndarray:
    """Return which share of its inputs was observed for each forecast and tile, shape (forecasts, tiles).

    Parameters
    ----------
    series : Series
        The region.
    ends : numpy.ndarray
        Last input steps, none before step `steps` - 1.
    steps, channels : int
        Of the input: so many steps of the first so many channels.
    """
    observed = np.isfinite(series.values[:, :channels]).mean(axis=1)
    total = np.concatenate([np.zeros((1, observed.shape[1])), np.cumsum(observed, axis=0)])
    share: np.ndarray = (total[ends + 1] - total[ends + 1 - steps]) / steps
    return share


def cut(series: Series, end: int, steps: int) -> np.ndarray:
    """Return the steps up to `end`, itself included, shape (steps, 6, tiles); NaN before the series begins."""
    first = end + 1 - steps
    part = series.values[max(first, 0) : end + 1]
    missing = np.full((max(-first, 0), *part.shape[1:]), np.nan, np.float32)
    return np.concatenate([missing, part]) if first < 0 else part


def last_intensity(inputs: np.ndarray) -> np.ndarray:
    """Return the last intensity that was observed in each tile, NaN where none was.

    Parameters
    ----------
    inputs : numpy.ndarray
        Shape (..., steps, 6, tiles).

    Returns
    -------
    numpy.ndarray
        Shape (..., tiles).
    """
    intensity = inputs[..., INTENSITY, :]
    back = np.isfinite(intensity)[..., ::-1, :].argmax(axis=-2, keepdims=True)
    return np.take_along_axis(intensity[..., ::-1, :], back, axis=-2)[..., 0, :]


def carried_forward(inputs: np.ndarray) -> np.ndarray:
    """Return inputs where each missing value is the last one before it; 0, the level of the baseline, where there is none.

    For networks that know no mask. Nothing is taken from later steps, as filling by interpolation would.

    Parameters
    ----------
    inputs : numpy.ndarray
        Shape (..., steps, channels, tiles).
    """
    known = np.isfinite(inputs)
    steps = np.arange(inputs.shape[-3])[:, None, None]
    last = np.maximum.accumulate(np.where(known, steps, 0), axis=-3)
    filled: np.ndarray = np.nan_to_num(np.take_along_axis(inputs, last, axis=-3), nan=0.0)
    return filled


@dataclass(frozen=True)
class Scales:
    """Standard deviations of the channels over training regions, shape (6,); values are divided by them."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, regions: Iterable[Series]) -> Scales:
        """Measure training regions; missing values do not count.

        Raises
        ------
        ValueError
            If a channel never changes.
        """
        count, total, squares = np.zeros(6), np.zeros(6), np.zeros(6)
        for one in regions:
            values = one.values.astype(np.float64)
            known = np.isfinite(values)
            count += known.sum(axis=(0, 2))
            total += np.where(known, values, 0.0).sum(axis=(0, 2))
            squares += np.where(known, values**2, 0.0).sum(axis=(0, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            deviation = np.sqrt(squares / count - (total / count) ** 2)
        wrong = [name for name, one in zip(CHANNELS, deviation, strict=True) if not one > 0]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: the training regions have no values that differ")
        return cls(tuple(map(float, deviation)))

    def scaled(self, series: Series) -> Series:
        """Return a series in units of the scales."""
        divided = series.values / np.array(self.values, np.float32)[:, None]
        return Series(series.region, series.times, divided)


def all_series(timelines: Mapping[int, Timeline], *, as_they_come: bool = False) -> dict[int, Series]:
    """Return the series of all regions."""
    return {number: series_of(one, as_they_come=as_they_come) for number, one in timelines.items()}
