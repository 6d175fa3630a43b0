"""Nearest neighbours are those of a search in float64, whatever the blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdoml_dist.errors import UsageError
from sdoml_dist.store.catalog import Catalog, CatalogWriter, catalog_units, open_catalog
from sdoml_dist.store.catalog_schema import CatalogInfo
from sdoml_dist.store.similar import Metric, nearest, similar


def slots(count: int) -> np.ndarray:
    return np.datetime64("2011-02-15", "ns") + np.arange(count) * np.timedelta64(720, "s")


def brute(values: np.ndarray, query: np.ndarray, metric: Metric) -> np.ndarray:
    """Return distances in float64, of euclidean ones the squares."""
    wide, query = values.astype(np.float64), query.astype(np.float64)
    distances: np.ndarray
    if metric == "euclidean":
        distances = ((wide - query) ** 2).sum(axis=1)
        return distances
    query = query / np.sqrt((query**2).sum())
    norms = np.sqrt((wide**2).sum(axis=1))
    distances = np.maximum(1 - (wide * query).sum(axis=1) / np.where(norms, norms, 1), 0)
    return distances


def cut(values: np.ndarray, times: np.ndarray, rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(times[start : start + rows], values[start : start + rows]) for start in range(0, len(values), rows)]


def compare(values: np.ndarray, queries: np.ndarray, k: int, metric: Metric, seed: int, rows: int, block: int) -> None:
    times = np.random.default_rng(seed).permutation(slots(len(values)))
    found = nearest(cut(values, times, rows), queries, k, metric=metric, block_rows=block)
    for row, query in enumerate(queries):
        distances = brute(values, query, metric)
        order = np.lexsort((times, distances))[:k]
        np.testing.assert_array_equal(found.times[row, : order.size], times[order])
        expected = np.sqrt(distances[order]) if metric == "euclidean" else distances[order]
        np.testing.assert_array_equal(found.distances[row, : order.size], expected)
        assert np.isnat(found.times[row, order.size :]).all()
        assert np.isinf(found.distances[row, order.size :]).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@settings(deadline=None, max_examples=120)
@given(st.data())
def test_as_brute_force(metric: Metric, data: st.DataObject) -> None:
    """Small whole numbers give many ties; float32 of any size tests the margin of rounding, with overflow and underflow."""
    size, count = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    whole = st.integers(-2, 2).map(float)
    wild = st.floats(width=32, allow_nan=False, allow_infinity=False)
    close = st.integers(0, 50).map(lambda step: float(np.float32(1000 + step * 2**-13)))
    elements = data.draw(st.sampled_from([whole, wild, close]))
    values = data.draw(hnp.arrays(np.float32, (count, size), elements=elements))
    queries = data.draw(hnp.arrays(np.float32, (2, size), elements=elements))
    if metric == "cosine":
        queries[~((queries.astype(np.float64) ** 2).sum(axis=1) > 0)] = 1
    k = data.draw(st.integers(1, 12))
    compare(values, queries, k, metric, count, data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_as_brute_force_in_many_dimensions(metric: Metric, dtype: str) -> None:
    """Far from the origin, float32 alone would not tell neighbours apart."""
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((3000, 64)) * 0.01 + 30).astype(dtype)
    queries = values[:7].astype(np.float64) + rng.standard_normal((7, 64)) * 1e-4
    compare(values, queries, 20, metric, 3, 701, 512)


def test_by_hand() -> None:
    """3-4-5: squares of distances from (0, 0) are 25, 1, 25, 0; the two of 25 come in the order of time."""
    values = np.array([[3, 4], [1, 0], [-4, 3], [0, 0]], np.float32)
    times = slots(4)[[2, 0, 1, 3]]
    found = nearest([(times, values)], np.zeros((1, 2)), 4)
    assert found.distances.tolist() == [[0, 1, 5, 5]]
    np.testing.assert_array_equal(found.times[0], slots(4)[[3, 0, 1, 2]])
    # Of (1, 0): angles of 53 degrees (cosine 0.6), 0, 143 (-0.8); zeros count as right angles.
    found = nearest([(times, values)], np.array([[2.0, 0.0]]), 4, metric="cosine")
    assert found.distances[0] == pytest.approx([0, 0.4, 1, 1.8])
    np.testing.assert_array_equal(found.times[0], slots(4)[[0, 2, 3, 1]])


def test_an_error_of_float32_does_not_decide() -> None:
    """|x|^2 + |q|^2 - 2 x.q in float32 gives 0 for all of these: 4096^2 has 24 bits already."""
    values = np.array([[4096 + step / 2048] for step in (5, 3, 1, 2, 4)], np.float32)
    found = nearest([(slots(5), values)], np.array([[4096.0]]), 3)
    np.testing.assert_array_equal(found.times[0], slots(5)[[2, 3, 1]])
    assert found.distances[0].tolist() == [1 / 2048, 2 / 2048, 3 / 2048]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """100 slots on a line, those divisible by 10 missing."""
    info = CatalogInfo(dataset="d", snapshot="s", channels=("171A",), checkpoint="c", model="m", latent=2)
    writer = CatalogWriter(str(tmp_path), info)
    writer.begin()
    times = slots(100)
    status = np.where(np.arange(100) % 10, 1, 10)
    for unit in catalog_units(times, 7):
        part = np.arange(unit.start, unit.stop)
        writer.write(unit.name, times[part], np.stack([part / 1, part / 1], axis=1), status=status[part])
    return open_catalog(str(tmp_path))


def test_around_a_time(catalog: Catalog) -> None:
    times = slots(100)
    found = similar(catalog, times[33], 4, block_rows=16)
    # 32 and 34 are as near as each other, so are 31 and 35.
    np.testing.assert_array_equal(found.times, times[[[32, 34, 31, 35]]])
    assert found.distances[0] == pytest.approx(np.sqrt(2) * np.array([1, 1, 2, 2]))
    np.testing.assert_array_equal(similar(catalog, times[33], 2, exclude_within=None).times, times[[[33, 32]]])
    # 720 s is the distance of slots: 32 and 34 are at it, so they are left out.
    np.testing.assert_array_equal(similar(catalog, times[33], 2, exclude_within="12min").times, times[[[31, 35]]])
    np.testing.assert_array_equal(similar(catalog, times[33], 2, exclude_within="24min").times, times[[[36, 29]]])


def test_queries(catalog: Catalog) -> None:
    times = slots(100)
    several: list[Any] = [
        times[[95, 3]], list(times[[95, 3]]), [str(times[95]), str(times[3])], pd.DatetimeIndex(times[[95, 3]]),
    ]  # fmt: skip
    for query in several:
        found = similar(catalog, query, 2)
        np.testing.assert_array_equal(found.query_times, times[[95, 3]])
        np.testing.assert_array_equal(found.times, times[[[94, 96], [2, 4]]])
    # 30 is missing; a moment a little later belongs to 31, as it would be nearest.
    near = times[31] - np.timedelta64(300, "s")
    np.testing.assert_array_equal(similar(catalog, str(near), 1).query_times, times[[31]])
    np.testing.assert_array_equal(similar(catalog, np.array([40.2, 40.2]), 1).times, times[[[41]]])
    vectors = np.array([[1.0, 1.0], [98.6, 98.6]])
    np.testing.assert_array_equal(similar(catalog, vectors, 1).times, times[[[1], [99]]])
    part = catalog.between(times[50], times[60])
    np.testing.assert_array_equal(similar(part, times[55], 99).times[0, :8], times[[54, 56, 53, 57, 52, 58, 51, 59]])
    assert np.isnat(similar(part, times[55], 99).times[0, 8:]).all()


def test_as_a_table(catalog: Catalog) -> None:
    times = slots(100)
    table = similar(catalog.between(times[51], times[54]), times[[52, 53]], 5).to_pandas()
    assert table["query"].tolist() == [0, 0, 1, 1]
    assert table["rank"].tolist() == [1, 2, 1, 2]
    assert table["time"].tolist() == [pd.Timestamp(times[index]) for index in (51, 53, 52, 51)]
    assert table["query_time"].tolist() == [pd.Timestamp(times[index]) for index in (52, 52, 53, 53)]


def test_block_size_changes_nothing(catalog: Catalog) -> None:
    whole = similar(catalog, slots(100)[::9][1:4], 30)
    for rows in (1, 8, 64):
        other = similar(catalog, slots(100)[::9][1:4], 30, block_rows=rows)
        np.testing.assert_array_equal(whole.times, other.times)
        np.testing.assert_array_equal(whole.distances, other.distances)


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("2011-02-15T00:12", {"k": 0}, "at least 1"),
        ("2011-02-15T00:12", {"metric": "manhattan"}, "no metric"),
        ("2011-02-15T00:12", {"exclude_within": "soon"}, "exclude_within"),
        ("2012-01-01", {}, "no latent at"),
        # Slot 10 is missing.
        ("2011-02-15T02:00", {}, "no latent at"),
        ([], {}, "Nothing is asked"),
        (np.zeros(3), {}, "2 numbers"),
        (np.zeros((1, 1, 2)), {}, "2 numbers"),
        (np.array([np.nan, 1]), {}, "not finite"),
        (np.zeros(2), {"metric": "cosine"}, "no direction"),
        (np.zeros(2), {"exclude_within": "1d"}, "no time"),
    ],
)
def test_what_cannot_be_asked(catalog: Catalog, query: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        similar(catalog, query, **options)


def test_an_empty_catalog(catalog: Catalog) -> None:
    nothing = catalog.between("2013-01-01", None)
    assert np.isnat(similar(nothing, np.ones(2), 3).times).all()
    with pytest.raises(UsageError, match="none at all"):
        similar(nothing, "2013-01-01")
