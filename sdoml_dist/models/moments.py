"""Moments of channels that can be taken in parts and merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ChannelMoments:
    """Count, mean, sum of squared deviations and extremes of each channel; arrays of shape (C,), float64.

    Attributes
    ----------
    count : numpy.ndarray
        Number of finite values, int64.
    mean, squares : numpy.ndarray
        Their mean, and the sum of the squared deviations from it; 0 without values.
    minimum, maximum : numpy.ndarray
        Their extremes; +inf and -inf without values.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray

    @classmethod
    def empty(cls, channels: int) -> ChannelMoments:
        """Return the moments of nothing."""
        count, infinity = np.zeros(channels, np.int64), np.full(channels, np.inf)
        return cls(count, np.zeros(channels), np.zeros(channels), infinity, -infinity)

    @classmethod
    def of(cls, values: np.ndarray) -> ChannelMoments:
        """Return the moments of values of shape (..., C, Y, X); what is not finite is left out."""
        channels = np.moveaxis(np.asarray(values, np.float64), -3, 0)
        moments = cls.empty(len(channels))
        for place, channel in enumerate(channels):
            chosen = channel[np.isfinite(channel)]
            if chosen.size:
                mean = chosen.mean()
                moments.count[place], moments.mean[place] = chosen.size, mean
                moments.squares[place] = np.square(chosen - mean).sum()
                moments.minimum[place], moments.maximum[place] = chosen.min(), chosen.max()
        return moments

    @property
    def variance(self) -> np.ndarray:
        """Variance of the population, NaN without values."""
        empty = self.count == 0
        result: np.ndarray = np.where(empty, np.nan, self.squares / np.where(empty, 1, self.count))
        return result

    def merge(self, other: ChannelMoments) -> ChannelMoments:
        """Return the moments of both sets of values (Chan, Golub & LeVeque 1983).

        Another order of merging changes the last digits only; merge in a fixed order for identical bits.
        """
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        step = other.mean - self.mean
        return ChannelMoments(
            count,
            self.mean + step * share,
            self.squares + other.squares + step**2 * self.count * share,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )
