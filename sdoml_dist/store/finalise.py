"""Per-channel statistics of the whole dataset, computed in a fixed order so that they do not depend on the run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import zarr

from sdoml_dist.store.dataset import Dataset
from sdoml_dist.store.statistics import BINS, merge_moments, quantiles
from sdoml_dist.store.template import group_path

LEVELS = (0.0001, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 0.9999)
PATH = "aia/statistics"
_THREADS = 8


def channel_statistics(
    root: zarr.Group,
    years: dict[int, tuple[int, int]],
    channels: tuple[str, ...],
    wanted: dict[int, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Return statistics per channel over some slots.

    Parameters
    ----------
    root : zarr.Group
        Root of a dataset.
    years : dict of int to tuple of int
        Slots [start, stop) per year.
    channels : tuple of str
        Channels in the order of the dataset.
    wanted : dict of int to numpy.ndarray, optional
        Per year, which of these slots count: boolean, shape (stop - start,). By default all.

    Returns
    -------
    dict of str to numpy.ndarray
        ``count``, ``mean``, ``std``, ``minimum``, ``maximum`` of shape (channels,) and ``quantile`` of shape (channels,
        levels), with the levels in `LEVELS`.
    """
    tables: dict[str, list[np.ndarray]] = {name: [] for name in ("count", "mean", "variance", "minimum", "maximum")}
    histogram = np.zeros((len(channels), BINS), dtype=np.int64)
    with ThreadPoolExecutor(_THREADS) as pool:
        for year, (start, stop) in sorted(years.items()):
            chosen = slice(None) if wanted is None else wanted[year]
            group = root[group_path(year)]
            for name, parts in tables.items():
                parts.append(np.asarray(group[f"moments/{name}"][start:stop])[chosen])
            counts = pool.map(lambda name, g=group, a=start, b=stop: np.asarray(g[f"histogram/{name}"][a:b]), channels)
            for index, values in enumerate(counts):
                histogram[index] += values[chosen].sum(axis=0, dtype=np.int64)
    joined = {name: np.concatenate(parts) for name, parts in tables.items()}
    merged = [
        merge_moments(joined["count"][:, i], joined["mean"][:, i], joined["variance"][:, i])
        for i in range(len(channels))
    ]
    used = joined["count"] > 0
    return {
        "count": np.array([count for count, _, _ in merged], dtype=np.int64),
        "mean": np.array([mean for _, mean, _ in merged]),
        "std": np.sqrt(np.array([variance for _, _, variance in merged])),
        "minimum": np.where(used, joined["minimum"], np.inf).min(axis=0, initial=np.inf),
        "maximum": np.where(used, joined["maximum"], -np.inf).max(axis=0, initial=-np.inf),
        "quantile": np.stack([quantiles(row, np.array(LEVELS)) for row in histogram]),
    }


def finalise(dataset: Dataset) -> None:
    """Write the statistics of the whole dataset, if they have changed, and commit them."""
    plan = dataset.plan
    channels = plan.recipe.channels
    with dataset.writing("statistics") as root:
        values = channel_statistics(root, plan.years(), channels)
        if PATH not in root:
            group = root.create_group(PATH)
            for name, array in values.items():
                names = ("channel", "level")[: array.ndim]
                group.create_array(
                    name, shape=array.shape, chunks=array.shape, dtype=array.dtype, dimension_names=names
                )
            group.create_array(
                "level", shape=(len(LEVELS),), chunks=(len(LEVELS),), dtype="f8", dimension_names=("level",)
            )
            group["level"][:] = np.array(LEVELS)
            label = group.create_array("channel", shape=(len(channels),), chunks=(len(channels),), dtype="string",
                                       dimension_names=("channel",))  # fmt: skip
            label[:] = np.array(channels, dtype=object)
        for name, array in values.items():
            stored = root[f"{PATH}/{name}"]
            assert isinstance(stored, zarr.Array)
            if not np.array_equal(np.asarray(stored[...]), array, equal_nan=True):
                stored[...] = array
