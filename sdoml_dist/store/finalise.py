"""Per-channel statistics of a whole product, computed in a fixed order so that they do not depend on the run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import zarr

from sdoml_dist.store.dataset import Dataset
from sdoml_dist.store.statistics import BINS, merge_moments, quantiles
from sdoml_dist.store.template import group_path

LEVELS = (0.0001, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 0.9999)
PATH = "statistics"
_THREADS = 8


def channel_statistics(
    product: zarr.Group,
    years: dict[int, tuple[int, int]],
    channels: tuple[str, ...],
    wanted: dict[int, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Return statistics per channel over some slots.

    Parameters
    ----------
    product : zarr.Group
        Group of a product.
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
    if "moments" not in product[group_path(min(years))]:
        return _series_statistics(product, years, channels, wanted)
    tables: dict[str, list[np.ndarray]] = {name: [] for name in ("count", "mean", "variance", "minimum", "maximum")}
    histogram = np.zeros((len(channels), BINS), dtype=np.int64)
    with ThreadPoolExecutor(_THREADS) as pool:
        for year, (start, stop) in sorted(years.items()):
            chosen = slice(None) if wanted is None else wanted[year]
            group = product[group_path(year)]
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


def _series_statistics(
    product: zarr.Group,
    years: dict[int, tuple[int, int]],
    channels: tuple[str, ...],
    wanted: dict[int, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    """Return the statistics of channels that have a number per slot, exactly."""
    rows: dict[str, list[Any]] = {name: [] for name in ("count", "mean", "std", "minimum", "maximum", "quantile")}
    for name in channels:
        parts = []
        for year, (start, stop) in sorted(years.items()):
            values = np.asarray(product[f"{group_path(year)}/{name}"][start:stop], dtype=np.float64)
            parts.append(values if wanted is None else values[wanted[year]])
        joined = np.concatenate(parts)
        joined = joined[np.isfinite(joined)]
        rows["count"].append(joined.size)
        rows["mean"].append(joined.mean() if joined.size else np.nan)
        rows["std"].append(joined.std() if joined.size else np.nan)
        rows["minimum"].append(joined.min(initial=np.inf))
        rows["maximum"].append(joined.max(initial=-np.inf))
        rows["quantile"].append(np.quantile(joined, LEVELS) if joined.size else np.full(len(LEVELS), np.nan))
    return {name: np.array(values, dtype=np.int64 if name == "count" else np.float64) for name, values in rows.items()}


def finalise(dataset: Dataset) -> None:
    """Write the statistics of the whole product, if they have changed, and commit them."""
    plan = dataset.plan
    channels = plan.recipe.channels
    with dataset.writing(f"{plan.recipe.product}: statistics") as product:
        values = channel_statistics(product, plan.years(), channels)
        if PATH not in product:
            group = product.create_group(PATH)
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
            stored = product[f"{PATH}/{name}"]
            assert isinstance(stored, zarr.Array)
            if not np.array_equal(np.asarray(stored[...]), array, equal_nan=True):
                stored[...] = array
