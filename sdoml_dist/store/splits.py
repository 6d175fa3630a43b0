"""Deterministic splits of time into training, validation and test, and statistics over a part.

Frames some minutes apart are near copies of each other, and an active region lives for weeks: a random split of frames
leaks. Both splits here cut time into stretches; a split depends on the times alone, so that adding frames or channels
never moves one from training to test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sdoml_dist.errors import UsageError
from sdoml_dist.plan import Plan
from sdoml_dist.recipe_base import parse_duration
from sdoml_dist.solar.times import slot_times
from sdoml_dist.store.finalise import LEVELS, channel_statistics
from sdoml_dist.store.reader import open_products

NONE = ""
"""Label of times that belong to no part: gaps between blocks, months that are left out."""

PUBLISHED_MONTHS: dict[str, dict[str, tuple[int, ...]]] = {
    "virtual-eve": {"train": (4, 5, 6, 7, 8, 9), "validation": (2, 3), "test": (11, 12), "holdout": (1, 10)},
    "autocalibration": {"train": (1, 2, 3, 4, 5, 6, 7), "test": (8, 9, 10), "holdout": (11, 12)},
}
"""Months of the year by part, as published: the virtual EVE of FDL-X 2023 and SDO-FM (train April to September), and the
autocalibration of Dos Santos et al. 2021 (Astronomy & Astrophysics 648, A53)."""


def month_split(times: np.ndarray, months: str | Mapping[str, tuple[int, ...]] = "virtual-eve") -> np.ndarray:
    """Split by month of the year.

    Parameters
    ----------
    times : numpy.ndarray
        ``datetime64`` UTC, shape (times,).
    months : str or mapping
        A name in `PUBLISHED_MONTHS`, or months 1 to 12 by part.

    Returns
    -------
    numpy.ndarray
        Label of each time, shape (times,), dtype object; `NONE` for months of no part.

    Raises
    ------
    UsageError
        If the name is unknown or a month is in two parts.
    """
    if isinstance(months, str):
        if months not in PUBLISHED_MONTHS:
            raise UsageError(f"There is no split {months!r}; there are {', '.join(PUBLISHED_MONTHS)}.")
        months = PUBLISHED_MONTHS[months]
    part = np.full(13, NONE, dtype=object)
    for name, members in months.items():
        for month in members:
            if not 1 <= month <= 12:
                raise UsageError(f"Month {month} of part {name!r} does not exist.")
            if part[month] != NONE:
                raise UsageError(f"Month {month} is in both {part[month]!r} and {name!r}.")
            part[month] = name
    month_of = times.astype("datetime64[M]").astype(np.int64) % 12 + 1
    labels: np.ndarray = part[month_of]
    return labels


def random_month_split(times: np.ndarray, counts: Mapping[str, int], *, rest: str = "train", seed: int = 0) -> np.ndarray:
    """Split by months that are drawn anew for every year.

    Parameters
    ----------
    times : numpy.ndarray
        ``datetime64`` UTC, shape (times,).
    counts : mapping of str to int
        Months of each year by part.
    rest : str
        Part of all other months.
    seed : int
        Another seed draws other months.

    Returns
    -------
    numpy.ndarray
        Label of each time, shape (times,), dtype object. The label of a time depends on nothing else.

    Raises
    ------
    UsageError
        If the parts take all months, or a negative number of them.
    """
    if min(counts.values(), default=0) < 0 or sum(counts.values()) >= 12:
        raise UsageError(f"Of 12 months a year, {dict(counts)} cannot be taken and some be left for {rest!r}.")
    months = times.astype("datetime64[M]").astype(np.int64)
    labels: np.ndarray = np.full(times.shape, rest, dtype=object)
    for year in np.unique(months // 12):
        order = np.random.default_rng([seed, int(year) + 1970]).permutation(12)
        first = 0
        for name, number in counts.items():
            chosen = (months // 12 == year) & np.isin(months % 12, order[first : first + number])
            labels[chosen] = name
            first += number
    return labels


def block_split(
    times: np.ndarray, fractions: Mapping[str, float], *, block: str | int = "28d", gap: str | int = "2d", seed: int = 0
) -> np.ndarray:
    """Split by blocks of time with gaps between them.

    Parameters
    ----------
    times : numpy.ndarray
        ``datetime64`` UTC, shape (times,).
    fractions : mapping of str to float
        Share of the blocks by part; they add up to 1.
    block, gap : str or int
        Length of a block, and how much at its end belongs to no part. Blocks are counted from 2010-01-01.
    seed : int
        Another seed gives another assignment of blocks to parts.

    Returns
    -------
    numpy.ndarray
        Label of each time, shape (times,), dtype object; `NONE` in gaps. The label of a time depends on nothing else.

    Raises
    ------
    UsageError
        If the fractions do not add up to 1 or the gap is not shorter than the block.
    """
    length, pause = parse_duration(block), parse_duration(gap)
    if not 0 <= pause < length:
        raise UsageError(f"A gap of {pause} s does not fit into a block of {length} s.")
    if abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) < 0:
        raise UsageError(f"The fractions {dict(fractions)} do not add up to 1.")
    names, limits = list(fractions), np.cumsum(list(fractions.values()))
    away = ((times - np.datetime64("2010-01-01")) / np.timedelta64(1, "s")).astype(np.int64)
    number, inside = np.divmod(away, length)
    unique, inverse = np.unique(number, return_inverse=True)
    dice = [int(hashlib.sha256(f"{seed}|{value}".encode()).hexdigest()[:13], 16) / 16**13 for value in unique]
    chosen = np.array(
        [names[min(int(np.searchsorted(limits, value, side="right")), len(names) - 1)] for value in dice], object
    )
    labels: np.ndarray = np.where(inside < length - pause, chosen[inverse], NONE)
    return labels


def statistics(
    url: Any, version: str | None = None, *, months: tuple[int, ...] | None = None, period: tuple[str, str] | None = None,
    labels: Any = None, part: str = "train", product: str | None = None, **options: Any,
) -> pd.DataFrame:  # fmt: skip
    """Return statistics of every channel over a part of the times, for example over training alone.

    Nothing is read but the moments and histograms of the frames.

    Parameters
    ----------
    url, version, product, **options
        As in :func:`sdoml_dist.open_dataset`.
    months : tuple of int, optional
        Months of the year, 1 to 12.
    period : tuple of str, optional
        Start and end (exclusive), UTC.
    labels : callable, optional
        From times to labels, for example ``lambda times: month_split(times)``; those equal to `part` count.
    part : str
        Which label.

    Returns
    -------
    pandas.DataFrame
        Indexed by channel: count (valid pixels, or samples), mean, std, minimum, maximum, and one column per quantile.
    """
    tables = []
    for opened in open_products(url, version, product=product, **options):
        plan, wanted = Plan(opened.recipe), {}
        for year, (start, stop) in plan.years().items():
            times = slot_times(year, opened.recipe.cadence, start, stop)
            chosen = np.ones(times.size, bool)
            if months is not None:
                chosen &= np.isin(times.astype("datetime64[M]").astype(np.int64) % 12 + 1, months)
            if period is not None:
                low, high = (np.datetime64(text, "ns") for text in period)
                chosen &= (times >= low) & (times < high)
            if labels is not None:
                chosen &= labels(times) == part
            wanted[year] = chosen
        found = channel_statistics(opened.group, plan.years(), opened.recipe.channels, wanted)
        quantile = found.pop("quantile")
        table = pd.DataFrame(found, index=pd.Index(opened.recipe.channels, name="channel"))
        for index, level in enumerate(LEVELS):
            table[f"q{level:g}"] = quantile[:, index]
        tables.append(table)
    return pd.concat(tables)
