"""Whole images by overlapping patches, without seams: each patch counts less and less towards its edges."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Return where patches begin along an axis: evenly, so that neighbours share at least `overlap` pixels.

    Raises
    ------
    ValueError
        If a patch is larger than the axis, or overlaps itself.
    """
    if not 0 <= overlap < size <= length:
        raise ValueError(f"patches of {size} pixels that share {overlap} do not fit into {length}")
    number = -(-(length - overlap) // (size - overlap))
    if number <= 1:
        return [0]
    return [round(k * (length - size) / (number - 1)) for k in range(number)]


def taper(size: int, overlap: int) -> np.ndarray:
    """Return the weights of a patch along an axis: Hann's half window over the overlap on either side, 1 in between.

    They are positive everywhere, so that every pixel has a weight, and those of two patches that share `overlap` pixels add up to
    1 there. Shape (size,), float64.
    """
    weights = np.ones(size)
    if overlap:
        edge = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / overlap) ** 2
        weights[:overlap] = np.minimum(weights[:overlap], edge)
        weights[-overlap:] = np.minimum(weights[-overlap:], edge[::-1])
    return weights


def corners(image: np.ndarray, size: int, overlap: int) -> list[tuple[int, int]]:
    """Return row and column of the first pixel of each patch that has any valid pixel."""
    rows, columns = (starts(length, size, overlap) for length in image.shape)
    return [
        (row, column)
        for row in rows
        for column in columns
        if np.isfinite(image[row : row + size, column : column + size]).any()
    ]


def blended(
    image: np.ndarray, size: int, overlap: int, run: Callable[[np.ndarray], np.ndarray], batch: int = 8
) -> np.ndarray:  # fmt: skip
    """Apply something to an image patch by patch.

    Parameters
    ----------
    image : numpy.ndarray
        Shape (y, x), float32, NaN where there is no data.
    size : int
        Side of a patch; smaller images are filled up with NaN.
    overlap : int
        Pixels that neighbours share at least.
    run : callable
        Maps patches of shape (n, size, size) to others of the same shape.
    batch : int
        Patches at once.

    Returns
    -------
    numpy.ndarray
        Float32, the image's shape; NaN where it has no data. Sums are in double precision: where all patches say the same, that
        is the result to the bit.
    """
    height, width = image.shape
    if height < size or width < size:
        filled = np.full((max(height, size), max(width, size)), np.nan, np.float32)
        filled[:height, :width] = image
        return blended(filled, size, overlap, run, batch)[:height, :width]
    edge = taper(size, overlap)
    weight = np.outer(edge, edge)
    total, weights = np.zeros(image.shape), np.zeros(image.shape)
    for places in _batches(corners(image, size, overlap), batch):
        patches = np.stack([image[row : row + size, column : column + size] for row, column in places])
        for (row, column), made in zip(places, run(patches), strict=True):
            total[row : row + size, column : column + size] += weight * made
            weights[row : row + size, column : column + size] += weight
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isfinite(image), total / weights, np.nan).astype(np.float32)


def _batches(places: list[tuple[int, int]], batch: int) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(places), batch):
        yield places[first : first + batch]
