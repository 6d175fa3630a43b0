"""Splits of time and statistics over a part of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sdoml_dist
from sdoml_dist.errors import UsageError
from sdoml_dist.recipe import Recipe
from sdoml_dist.store.splits import NONE, PUBLISHED_MONTHS
from tests.test_build import built  # noqa: F401 - a fixture

HALVES = {"train": 0.7, "validation": 0.2, "test": 0.1}


def test_months_as_published() -> None:
    times = np.arange("2012-01", "2013-01", dtype="datetime64[M]").astype("datetime64[ns]")
    labels = sdoml_dist.month_split(times, "virtual-eve")
    expected = ["holdout", "validation", "validation", *["train"] * 6, "holdout", "test", "test"]
    assert labels.tolist() == expected
    assert sdoml_dist.month_split(times, {"train": (1,)}).tolist() == ["train", *[NONE] * 11]
    for months in PUBLISHED_MONTHS.values():
        assert sorted(month for members in months.values() for month in members) == list(range(1, 13))
    with pytest.raises(UsageError, match="both"):
        sdoml_dist.month_split(times, {"train": (1,), "test": (1,)})
    with pytest.raises(UsageError, match="no split"):
        sdoml_dist.month_split(times, "unknown")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.sampled_from([("7d", "1d"), ("28d", "2d"), ("1d", "0s")]), st.integers(0, 1000))
def test_blocks_keep_their_distance_and_depend_on_time_alone(seed: int, sizes: tuple[str, str], first: int) -> None:
    block, gap = sizes
    times = np.datetime64("2010-05-01", "ns") + np.arange(first, first + 3000) * np.timedelta64(6, "h")
    labels = sdoml_dist.block_split(times, HALVES, block=block, gap=gap, seed=seed)
    chosen = np.random.default_rng(seed).random(times.size) < 0.5
    again = sdoml_dist.block_split(times[chosen], HALVES, block=block, gap=gap, seed=seed)
    assert (again == labels[chosen]).all()
    used = labels != NONE
    days = int(gap.rstrip("ds"))
    assert used.mean() == pytest.approx(1 - days / int(block.rstrip("d")), abs=0.02)
    for part in HALVES:
        mine, others = times[labels == part], times[used & (labels != part)]
        if mine.size and others.size:
            place = np.searchsorted(others, mine).clip(1, others.size - 1)
            away = np.minimum(np.abs(others[place] - mine), np.abs(others[place - 1] - mine)).min()
            assert away > np.timedelta64(days, "D") if days else away > np.timedelta64(0, "s")


def test_blocks_have_their_shares() -> None:
    times = np.datetime64("2010-05-01", "ns") + np.arange(0, 365 * 15) * np.timedelta64(1, "D")
    labels = sdoml_dist.block_split(times, HALVES, block="7d", gap="0s")
    for part, share in HALVES.items():
        assert (labels == part).mean() == pytest.approx(share, abs=0.04)
    assert (labels != sdoml_dist.block_split(times, HALVES, block="7d", gap="0s", seed=1)).any()
    with pytest.raises(UsageError, match="add up"):
        sdoml_dist.block_split(times, {"train": 0.5})
    with pytest.raises(UsageError, match="does not fit"):
        sdoml_dist.block_split(times, HALVES, block="1d", gap="2d")


def test_statistics_of_training_are_those_of_its_frames(built: Recipe, ray_cluster: Any) -> None:  # noqa: F811
    url = built.store.url
    ds = sdoml_dist.open_dataset(url)
    middle = ds.time.values[10]
    table = sdoml_dist.statistics(url, labels=lambda times: np.where(times < middle, "train", "test"))
    pixels = ds["171A"].values[:10]
    assert table.loc["171A", "mean"] == pytest.approx(np.nanmean(pixels, dtype=float), rel=1e-6)
    assert table.loc["171A", "std"] == pytest.approx(np.nanstd(pixels, dtype=float), rel=1e-5)
    assert table.loc["171A", "maximum"] == np.nanmax(pixels)
    assert table.loc["171A", "count"] == np.isfinite(pixels).sum()
    assert table.loc["171A", "q0.5"] == pytest.approx(np.nanmedian(pixels), rel=0.06)
    whole = sdoml_dist.statistics(url)
    assert whole.loc["171A", "count"] == np.isfinite(ds["171A"].values).sum()
    assert sdoml_dist.statistics(url, months=(7,)).loc["171A", "count"] == 0
    period = (str(ds.time.values[0]), str(middle))
    assert sdoml_dist.statistics(url, period=period).equals(table)
