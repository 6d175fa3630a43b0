"""How forecasts of emerging regions are scored: the published protocols, figures and metrics.

Five regions (Kasapis et al. 2025, ApJS 280, 64; code skasapis/AR_Emergence_Prediction and, for the transformer of Tirona et
al. 2026, arXiv 2601.13144, jonastirona/SAR_EMERGENCE_RESEARCH): seven tiles in the middle of each; intensities scaled to 0..1
by the extremes of the region; metrics of each tile, averaged over the seven. As published

* the target sequence of 12 begins at the last input, so that "12 hours ahead" lies 11 steps after it;
* steps are taken as they come, over the gap of nine hours in 11726 as well;
* a forecast is shifted as a whole, once per tile, so that its first value is the intensity that was observed one step
  before the first target: ten hours after the last input of that forecast.

Benchmark (NASA-IMPACT/SuryaBench): 3240 examples of 30 regions and 208 of two; targets 12 steps after the last of 120 inputs;
intensities scaled by the extremes over all regions before 12494, test regions included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from sdoml_dist.solar.emergence_flag import (
    RUN_STEPS,
    SMOOTH_STEPS,
    THRESHOLD,
    emergence_slope,
    emergence_step,
    first_run,
)
from sdoml_dist.solar.emergence_series import INTENSITY, Series, carried_forward, example_ends

FIVE_REGIONS_HORIZON = 11
"""Steps between the last input and the target of the five-region protocol."""
BENCHMARK_RANGE = 17106.99 + 3976.24
"""Extremes of the intensity over the benchmark's regions (its readme's "dynamic ranges"), whose difference is 1."""
SHOWN_TILES = 7


@dataclass(frozen=True)
class Protocol:
    """How one of the five regions is tested.

    Attributes
    ----------
    first_tile : int
        First of the seven tiles, counted from 0 among the 63 inner ones; as published they are numbered from 1 among 81.
    input_steps : int
        Hours of input of the published LSTM.
    records : tuple of str
        NOAA's first and second record.
    lstm, lstm_rmsle : tuple of float
        Published MAE, MSE, RMSE and R2 of the LSTM in the titles of its figures, and RMSLE.
    """

    first_tile: int
    input_steps: int
    records: tuple[str, str]
    lstm: tuple[float, float, float, float]
    lstm_rmsle: float

    @property
    def tiles(self) -> np.ndarray:
        """The seven tiles among the inner 63."""
        return np.arange(self.first_tile, self.first_tile + SHOWN_TILES)


FIVE_REGIONS = {
    11698: Protocol(37, 96, ("2013-03-15", "2013-03-17"), (0.098, 0.024, 0.126, -5.295), 0.079),
    11726: Protocol(28, 72, ("2013-04-20", "2013-04-22"), (0.123, 0.034, 0.143, -5.298), 0.089),
    13165: Protocol(19, 96, ("2022-12-12", "2022-12-14"), (0.112, 0.026, 0.134, -3.931), 0.082),
    13179: Protocol(28, 96, ("2022-12-30", "2023-01-01"), (0.116, 0.032, 0.144, -2.168), 0.098),
    13183: Protocol(28, 96, ("2023-01-06", "2023-01-08"), (0.100, 0.020, 0.119, -2.179), 0.073),
}
LSTM_RMSE, TRANSFORMER_RMSE = 0.133, 0.119
"""Means over the five regions that are published (abstract of arXiv 2601.13144: 0.1189, 10.6 % below the LSTM's)."""
# First emergence that the published LSTM predicts, by the published number of the tile; minute 59 of the hour.
LSTM_TIMES = {
    11698: {49: "2013-03-14T17", 51: "2013-03-15T21", 52: "2013-03-16T22"},
    11726: {40: "2013-04-25T03", 41: "2013-04-19T13", 42: "2013-04-19T21", 43: "2013-04-19T20", 44: "2013-04-20T20"},
    13165: {31: "2022-12-13T07", 32: "2022-12-10T17", 33: "2022-12-12T03", 34: "2022-12-13T07"},
    13179: {40: "2022-12-29T16", 41: "2022-12-29T05", 42: "2022-12-30T04"},
    13183: {40: "2023-01-06T20", 41: "2023-01-05T13", 42: "2023-01-05T17", 43: "2023-01-06T18"},
}  # fmt: skip


@dataclass(frozen=True)
class Errors:
    """Metrics of a forecast, averaged over tiles."""

    mae: float
    mse: float
    rmse: float
    rmsle: float
    r2: float

    @classmethod
    def of(cls, observed: np.ndarray, forecast: np.ndarray) -> Errors:
        """Compare series of shape (examples, tiles), in units of the region's range; missing targets do not count.

        RMSLE is of ``log(1 + x)``, where forecasts below 0 count as 0. R2 of a tile that never changes is left out.

        Raises
        ------
        ValueError
            If nothing was observed.
        """
        known = np.isfinite(observed)
        if not known.any():
            raise ValueError("no target was observed")
        count = np.maximum(known.sum(axis=0), 1)
        used = known.any(axis=0)

        def mean(values: np.ndarray) -> np.ndarray:
            return np.where(known, values, 0.0).sum(axis=0) / count

        difference = forecast - observed
        mse = mean(difference**2)
        spread = mean((observed - mean(observed)) ** 2)
        logs = np.log1p(np.clip(forecast, 0, None)) - np.log1p(np.clip(np.nan_to_num(observed), 0, None))
        varied = used & (spread > 0)
        r2 = float((1 - mse[varied] / spread[varied]).mean()) if varied.any() else float("nan")
        return cls(
            float(mean(np.abs(difference))[used].mean()), float(mse[used].mean()), float(np.sqrt(mse[used]).mean()),
            float(np.sqrt(mean(logs**2))[used].mean()), r2,
        )  # fmt: skip

    @classmethod
    def mean(cls, errors: list[Errors]) -> Errors:
        """Average over regions."""
        return cls(*(float(np.mean([getattr(one, field.name) for one in errors])) for field in fields(cls)))


def targets(series: Series, input_steps: int, horizon: int, tiles: np.ndarray | None = None) -> np.ndarray:
    """Return the observed intensities of all examples, shape (examples, tiles)."""
    at = example_ends(series, input_steps, horizon) + horizon
    observed: np.ndarray = series.values[at, INTENSITY].astype(np.float64)
    return observed if tiles is None else observed[:, tiles]


def scaled_by_region(series: Series, values: np.ndarray) -> np.ndarray:
    """Bring intensities to 0..1 by the extremes of their region, which is how scores are published."""
    low, high = series.extremes
    scaled: np.ndarray = (values - low) / (high - low)
    return scaled


def shifted_as_published(forecast: np.ndarray, series: Series, input_steps: int, horizon: int) -> np.ndarray:
    """Shift a forecast once per tile, so that its first value is what was observed one step before the first target.

    Parameters
    ----------
    forecast : numpy.ndarray
        Of all examples and tiles, shape (examples, tiles).
    series : Series
        The region, in the same units.
    input_steps, horizon : int
        Of the examples.
    """
    before = series.values[input_steps - 1 + horizon - 1, INTENSITY].astype(np.float64)
    shifted: np.ndarray = forecast - forecast[:1] + before
    return shifted


@dataclass(frozen=True)
class Detection:
    """When a tile is flagged as emerging, by what is observed and what is forecast.

    Attributes
    ----------
    region, tile : int
        NOAA number, and published number of the tile: counted from 1 among 81.
    observed, forecast : numpy.datetime64
        First step at which the published criterion holds; NaT if it never does.
    known : numpy.datetime64
        When the flag of the forecast could be raised: the hour of the last input of the last forecast that it needs.
    """

    region: int
    tile: int
    observed: np.datetime64
    forecast: np.datetime64
    known: np.datetime64

    @property
    def difference_h(self) -> float:
        """Hours by which the forecast's flag lies before the observed one, as published scores count; NaN without both."""
        return float((self.observed - self.forecast) / np.timedelta64(1, "h"))

    @property
    def lead_h(self) -> float:
        """Hours from raising the flag to the observed emergence; negative if it came too late; NaN without both."""
        return float((self.observed - self.known) / np.timedelta64(1, "h"))


def detections(
    series: Series, forecast: np.ndarray, ends: np.ndarray, horizon: int, tiles: np.ndarray
) -> list[Detection]:
    """Flag tiles by the published criterion: the observed intensity smoothed, the forecast as it is.

    Parameters
    ----------
    series : Series
        The region.
    forecast : numpy.ndarray
        Scaled to 0..1 by the region's extremes, shape (examples, tiles), one example after the other.
    ends : numpy.ndarray
        Last input steps of the examples.
    horizon : int
        Steps to their targets.
    tiles : numpy.ndarray
        The tiles of `forecast` among the inner ones.

    Notes
    -----
    Before gradients are compared with the threshold they are smoothed over five steps, for both series, as in the published
    code. Only what is observed from the first target on can be forecast; a flag before it is kept as it was observed.
    """
    observed = scaled_by_region(series, series.values[:, INTENSITY].astype(np.float64))
    missing = np.datetime64("NaT", "s")
    columns = series.grid[1]
    found = []
    for column, tile in enumerate(tiles):
        seen = emergence_step(observed[:, tile])
        slope = emergence_slope(forecast[:, column], smooth=1, smooth_slope=SMOOTH_STEPS)
        told = first_run(slope, THRESHOLD, RUN_STEPS)
        # A run of four, each a mean over five slopes, each of which needs the forecast after it.
        last = None if told is None else min(told + RUN_STEPS - 1 + SMOOTH_STEPS // 2 + 1, len(ends) - 1)
        found.append(
            Detection(
                series.region,
                int(tile) + columns + 1,
                missing if seen is None else series.times[seen],
                missing if told is None else series.times[ends[told] + horizon],
                missing if last is None else series.times[ends[last]],
            )
        )
    return found


def darkened_tiles(series: Series, number: int = SHOWN_TILES) -> np.ndarray:
    """Return the tiles whose intensity varies most, in their order."""
    intensity = series.values[:, INTENSITY]
    known = np.isfinite(intensity)
    fall = np.where(known, intensity, -np.inf).max(axis=0) - np.where(known, intensity, np.inf).min(axis=0)
    chosen: np.ndarray = np.sort(np.argsort(-fall, kind="stable")[:number])
    return chosen


def persistence(series: Series, input_steps: int, horizon: int) -> np.ndarray:
    """Return the last intensity of each example that was observed within its input, shape (examples, tiles)."""
    intensity = series.values[:, INTENSITY].astype(np.float64)
    known = np.isfinite(intensity)
    last = np.maximum.accumulate(np.where(known, np.arange(len(intensity))[:, None], -1), axis=0)
    ends = example_ends(series, input_steps, horizon)
    chosen = last[ends]
    values = np.take_along_axis(intensity, np.maximum(chosen, 0), axis=0)
    return np.where(chosen > ends[:, None] - input_steps, values, np.nan)


def tile_means(regions: Mapping[int, Series], input_steps: int, horizon: int) -> np.ndarray:
    """Return the mean target of each tile over training regions, shape (tiles,)."""
    means: np.ndarray = np.nanmean(
        np.concatenate([targets(one, input_steps, horizon) for one in regions.values()]), axis=0
    )
    return means


class LinearBaseline:
    """A linear regression, the same for all tiles, on last value, mean and last day's mean of each input channel.

    Parameters
    ----------
    input_steps, horizon : int
        Of the examples.
    channels : int
        The first so many of a series are inputs: five without the intensity, six with it.
    change : bool
        Whether the change of the intensity is fitted, and added to the last one.
    """

    def __init__(self, input_steps: int, horizon: int, channels: int = 5, *, change: bool = False) -> None:
        self.input_steps, self.horizon, self.channels, self.change = input_steps, horizon, channels, change
        self.weights = np.zeros(3 * channels + 1)

    def _terms(self, series: Series) -> np.ndarray:
        """Return the regressors of all examples, shape (examples, tiles, 3 * channels + 1)."""
        # What is missing is the last value before it, as for every forecaster that knows no mask.
        values = carried_forward(series.values[:, : self.channels]).astype(np.float64)
        total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
        ends = example_ends(series, self.input_steps, self.horizon)

        def mean(steps: int) -> np.ndarray:
            means: np.ndarray = (total[ends + 1] - total[ends + 1 - steps]) / steps
            return means

        parts = [values[ends], mean(self.input_steps), mean(min(24, self.input_steps))]
        terms = np.concatenate(parts, axis=1).transpose(0, 2, 1)
        return np.concatenate([terms, np.ones((*terms.shape[:2], 1))], axis=2)

    def fit(self, regions: Mapping[int, Series]) -> LinearBaseline:
        """Fit the weights to training regions, each example counted alike; those without a target are left out."""
        products, right = np.zeros((len(self.weights),) * 2), np.zeros(len(self.weights))
        for one in regions.values():
            terms = self._terms(one)
            wanted = targets(one, self.input_steps, self.horizon)
            if self.change:
                wanted = wanted - persistence(one, self.input_steps, self.horizon)
            good = np.isfinite(wanted)
            products += terms[good].T @ terms[good]
            right += terms[good].T @ wanted[good]
        # Powers are a million times larger than the rest.
        size = np.sqrt(np.maximum(products.diagonal(), 1e-30))
        self.weights = np.linalg.lstsq(products / np.outer(size, size), right / size)[0] / size
        return self

    def forecast(self, series: Series) -> np.ndarray:
        """Return forecasts of all examples, shape (examples, tiles)."""
        found: np.ndarray = self._terms(series) @ self.weights
        return found + persistence(series, self.input_steps, self.horizon) if self.change else found
