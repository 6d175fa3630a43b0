"""Scores of made magnetograms by region, and a linear regression to beat.

The published layout (Jeong et al. 2020): over the full disc, active-region patches and quiet patches, the correlation of
total unsigned flux and of net flux from image to image, and the mean over images of the correlation of pixels after binning.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sdoml_dist.solar.translation import (
    BLOCK,
    PATCH,
    PUBLISHED_PIXELS,
    Patch,
    active_patches,
    block_means,
    correlation,
    net_flux,
    pixel_area_cm2,
    quiet_patch,
    unsigned_flux,
)

REGIONS = ("full disc", "active regions", "quiet regions")
MEASURES = ("unsigned flux", "net flux", "pixels")


def scaled(pixels: int, size: int) -> int:
    """Return a length that is published for images of 1024 pixels in pixels of images of another size, at least 1."""
    return max(1, round(pixels * size / PUBLISHED_PIXELS))


class FieldScores:
    """Collects the scores of magnetograms.

    Parameters
    ----------
    size : int
        Pixels per side.
    patch, block : int, optional
        Side of a patch, and of a block of the pixel correlation; by default those of the papers at this size.
    """

    def __init__(self, size: int, patch: int | None = None, block: int | None = None) -> None:
        self.patch = patch or max(4, scaled(PATCH, size))
        self.block = block or scaled(BLOCK, size)
        self.area = pixel_area_cm2(size)
        self._true: dict[str, list[tuple[float, float]]] = {name: [] for name in REGIONS}
        self._made: dict[str, list[tuple[float, float]]] = {name: [] for name in REGIONS}
        self._pixels: dict[str, list[float]] = {name: [] for name in REGIONS}

    def regions(self, true: np.ndarray) -> Iterable[tuple[str, Patch]]:
        """Yield what is scored of a magnetogram: the disc, its active patches, and a quiet one."""
        yield "full disc", Patch(0, 0, true.shape[0])
        for found in active_patches(true, self.patch):
            yield "active regions", found
        quiet = quiet_patch(true, self.patch)
        if quiet is not None:
            yield "quiet regions", quiet

    def add(self, true: np.ndarray, made: np.ndarray) -> None:
        """Add a true and a made magnetogram, gauss, shape (Y, X), NaN off the disc."""
        both = np.isfinite(true) & np.isfinite(made)
        true, made = np.where(both, true, np.nan), np.where(both, made, np.nan)
        for name, patch in self.regions(true):
            left, right = patch.cut(true), patch.cut(made)
            for kept, image in ((self._true, left), (self._made, right)):
                kept[name].append((float(unsigned_flux(image, self.area)), float(net_flux(image, self.area))))
            self._pixels[name].append(correlation(block_means(left, self.block), block_means(right, self.block)))

    def scores(self) -> tuple[dict[str, tuple[float, ...]], dict[str, int]]:
        """Return unsigned flux, net flux and pixel correlations of each kind of region, and numbers of images."""
        rows: dict[str, tuple[float, ...]] = {}
        counts: dict[str, int] = {}
        for name in REGIONS:
            true, made = (np.array(kept[name]).reshape(-1, 2) for kept in (self._true, self._made))
            pixels = [value for value in self._pixels[name] if np.isfinite(value)]
            mean = float(np.mean(pixels)) if pixels else float("nan")
            rows[name] = (correlation(true[:, 0], made[:, 0]), correlation(true[:, 1], made[:, 1]), mean)
            counts[name] = len(true)
        return rows, counts


class Regression:
    """Linear regression from one or more brightnesses: flux per pixel from a region's means, and field from a pixel's.

    Parameters
    ----------
    scores : FieldScores
        Regions.
    """

    def __init__(self, scores: FieldScores) -> None:
        self._scores = scores
        # Of each region: means of the brightnesses, unsigned and net flux per pixel, number of pixels.
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in REGIONS}
        self._tested: dict[str, list[np.ndarray]] = {name: [] for name in REGIONS}
        # Sums over pixels of the products of 1, the brightnesses and the field.
        self._moments: np.ndarray = np.zeros(())
        self._pixels: dict[str, list[float]] = {name: [] for name in REGIONS}

    def _facts(self, true: np.ndarray, bright: np.ndarray) -> np.ndarray:
        valid = np.isfinite(true)
        count, area = max(int(valid.sum()), 1), self._scores.area
        means = bright[:, valid].sum(axis=1, dtype=np.float64) / count
        return np.array([*means, unsigned_flux(true, area) / count, net_flux(true, area) / count, count])

    def learn(self, true: np.ndarray, bright: np.ndarray) -> None:
        """Add a training image: field in gauss, shape (Y, X), and a brightness of this shape or several, (K, Y, X)."""
        bright = bright.reshape(-1, *true.shape)
        for name, patch in self._scores.regions(true):
            self._rows[name].append(self._facts(patch.cut(true), patch.cut(bright)))
        valid = np.isfinite(true)
        columns = np.stack([np.ones(int(valid.sum())), *bright[:, valid], true[valid]]).astype(np.float64)
        self._moments = self._moments + columns @ columns.T

    def add(self, true: np.ndarray, bright: np.ndarray) -> None:
        """Add a test image."""
        bright = bright.reshape(-1, *true.shape)
        means = self._moments[0, 1:] / self._moments[0, 0]
        spread = self._moments[1:, 1:] - self._moments[0, 0] * np.outer(means, means)
        slopes = _least_squares(spread[:-1, :-1], spread[:-1, -1])
        made = means[-1] + np.tensordot(slopes, bright - means[:-1, None, None], 1)
        made = np.where(np.isfinite(true), made, np.nan)
        for name, patch in self._scores.regions(true):
            self._tested[name].append(self._facts(patch.cut(true), patch.cut(bright)))
            left, right = (block_means(patch.cut(one), self._scores.block) for one in (true, made))
            self._pixels[name].append(correlation(left, right))

    def scores(self) -> dict[str, tuple[float, ...]]:
        """Return the same scores as :meth:`FieldScores.scores`."""
        rows: dict[str, tuple[float, ...]] = {}
        for name in REGIONS:
            pixels = [value for value in self._pixels[name] if np.isfinite(value)]
            rows[name] = (*self._fluxes(name), float(np.mean(pixels)) if pixels else float("nan"))
        return rows

    def _fluxes(self, name: str) -> tuple[float, float]:
        """Return the correlations of unsigned and net flux; NaN where there are too few regions for the numbers to be found."""
        if not self._rows[name] or not self._tested[name]:
            return float("nan"), float("nan")
        learned, tested = np.array(self._rows[name]), np.array(self._tested[name])
        x, z = (np.insert(one[:, :-3], 0, 1.0, axis=1) for one in (learned, tested))
        if len(x) <= x.shape[1] or not np.ptp(x[:, 1:], axis=0).any():
            return float("nan"), float("nan")
        unsigned, net = (
            correlation(z @ _least_squares(x, learned[:, column]) * tested[:, -1], tested[:, column] * tested[:, -1])
            for column in (-3, -2)
        )
        return unsigned, net


def _least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return what x is multiplied by to be nearest to y; columns of x may have any units."""
    length = np.sqrt((x**2).sum(axis=0))
    length = np.where(length > 0, length, 1.0)
    found: np.ndarray = np.linalg.lstsq(x / length, y, rcond=None)[0] / length
    return found
