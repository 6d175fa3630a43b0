"""Which slots look alike: exact nearest neighbours of latents, block by block.

Shapes: N latents, M queries, Z numbers each, B rows of a block, k neighbours.

A block X (B, Z) and the queries Q (M, Z) give all distances by one product of float32 matrices::

    euclidean   d^2 = |x|^2 + |q|^2 - 2 x.q
    cosine      d   = 1 - x.q / (|x| |q|)

Rounding makes such distances wrong by a known amount at most: a sum of n products of float32 numbers is off by less than
gamma_n |x| |q| with gamma_n = n u / (1 - n u), u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed.,
eq. 3.5). Rows that may be among the k nearest within that margin, usually few more than k, get their distance once more from
differences in float64. So the result is that of a search in float64 at the price of one in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from sdoml_dist.errors import UsageError
from sdoml_dist.recipe_base import parse_duration
from sdoml_dist.store.catalog import Catalog, parse_moment

Metric = Literal["euclidean", "cosine"]

_NOTHING = np.datetime64("NaT", "ns")
# Distances of a block to some queries at once: 64 MiB of float32.
_MOST_DISTANCES = 2**24
# Rows whose exact distances are computed at once: 16 MiB of float64 differences.
_MOST_NUMBERS = 2**21
# float32 squares below this have lost digits to underflow, so they say nothing about the margin.
_LEAST_SQUARE = np.float32(1e-30)
# Above it sums of squares could overflow.
_MOST_SQUARE = np.float32(1e37)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """What a search found; rows are queries, columns neighbours from near to far.

    Attributes
    ----------
    times : numpy.ndarray
        Slots, ``datetime64[ns]`` UTC, shape (M, k); NaT where there are fewer than k.
    distances : numpy.ndarray
        float64, shape (M, k); inf where there are fewer.
    query_times : numpy.ndarray
        Slots that were asked about, shape (M,); NaT for a vector.
    """

    times: np.ndarray
    distances: np.ndarray
    query_times: np.ndarray

    def to_pandas(self) -> pd.DataFrame:
        """Return columns ``query``, ``query_time``, ``rank`` (from 1), ``time``, ``distance``: a row per neighbour."""
        query, rank = np.nonzero(~np.isnat(self.times))
        return pd.DataFrame({
            "query": query, "query_time": self.query_times[query], "rank": rank + 1, "time": self.times[query, rank],
            "distance": self.distances[query, rank],
        })  # fmt: skip


def similar(
    catalog: Catalog, query: Any, k: int = 20, *, metric: Metric = "euclidean", exclude_within: str | int | None = "0s",
    block_rows: int = 65_536,
) -> Neighbours:  # fmt: skip
    """Find the slots whose latents are nearest to those of some slots, or to some vectors.

    Parameters
    ----------
    catalog : Catalog
        Where to search: the stretch that was opened, and a slot that is asked about must be in it.
    query : time, sequence of times, or numpy.ndarray
        Times (text, datetime64, timestamp; UTC): the nearest slot with a latent is taken, at most half the usual step of the
        catalog away. Or vectors of numbers, shape (Z,) or (M, Z).
    k : int
        Number of neighbours.
    metric : {"euclidean", "cosine"}
        Distance. The cosine one of a latent that is all zeros is 1.
    exclude_within : str or int, optional
        Slots at most this far from the slot asked about are left out, for example ``"27d"``; ``"0s"`` leaves out just that
        slot, None nothing. Vectors have no time, so nothing is left out for them.
    block_rows : int
        B.

    Returns
    -------
    Neighbours
        From near to far, of equal distances the earlier slot first.

    Raises
    ------
    UsageError
        If a query is none, or no slot is near its time.

    Notes
    -----
    In memory at once: the block as float32, ``4 B Z`` bytes; what is read of files, a few row groups of 4 MiB and at most one
    file's piece of B rows; 64 MiB for distances; ``16 M (Z + k)`` bytes for queries and results; and,
    to find the slot of a time, 17 bytes per slot of the catalog. The latents never are, however many they be.
    """
    if k < 1 or block_rows < 1:
        raise UsageError(f"k and block_rows are at least 1, not {k} and {block_rows}.")
    if metric not in get_args(Metric):
        raise UsageError(f"There is no metric {metric!r}; there are {', '.join(get_args(Metric))}.")
    vectors, times = _queries(catalog, query)
    reach = None
    if exclude_within is not None:
        try:
            reach = np.timedelta64(parse_duration(exclude_within), "s").astype("timedelta64[ns]")
        except ValueError as error:
            raise UsageError(f"exclude_within: {error}") from None
        if reach and np.isnat(times).any():
            raise UsageError("A vector has no time around which slots could be left out.", "", "Ask about a time.")
    return nearest(
        catalog.blocks(block_rows),
        vectors,
        k,
        metric=metric,
        query_times=times,
        exclude_within=reach,
        block_rows=block_rows,
    )


def _queries(catalog: Catalog, query: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of queries, shape (M, Z), and their slots."""
    values = np.asarray(query)
    if not values.size:
        raise UsageError("Nothing is asked about.")
    if values.ndim and values.dtype.kind in "fiu":
        vectors = np.atleast_2d(values).astype(np.float64)
        if vectors.ndim != 2 or vectors.shape[1] != catalog.info.latent:
            raise UsageError(
                f"A query has {catalog.info.latent} numbers in this catalog; shape {values.shape} does not fit."
            )
        return vectors, np.full(len(vectors), _NOTHING)
    slots = _slots(catalog, np.array([parse_moment(value) for value in values.ravel()], dtype="datetime64[ns]"))
    found = np.empty((slots.size, catalog.info.latent))
    stretch = catalog.between(slots.min(), slots.max() + np.timedelta64(1, "ns"))
    for times, block in stretch.blocks():
        order = np.argsort(times)
        place = np.minimum(np.searchsorted(times, slots, sorter=order), times.size - 1)
        there = times[order[place]] == slots
        found[there] = block[order[place[there]]]
    return found, slots


def _slots(catalog: Catalog, moments: np.ndarray) -> np.ndarray:
    """Return the slots nearest to some times."""
    times = catalog.times
    if not times.size:
        raise UsageError(f"The catalog has no latent at {moments[0]}: it has none at all.")
    right = np.clip(np.searchsorted(times, moments), 0, times.size - 1)
    left = np.maximum(right - 1, 0)
    slots: np.ndarray = times[np.where(abs(times[left] - moments) <= abs(times[right] - moments), left, right)]
    step = np.median(np.diff(times)) if times.size > 1 else np.timedelta64(0, "ns")
    far = np.flatnonzero(~(2 * abs(slots - moments) <= step))
    if far.size:
        raise UsageError(
            f"The catalog has no latent at {moments[far[0]]}.",
            f"The nearest one is {slots[far[0]]}; there is one every {step.astype('timedelta64[s]').astype(int)} s.",
            "Ask about a slot that it has.",
        )
    return slots


def nearest(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], queries: np.ndarray, k: int, *, metric: Metric = "euclidean",
    query_times: np.ndarray | None = None, exclude_within: np.timedelta64 | None = None, block_rows: int = 65_536,
) -> Neighbours:  # fmt: skip
    """Search blocks of latents in memory; :func:`similar` does so in a catalog.

    Parameters
    ----------
    blocks : iterable of (numpy.ndarray, numpy.ndarray)
        Times ``datetime64[ns]``, shape (b,), and latents, shape (b, Z), float16 or float32, finite; b is any number.
    queries : numpy.ndarray
        Shape (M, Z).
    k : int
        Number of neighbours.
    metric : {"euclidean", "cosine"}
        Distance.
    query_times : numpy.ndarray, optional
        Slots of the queries, shape (M,), NaT for none.
    exclude_within : numpy.timedelta64, optional
        Leave out slots at most this far from that of the query.
    block_rows : int
        B: so many rows are gathered, whatever the size of the blocks given.

    Raises
    ------
    UsageError
        If a query is not finite, or has no direction for the cosine.
    """
    exact = np.asarray(queries, np.float64)
    if not np.isfinite(exact).all():
        raise UsageError("A query has numbers that are not finite.")
    if metric == "cosine":
        norms = np.sqrt((exact**2).sum(axis=1, keepdims=True))
        if not norms.all():
            raise UsageError("A vector of zeros has no direction.", "", "Use metric='euclidean'.")
        exact = exact / norms
    slots = np.full(len(exact), _NOTHING) if query_times is None else query_times
    best = np.full((len(exact), k), np.inf)
    best_times = np.full((len(exact), k), _NOTHING)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rough = exact.astype(np.float32)
        for times, values in _gathered(blocks, exact.shape[1], block_rows):
            squares = np.einsum("ij,ij->i", values, values)
            earliest, latest = times.min(), times.max()
            step = max(1, _MOST_DISTANCES // len(values))
            for start in range(0, len(exact), step):
                least, of_row, of_query = _bounds(values, squares, rough[start : start + step], metric)
                for row, low in enumerate(least, start):
                    slot = slots[row]
                    # Comparisons with NaT are false.
                    if exclude_within is not None and earliest - exclude_within <= slot <= latest + exclude_within:
                        low[np.abs(times - slot) <= exclude_within] = np.inf
                    chosen = _candidates(low, of_row, of_query[row - start], best[row, -1], k)
                    if chosen.size:
                        _merge(
                            best[row],
                            best_times[row],
                            exact_distances(values, chosen, exact[row], metric),
                            times[chosen],
                        )
    return Neighbours(best_times, np.sqrt(best) if metric == "euclidean" else best, slots)


def _gathered(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], size: int, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield blocks of `rows` rows as float32, the last one shorter; each is overwritten by the next.

    A catalog of many small files gives small blocks, and work per block and query is not small.
    """
    values, times = np.empty((rows, size), np.float32), np.empty(rows, "datetime64[ns]")
    used = 0
    for when, block in blocks:
        start = 0
        while start < len(when):
            taken = min(len(when) - start, rows - used)
            values[used : used + taken] = block[start : start + taken]
            times[used : used + taken] = when[start : start + taken]
            start, used = start + taken, used + taken
            if used == rows:
                yield times, values
                used = 0
    if used:
        yield times[:used], values[:used]


def _bounds(
    values: np.ndarray, squares: np.ndarray, queries: np.ndarray, metric: Metric
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what distances are at least, (M, B), and two terms, (B,) and (M,), of how much more they can be.

    Of euclidean distances the squares are meant.
    """
    terms = values.shape[1] + 8  # 8 more for roundings of the query, of norms and of sums
    gamma = 1.01 * terms * 2.0**-24 / (1 - terms * 2.0**-24)
    own = np.einsum("ij,ij->i", queries, queries)
    if not (squares.max() < _MOST_SQUARE and own.max() < _MOST_SQUARE):
        nothing = np.full((len(queries), len(values)), -_MOST_SQUARE, np.float32)
        return nothing, np.full(len(values), np.inf, np.float32), np.zeros(len(queries), np.float32)
    least = queries @ values.T
    if metric == "cosine":
        unsure = squares < _LEAST_SQUARE
        least /= -np.sqrt(np.maximum(squares, _LEAST_SQUARE))
        least += np.float32(1 - 3 * gamma)
        least[:, unsure] = -1
        of_row = np.where(unsure, np.float32(4), np.float32(6 * gamma))
        return least, of_row, np.zeros(len(queries), np.float32)
    # The error is a multiple of (|x| + |q|)^2, which is at most 2 (|x|^2 + |q|^2).
    least *= -2
    least += squares * np.float32(1 - 2 * gamma) - _LEAST_SQUARE
    least += (own * np.float32(1 - 2 * gamma))[:, None]
    return least, squares * np.float32(4 * gamma) + 2 * _LEAST_SQUARE, own * np.float32(4 * gamma)


def _candidates(least: np.ndarray, of_row: np.ndarray, of_query: np.floating, limit: float, k: int) -> np.ndarray:
    """Return the rows that may be as near as `limit`, and among the k nearest of their block."""
    # The limit is rounded up, so that no row at it is lost; rows that are left out are at inf, whatever it is.
    chosen = np.flatnonzero((least <= np.nextafter(np.float32(limit), np.float32(np.inf))) & (least < np.inf))
    if chosen.size > 4 * k:
        low = least[chosen]
        chosen = chosen[low <= np.partition(low + of_row[chosen] + of_query, k - 1)[k - 1]]
    return chosen


def _merge(best: np.ndarray, best_times: np.ndarray, found: np.ndarray, times: np.ndarray) -> None:
    """Bring rows of a block into the best of one query, in place."""
    found, when = np.append(best, found), np.append(best_times, times)
    # NaT sorts last, and only stands where the distance is inf.
    order = np.lexsort((when, found))[: best.size]
    best[:], best_times[:] = found[order], when[order]


def exact_distances(values: np.ndarray, rows: np.ndarray, query: np.ndarray, metric: Metric) -> np.ndarray:
    """Return distances of some rows in float64, of euclidean ones the squares; for the cosine the query has length 1."""
    found = np.empty(rows.size)
    step = max(1, _MOST_NUMBERS // values.shape[1])
    for start in range(0, rows.size, step):
        wide = values[rows[start : start + step]].astype(np.float64)
        if metric == "euclidean":
            found[start : start + step] = ((wide - query) ** 2).sum(axis=1)
        else:
            norms = np.sqrt((wide**2).sum(axis=1))
            cosine = (wide * query).sum(axis=1) / np.where(norms, norms, 1)
            # Of the same direction, rounding may give a little more than 1.
            found[start : start + step] = np.maximum(1 - cosine, 0)
    return found
