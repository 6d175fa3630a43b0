"""Timelines of emerging active regions, and the windows that forecasts are learned from.

A region has, per hour and tile, four acoustic powers, the unsigned magnetic flux and the continuum intensity. The benchmark
(NASA-IMPACT/SuryaBench, ar_emergence) takes 120 hours of powers and flux and asks for the intensity twelve steps after
the last of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdoml_dist.solar.tiles import GRID, inner_tiles

INPUT_STEPS = 120
HORIZON_STEPS = 12
"""The target is this many steps after the last input."""

BENCHMARK_TRAIN = (
    11130, 11149, 11158, 11387, 11393, 11416, 11422, 11455, 11462, 11619, 11627, 11660, 11682, 11765, 11768, 11776, 11907,
    11916, 11928, 12036, 12051, 12085, 12089, 12175, 12203, 12219, 12257, 12271, 12275, 12331,
)  # fmt: skip
BENCHMARK_TEST = (11698, 11726)
"""Regions of the benchmark by NOAA number. Left out there: regions with gaps (NaN) and those from 12494 on."""


@dataclass(frozen=True)
class Timeline:
    """One region.

    Attributes
    ----------
    region : int
        NOAA number.
    times : numpy.ndarray
        Middle of each window, ``datetime64`` UTC, shape (time,). Gaps are real: steps need not be even.
    power : numpy.ndarray
        Shape (4, tiles, time): 2-3, 3-4, 4-5, 5-6 mHz. NaN where there is none.
    flux, intensity : numpy.ndarray
        Unsigned flux (G) and continuum intensity, shape (tiles, time).
    """

    region: int
    times: np.ndarray
    power: np.ndarray
    flux: np.ndarray
    intensity: np.ndarray

    @property
    def complete(self) -> bool:
        """Whether no value is missing."""
        return all(bool(np.isfinite(values).all()) for values in (self.power, self.flux, self.intensity))

    def steps(self, step: np.timedelta64) -> Timeline:
        """Return the region on an even axis of time, NaN where nothing was observed.

        Parameters
        ----------
        step : numpy.timedelta64
            Spacing; times are rounded to it from the first one.

        Raises
        ------
        ValueError
            If two times fall on one step.
        """
        place = np.rint((self.times - self.times[0]) / step).astype(np.int64)
        if np.unique(place).size != place.size:
            raise ValueError(f"region {self.region} has two times within {step}")
        number = int(place[-1]) + 1

        def spread(values: np.ndarray) -> np.ndarray:
            out = np.full((*values.shape[:-1], number), np.nan, values.dtype)
            out[..., place] = values
            return out

        times = self.times[0] + np.arange(number) * step
        return Timeline(self.region, times, spread(self.power), spread(self.flux), spread(self.intensity))


@dataclass(frozen=True)
class Windows:
    """Examples of a region.

    Attributes
    ----------
    inputs : numpy.ndarray
        Shape (examples, steps, 5, tiles): the four powers, then the flux.
    targets : numpy.ndarray
        Intensity, shape (examples, tiles).
    past : numpy.ndarray
        Intensity of the input steps, shape (examples, steps, tiles): not an input of the benchmark, but what persistence
        and models that may see it need.
    valid : numpy.ndarray
        Whether nothing is missing in inputs and target, shape (examples,).
    region : numpy.ndarray
        NOAA number of each example, shape (examples,).
    times : numpy.ndarray
        Time of the target, shape (examples,).
    """

    inputs: np.ndarray
    targets: np.ndarray
    past: np.ndarray
    valid: np.ndarray
    region: np.ndarray
    times: np.ndarray

    def select(self, chosen: np.ndarray) -> Windows:
        """Return some of the examples."""
        return Windows(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def windows(
    timeline: Timeline, input_steps: int = INPUT_STEPS, horizon: int = HORIZON_STEPS, grid: int = GRID
) -> Windows:
    """Cut a region into examples, one per step.

    Parameters
    ----------
    timeline : Timeline
        The region. Steps are taken as they come; call :meth:`Timeline.steps` before for an even axis with gaps.
    input_steps, horizon : int
        Length of the input, and how many steps after its last one the target is.
    grid : int
        Tiles per axis; the first and last row of tiles are left out.

    Returns
    -------
    Windows
        ``time - input_steps - horizon`` examples, as published; one more would fit.
    """
    tiles = inner_tiles(grid)
    series = np.concatenate([timeline.power, timeline.flux[None]])[:, tiles].transpose(2, 0, 1)
    intensity = timeline.intensity[tiles].T
    number = max(series.shape[0] - input_steps - horizon, 0)
    steps = np.arange(number)[:, None] + np.arange(input_steps)
    at = np.arange(number) + input_steps - 1 + horizon
    inputs, targets = series[steps], intensity[at]
    valid = np.isfinite(inputs).all(axis=(1, 2, 3)) & np.isfinite(targets).all(axis=1)
    return Windows(inputs, targets, intensity[steps], valid, np.full(number, timeline.region), timeline.times[at])


def joined(parts: Sequence[Windows]) -> Windows:
    """Join the examples of several regions."""
    return Windows(*(np.concatenate([getattr(part, name) for part in parts]) for name in Windows.__dataclass_fields__))


def benchmark_split(timelines: Mapping[int, Timeline]) -> tuple[Windows, Windows]:
    """Return training and test examples of the published benchmark.

    Raises
    ------
    ValueError
        If one of its regions is not there.
    """
    absent = [region for region in (*BENCHMARK_TRAIN, *BENCHMARK_TEST) if region not in timelines]
    if absent:
        raise ValueError(f"the benchmark needs the regions {absent}, which are not there")
    train, test = (
        joined([windows(timelines[region]) for region in regions]) for regions in (BENCHMARK_TRAIN, BENCHMARK_TEST)
    )
    return train, test


def region_folds(regions: Sequence[int], folds: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Divide regions into folds of nearly equal size, so that no region is in two.

    Parameters
    ----------
    regions : sequence of int
        NOAA numbers, in any order.
    folds : int
        How many.
    seed : int
        Another seed gives other folds.

    Raises
    ------
    ValueError
        If there are fewer regions than folds.
    """
    if not 2 <= folds <= len(regions):
        raise ValueError(f"{len(regions)} regions cannot be divided into {folds} folds")
    order = np.random.default_rng(seed).permutation(np.array(sorted(regions)))
    return [tuple(sorted(int(region) for region in part)) for part in np.array_split(order, folds)]


@dataclass(frozen=True)
class Scaling:
    """Extrema of training examples, by which inputs and targets are brought to 0..1.

    Attributes
    ----------
    input_minimum, input_maximum : numpy.ndarray
        Per channel, shape (5,).
    target_minimum, target_maximum : float
        Of the intensity.
    """

    input_minimum: np.ndarray
    input_maximum: np.ndarray
    target_minimum: float
    target_maximum: float

    @classmethod
    def of(cls, examples: Windows) -> Scaling:
        """Take the extrema of training examples; missing values do not count."""
        return cls(
            np.nanmin(examples.inputs, axis=(0, 1, 3)), np.nanmax(examples.inputs, axis=(0, 1, 3)),
            float(np.nanmin(examples.targets)), float(np.nanmax(examples.targets)),
        )  # fmt: skip

    def inputs(self, values: np.ndarray) -> np.ndarray:
        """Scale inputs, shape (..., 5, tiles)."""
        low, high = self.input_minimum[:, None], self.input_maximum[:, None]
        scaled: np.ndarray = (values - low) / (high - low)
        return scaled

    def targets(self, values: np.ndarray) -> np.ndarray:
        """Scale intensities."""
        scaled: np.ndarray = (values - self.target_minimum) / (self.target_maximum - self.target_minimum)
        return scaled
