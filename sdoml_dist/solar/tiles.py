"""Maps of a tracked region as means over tiles, and the geometric baseline that SOLARED takes off them.

Definitions are those of the published processing (Kasapis et al. 2024, arXiv 2402.08890; NASA-IMPACT/SuryaBench,
ar_emergence): 9 x 9 tiles of a 512-pixel patch, and per column of tiles a baseline between the first and the last row.
"""

from __future__ import annotations

import numpy as np

GRID = 9
"""Tiles per axis."""


def tile_means(maps: np.ndarray, grid: int = GRID) -> np.ndarray:
    """Average maps over square tiles.

    Parameters
    ----------
    maps : numpy.ndarray
        Shape (..., y, x), with y and x at least `grid`. Tiles have ``size // grid`` pixels; what is left over at the end
        of an axis is not used (8 of 512 pixels).
    grid : int
        Tiles per axis.

    Returns
    -------
    numpy.ndarray
        Shape (..., grid * grid), row by row, float64; NaN pixels do not count, a tile without any is NaN.
    """
    rows, columns = (size // grid for size in maps.shape[-2:])
    used = maps[..., : rows * grid, : columns * grid].astype(np.float64)
    blocks = used.reshape(*maps.shape[:-2], grid, rows, grid, columns)
    valid = np.isfinite(blocks)
    count = valid.sum(axis=(-3, -1))
    total = np.where(valid, blocks, 0.0).sum(axis=(-3, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(count > 0, total / count, np.nan)
    flat: np.ndarray = means.reshape(*maps.shape[:-2], grid * grid)
    return flat


def baseline_weights(grid: int = GRID) -> np.ndarray:
    """Return how much of the last row's value the baseline of each row of tiles takes, shape (grid,).

    An even number of steps from 0 to 1, of which the two in the middle are replaced by one half: 0, 1/9, 2/9, 3/9, 1/2, 6/9,
    7/9, 8/9, 1 for nine rows, as published.

    Raises
    ------
    ValueError
        If the number of rows is even: there is no middle.
    """
    if grid % 2 == 0:
        raise ValueError(f"the baseline needs a middle row; {grid} rows have none")
    steps = np.linspace(0, 1, grid + 1)
    middle = grid // 2
    return np.concatenate([steps[:middle], [0.5], steps[middle + 2 :]])


def without_baseline(tiles: np.ndarray, grid: int = GRID) -> np.ndarray:
    """Take off each column of tiles the baseline between its first and its last row; both become 0.

    Parameters
    ----------
    tiles : numpy.ndarray
        Shape (..., grid * grid, time), row by row.
    grid : int
        Tiles per axis.

    Returns
    -------
    numpy.ndarray
        The same shape.
    """
    shaped = tiles.reshape(*tiles.shape[:-2], grid, grid, tiles.shape[-1])
    weight = baseline_weights(grid)[:, None, None]
    baseline = weight[::-1] * shaped[..., :1, :, :] + weight * shaped[..., -1:, :, :]
    difference: np.ndarray = (shaped - baseline).reshape(tiles.shape)
    return difference


def inner_tiles(grid: int = GRID) -> slice:
    """Return the tiles without the first and the last row, which the baseline makes 0: 9 to 71 of 81."""
    return slice(grid, grid * (grid - 1))
