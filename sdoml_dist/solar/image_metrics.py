"""Metrics of generated images against real ones, and their means over many images.

The set is that of Brown et al. 2022 ("Learning the solar latent space", section 4) as kept in the benchmark of SDO-FM
(sdofm/benchmarks/reconstruction.py). Each metric is of one image of one channel, over its valid pixels, in the original
unit; r are the real and g the generated pixels:

    correlation       Pearson's correlation of r and g
    ppe10, ppe50      fraction of pixels with |r - g| / |r| below (not equal to) 0.1 and 0.5
    rmse              sqrt(mean((r - g)^2))
    flux_difference   (sum g - sum r) / sum r
    rms_contrast      sqrt(mean((mean(r) - g)^2))

What those sources leave open is defined here. Valid are the finite real pixels inside the mask; the benchmark instead
sets masked pixels to 0 and counts them, which makes its errors smaller by sqrt(valid fraction). A pixel with r = 0 has no
relative error and counts as not within. A generated image that is constant explains nothing: correlation 0. A metric is
NaN where it is undefined: no valid pixel, a constant real image (correlation), a real sum of 0 (flux_difference). Means
over images leave NaN out and count what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

METRICS = ("correlation", "ppe10", "ppe50", "rmse", "flux_difference", "rms_contrast")
"""Names of the metrics, in the order of the tables."""

# RADIUS_FRACTION_OF_IMAGE of the benchmark of SDO-FM; the disk of SDOML images has 0.397 (976 arcsec at 4.8 arcsec/pixel).
_RADIUS_FRACTION = 0.40625
# Every finite double is an integer multiple of 2^-1074.
_BITS = 1074


def disk_mask(pixels: int) -> np.ndarray:
    """Return the mask of the solar disk that the benchmark of SDO-FM uses.

    Parameters
    ----------
    pixels : int
        N, pixels per side.

    Returns
    -------
    numpy.ndarray
        Bool, shape (N, N): pixel indices less than int(0.40625 N) away from (N/2, N/2).
    """
    radius = int(_RADIUS_FRACTION * pixels)
    squares = (np.arange(pixels) - pixels / 2) ** 2
    mask: np.ndarray = squares[:, np.newaxis] + squares < radius**2
    return mask


def disk_masks(channels: Sequence[str], pixels: int, on_disk: Sequence[str] = ("Bx", "By", "Bz")) -> np.ndarray:
    """Return masks of shape (C, N, N): the disk for channels that exist on it alone, everything for others."""
    disk, everything = disk_mask(pixels), np.ones((pixels, pixels), bool)
    return np.stack([disk if channel in on_disk else everything for channel in channels])


def image_metrics(real: np.ndarray, generated: np.ndarray, mask: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return the metrics of every image of every channel.

    Parameters
    ----------
    real, generated : numpy.ndarray
        Original units, shape (..., Y, X); real images have NaN where there is no data.
    mask : numpy.ndarray, optional
        Bool, broadcastable to that shape: False pixels are left out, for example `disk_masks`.

    Returns
    -------
    dict of str to numpy.ndarray
        Float64 of shape (...) for each of `METRICS`.

    Raises
    ------
    ValueError
        If the shapes differ, or a generated image is not finite where the real one is: leaving such pixels out would
        hide a failed model.
    """
    if real.shape != generated.shape or real.ndim < 2:
        raise ValueError(f"real images of shape {real.shape} and generated ones of shape {generated.shape} differ")
    valid = np.isfinite(real)
    if mask is not None:
        valid &= np.broadcast_to(mask, real.shape).astype(bool)
    broken = int((valid & ~np.isfinite(generated)).sum())
    if broken:
        raise ValueError(f"generated images are not finite at {broken} of {int(valid.sum())} valid pixels")
    result = {name: np.full(real.shape[:-2], np.nan) for name in METRICS}
    for place in np.ndindex(real.shape[:-2]):
        chosen = valid[place]
        if chosen.any():
            metrics = _one(real[place][chosen].astype(np.float64), generated[place][chosen].astype(np.float64))
            for name, value in zip(METRICS, metrics, strict=True):
                result[name][place] = value
    return result


def _one(real: np.ndarray, generated: np.ndarray) -> tuple[float, ...]:
    """Return the metrics of one image, in the order of METRICS, from its valid pixels."""
    errors = np.abs(real - generated)
    relative = np.divide(errors, np.abs(real), out=np.full(real.shape, np.inf), where=real != 0)
    mean, total = real.mean(), real.sum()
    return (
        _correlation(real, generated),
        float((relative < 0.1).mean()),
        float((relative < 0.5).mean()),
        float(np.sqrt(np.square(errors).mean())),
        float((generated.sum() - total) / total) if total != 0 else float("nan"),
        float(np.sqrt(np.square(mean - generated).mean())),
    )


def _correlation(real: np.ndarray, generated: np.ndarray) -> float:
    if real.min() == real.max():
        return float("nan")
    if generated.min() == generated.max():
        return 0.0
    # Dividing by the spread first keeps the squares of very small and very large values representable.
    left = (real - real.mean()) / np.ptp(real)
    right = (generated - generated.mean()) / np.ptp(generated)
    return float(np.clip(left @ right / np.sqrt((left @ left) * (right @ right)), -1, 1))


class MetricMeans:
    """Means of metrics over images, merged exactly.

    Sums are kept as integers in units of 2^-1074, so no order or grouping of images changes a bit of the result.

    Parameters
    ----------
    channels : sequence of str
        Names of the channels, the last axis of the metrics.

    Examples
    --------
    >>> means = MetricMeans(["171A"])
    >>> means.add(image_metrics(np.ones((5, 1, 8, 8)), np.full((5, 1, 8, 8), 1.25)))
    >>> float(means.means()["ppe50"][0]), int(means.counts()["correlation"][0])
    (1.0, 0)
    """

    def __init__(self, channels: Sequence[str]) -> None:
        self.channels = tuple(channels)
        self._sums = {name: [0] * len(self.channels) for name in METRICS}
        self._counts = {name: [0] * len(self.channels) for name in METRICS}

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Add metrics of shape (..., C), as `image_metrics` gives them for images of shape (..., C, Y, X)."""
        if set(metrics) != set(METRICS):
            raise ValueError(f"metrics {sorted(metrics)} instead of {sorted(METRICS)}")
        for name, values in metrics.items():
            if values.ndim == 0 or values.shape[-1] != len(self.channels):
                raise ValueError(
                    f"{name} has shape {values.shape} for the {len(self.channels)} channels {self.channels}"
                )
            sums, counts = self._sums[name], self._counts[name]
            for row in values.reshape(-1, len(self.channels)).tolist():
                for place, value in enumerate(row):
                    if np.isfinite(value):
                        numerator, denominator = value.as_integer_ratio()
                        sums[place] += numerator << (_BITS + 1 - denominator.bit_length())
                        counts[place] += 1

    def merge(self, other: MetricMeans) -> MetricMeans:
        """Return the means over the images of both."""
        if self.channels != other.channels:
            raise ValueError(f"means of channels {self.channels} cannot be merged with those of {other.channels}")
        merged = MetricMeans(self.channels)
        for name in METRICS:
            for mine, left, right in (
                (merged._sums, self._sums, other._sums),
                (merged._counts, self._counts, other._counts),
            ):
                mine[name] = [a + b for a, b in zip(left[name], right[name], strict=True)]
        return merged

    def means(self) -> dict[str, np.ndarray]:
        """Return the mean of each metric, shape (C,), correctly rounded; NaN where no image defines it."""
        return {
            name: np.array(
                [
                    float(Fraction(total, count << _BITS)) if count else float("nan")
                    for total, count in zip(self._sums[name], self._counts[name], strict=True)
                ]
            )
            for name in METRICS
        }

    def counts(self) -> dict[str, np.ndarray]:
        """Return the number of images behind each mean, int64, shape (C,)."""
        return {name: np.array(self._counts[name], np.int64) for name in METRICS}
