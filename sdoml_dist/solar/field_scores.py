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
    """Linear regression from one brightness: flux per pixel from a region's mean, and field from a pixel's.

    Parameters
    ----------
    scores : FieldScores
        Regions.
    """

    def __init__(self, scores: FieldScores) -> None:
        self._scores = scores
        self._rows: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in REGIONS}
        self._tested: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in REGIONS}
        self._moments = np.zeros(5)
        self._pixels: dict[str, list[float]] = {name: [] for name in REGIONS}

    def _facts(self, true: np.ndarray, bright: np.ndarray) -> tuple[float, float, float, float]:
        valid = np.isfinite(true)
        count = max(int(valid.sum()), 1)
        area = self._scores.area
        return (
            float(bright[valid].mean()) if valid.any() else 0.0, float(unsigned_flux(true, area)) / count,
            float(net_flux(true, area)) / count, float(count),
        )  # fmt: skip

    def learn(self, true: np.ndarray, bright: np.ndarray) -> None:
        """Add a training image: field in gauss and brightness, shape (Y, X)."""
        for name, patch in self._scores.regions(true):
            self._rows[name].append(self._facts(patch.cut(true), patch.cut(bright)))
        valid = np.isfinite(true)
        x, y = bright[valid].astype(np.float64), true[valid].astype(np.float64)
        self._moments += (x.size, x.sum(), y.sum(), (x * x).sum(), (x * y).sum())

    def add(self, true: np.ndarray, bright: np.ndarray) -> None:
        """Add a test image."""
        count, sx, sy, sxx, sxy = self._moments
        slope = (sxy - sx * sy / count) / max(sxx - sx * sx / count, 1e-30)
        made = np.where(np.isfinite(true), sy / count + slope * (bright - sx / count), np.nan)
        for name, patch in self._scores.regions(true):
            self._tested[name].append(self._facts(patch.cut(true), patch.cut(bright)))
            left, right = (block_means(patch.cut(one), self._scores.block) for one in (true, made))
            self._pixels[name].append(correlation(left, right))

    def scores(self) -> dict[str, tuple[float, ...]]:
        """Return the same scores as :meth:`FieldScores.scores`."""
        rows = {}
        for name in REGIONS:
            learned, tested = (np.array(kept[name]).reshape(-1, 4) for kept in (self._rows, self._tested))
            values = []
            for column in (1, 2):
                if len(learned) < 3 or np.ptp(learned[:, 0]) == 0 or not len(tested):
                    values.append(float("nan"))
                    continue
                slope, offset = np.polyfit(learned[:, 0], learned[:, column], 1)
                made = (offset + slope * tested[:, 0]) * tested[:, 3]
                values.append(correlation(made, tested[:, column] * tested[:, 3]))
            pixels = [value for value in self._pixels[name] if np.isfinite(value)]
            rows[name] = (*values, float(np.mean(pixels)) if pixels else float("nan"))
        return rows
