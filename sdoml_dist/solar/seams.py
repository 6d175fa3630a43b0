"""Whether the borders of patches can be found in an image that was made patch by patch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdoml_dist.solar.blending import starts

# Lines with fewer pixels than this share of the longest one say little of the jumps along them.
_LEAST_SHARE = 0.3


@dataclass(frozen=True)
class Seams:
    """Jumps across the borders of patches against jumps across all other lines.

    Attributes
    ----------
    excess : float
        Mean absolute jump at borders over that elsewhere, minus 1; without seams 0 within the error. Where a network does
        less at the edges of its patches, it is below 0.
    error : float
        Its standard error, by the scatter of the other lines.
    lines : int
        Borders that were looked at, along both axes.
    """

    excess: float
    error: float
    lines: int


def borders(length: int, size: int, overlap: int) -> list[int]:
    """Return after which pixels along an axis a patch begins or ends, as :func:`sdoml_dist.solar.blending.blended` lays them."""
    first = starts(length, size, overlap)
    return sorted({place - 1 for place in first[1:]} | {place + size - 1 for place in first[:-1]})


def seams(change: np.ndarray, size: int, overlap: int) -> Seams:
    """Measure the seams in what a network has changed.

    Parameters
    ----------
    change : numpy.ndarray
        Made minus given image, shape (y, x), NaN where there is none.
    size, overlap : int
        Side of the patches, and the pixels that neighbours share at least.

    Returns
    -------
    Seams
        Of both axes together.

    Raises
    ------
    ValueError
        If no border lies within the image, or nothing has changed.
    """
    at, elsewhere = [], []
    for axis in (0, 1):
        jumps = np.abs(np.diff(change, axis=axis))
        pixels = np.isfinite(jumps).sum(1 - axis)
        told = pixels >= max(1, _LEAST_SHARE * pixels.max())
        means = np.nansum(jumps, axis=1 - axis) / np.maximum(pixels, 1)
        border = np.zeros(len(means), bool)
        border[borders(change.shape[axis], size, overlap)] = True
        at.append(means[told & border])
        elsewhere.append(means[told & ~border])
    there, rest = np.concatenate(at), np.concatenate(elsewhere)
    if not there.size or rest.size < 2 or not rest.mean() > 0:
        raise ValueError("an image that is one patch, or that nothing has changed, has no seams to measure")
    return Seams(
        float(there.mean() / rest.mean() - 1),
        float(rest.std() / rest.mean() / np.sqrt(there.size)),
        int(there.size),
    )
