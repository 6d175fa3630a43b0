"""A mission in a few thousand numbers: outcomes per column of time, and curves that keep every extreme."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sdoml_dist.report.quicklook import best_slot
from sdoml_dist.report.view import DatasetView
from sdoml_dist.solar.status import FrameStatus

CODES = tuple(FrameStatus)
"""Status codes in the order of the last axis of `Digest.counts`."""
OUTCOMES = ("ok", "missing", "rejected", "failed", "pending")
_KEYWORDS = {"exposure": "keywords/EXPTIME", "degradation": "keywords/DEG_COR"}

_MOST_COLUMNS = 400
_MOST_POINTS = 1500
_MOST_FAILED = 10
_NS = "timedelta64[ns]"
_UNITS = {
    "hour": ("h", np.timedelta64(1, "h").astype(_NS)),
    "day": ("D", np.timedelta64(1, "D").astype(_NS)),
    "week": ("D", np.timedelta64(7, "D").astype(_NS)),
}


@dataclass
class Curves:
    """One quantity per channel against time; NaN is a gap.

    Attributes
    ----------
    time : numpy.ndarray
        ``datetime64[ns]``, shape (points, channels): channels may have their extremes at different times.
    value : numpy.ndarray
        Shape (points, channels).
    """

    time: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Failure:
    """The first frame that failed for one reason in one channel, and how many did."""

    time: np.datetime64
    channel: str
    code: FrameStatus
    frames: int
    detail: str
    source: str


@dataclass
class Digest:
    """What a report shows of the frames.

    Attributes
    ----------
    unit : str
        What a column of `counts` is: slot, hour, day, week or month.
    edges : numpy.ndarray
        Borders of the columns, ``datetime64[ns]``, shape (columns + 1,).
    counts : numpy.ndarray
        Frames by column, channel and code in `CODES`, shape (columns, channels, codes).
    curves : dict of str to Curves
        ``mean``, and ``exposure`` and ``degradation`` where the product has them.
    step : int
        Slots of which the curves keep the smallest and the largest value; 1 keeps all.
    sample : tuple of int
        Year and slot of the first slot with most frames.
    failed : list of Failure
        The first failed frame of each reason and channel, the most frequent first.
    """

    unit: str
    edges: np.ndarray
    counts: np.ndarray
    curves: dict[str, Curves]
    step: int
    sample: tuple[int, int]
    failed: list[Failure] = field(default_factory=list)

    def outcome(self, name: str) -> np.ndarray:
        """Return the frames of one outcome, shape (columns, channels)."""
        members = [index for index, code in enumerate(CODES) if code.outcome == name]
        summed: np.ndarray = self.counts[:, :, members].sum(axis=2)
        return summed


def column_edges(start: np.datetime64, end: np.datetime64, cadence_s: int) -> tuple[str, np.ndarray]:
    """Return the finest unit of time that gives a readable number of columns, and their borders."""
    step = np.timedelta64(cadence_s, "s").astype(_NS)
    span = end - start
    if span / step <= _MOST_COLUMNS:
        return "slot", np.append(np.arange(start, end, step), [end])
    for name, (code, width) in _UNITS.items():
        if span / width <= _MOST_COLUMNS:
            floor = start.astype(f"datetime64[{code}]").astype("datetime64[ns]")
            inner = np.arange(floor + width, end, width)
            return name, np.concatenate([[start], inner, [end]])
    inner = np.arange(start.astype("datetime64[M]") + 1, end, dtype="datetime64[M]").astype("datetime64[ns]")
    return "month", np.concatenate([[start], inner[inner < end], [end]])


def decimate(time: np.ndarray, value: np.ndarray, step: int) -> Curves:
    """Keep, of every `step` rows, the smallest and the largest value of each column, in order of time.

    Parameters
    ----------
    time : numpy.ndarray
        Shape (rows,).
    value : numpy.ndarray
        Shape (rows, columns), NaN = no data.
    step : int
        Rows per block; 1 keeps all. A block without data gives NaN.

    Returns
    -------
    Curves
        Of shape (2 * blocks, columns).
    """
    if step == 1:
        return Curves(np.repeat(time[:, None], value.shape[1], axis=1), value)
    rows = -(-len(time) // step) * step
    padded = np.full((rows, value.shape[1]), np.nan)
    padded[: len(time)] = value
    blocks = padded.reshape(-1, step, value.shape[1])
    empty = np.isnan(blocks)
    both = np.stack([np.where(empty, np.inf, blocks).argmin(1), np.where(empty, -np.inf, blocks).argmax(1)], axis=1)
    both.sort(axis=1)
    values = np.take_along_axis(blocks, both, axis=1)
    index = np.arange(0, rows, step)[:, None, None] + both
    times = time[np.minimum(index, len(time) - 1)]
    return Curves(times.reshape(-1, value.shape[1]), values.reshape(-1, value.shape[1]))


def digest(view: DatasetView) -> Digest:
    """Read status, means, exposure times and degradation once, piece by piece, and sum them up."""
    unit, edges = column_edges(view.start, view.end, view.cadence_s)
    step = 1 if view.slots <= _MOST_POINTS else -(-view.slots * 2 // _MOST_POINTS)
    shape = (len(edges) - 1, len(view.channels), len(CODES))
    index_of = np.zeros(256, dtype=np.int64)
    index_of[[int(code) for code in CODES]] = np.arange(len(CODES))
    is_failed = np.zeros(256, dtype=bool)
    is_failed[[int(code) for code in CODES if code.outcome == "failed"]] = True
    counts = np.zeros(shape, dtype=np.int64)
    tables = {name: path for name, path in _KEYWORDS.items() if view.has(path)}
    parts: dict[str, list[Curves]] = {name: [] for name in ("mean", *tables)}
    most = -1
    result = Digest(unit, edges, counts, {}, step, (0, 0))
    first: dict[tuple[int, FrameStatus], tuple[np.datetime64, int, int]] = {}
    for year, start, stop in view.pieces(step):
        times = view.times(year, start, stop)
        status = view.table("status", year, start, stop)
        column = np.searchsorted(edges, times, side="right") - 1
        key = (column[:, None] * shape[1] + np.arange(shape[1])) * shape[2] + index_of[status]
        counts += np.bincount(key.ravel(), minlength=counts.size).reshape(shape)
        ok = status == int(FrameStatus.OK)
        slot = best_slot(status)
        if (number := int(ok[slot].sum())) > most:
            most, result.sample = number, (year, start + slot)
        values = {name: view.table(path, year, start, stop) for name, path in tables.items()}
        values["mean"] = view.means(year, start, stop)
        for name, some in values.items():
            parts[name].append(decimate(times, np.where(ok, some, np.nan), step))
        rows, columns = np.nonzero(is_failed[status])
        kinds, at = np.unique(np.stack([columns, status[rows, columns]]), axis=1, return_index=True)
        for (index, code), row in zip(kinds.T.tolist(), rows[at].tolist(), strict=True):
            first.setdefault((index, FrameStatus(code)), (times[row], year, start + row))
    result.curves = {
        name: Curves(np.concatenate([p.time for p in some]), np.concatenate([p.value for p in some]))
        for name, some in parts.items()
    }
    result.failed = _failures(view, counts, first)
    return result


def _failures(
    view: DatasetView, counts: np.ndarray, first: dict[tuple[int, FrameStatus], tuple[np.datetime64, int, int]]
) -> list[Failure]:
    totals = counts.sum(axis=0)
    kinds = sorted(first, key=lambda kind: (-int(totals[kind[0], CODES.index(kind[1])]), kind))
    found = []
    for index, code in kinds[:_MOST_FAILED]:
        time, year, slot = first[index, code]
        record = view.record(year, slot, view.channels[index])
        told = str(record.get("detail") or ""), str(record.get("source") or "")
        found.append(Failure(time, view.channels[index], code, int(totals[index, CODES.index(code)]), *told))
    return found
