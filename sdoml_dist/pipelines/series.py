"""The life of one unit of irradiances: read the files that touch it, average to the slots, say what became of each."""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from sdoml_dist.pipelines.work import Work
from sdoml_dist.plan import Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.eve import minute_means
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.sources.base import FrameRecord, Source
from sdoml_dist.sources.eve_fits import EveSeries, read_eve

logger = logging.getLogger(__name__)

_LOOKAHEAD = 4


class SeriesPipeline:
    """Make units of numbers per slot from files that each hold many samples.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    source : Source
        Where files come from.
    """

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self.recipe, self.source = recipe, source
        self._span = np.timedelta64(recipe.contents.file_span_s, "s").astype("timedelta64[ns]")

    def process(self, unit: Unit, slots: np.ndarray) -> Work:
        """Process the given slots of a unit.

        Parameters
        ----------
        unit : Unit
            The unit.
        slots : numpy.ndarray
            Slots of the year to do, shape (frames,).
        """
        work = Work.empty(self.recipe, unit, slots.size)
        times = slot_times(unit.year, self.recipe.cadence)[slots]
        work.status[:] = int(FrameStatus.MISSING_NO_FRAME)
        work.texts = ["{}"] * slots.size
        rows_of = partial(self._rows, times)
        try:
            records = self._records(unit.bundle, times)
            self.source.stage(records)
        except FrameError as error:
            work.status[:] = int(error.status)
            work.texts = [_text(None, error.detail)] * slots.size
            work.note(f"{unit.bundle}: {error}")
            return work
        parts: list[EveSeries] = []
        began = time.perf_counter()
        with ThreadPoolExecutor(_LOOKAHEAD, thread_name_prefix="fetch") as pool:
            for record, outcome in zip(records, pool.map(self._read, records), strict=True):
                rows = rows_of(record)
                if isinstance(outcome, FrameError):
                    work.status[rows] = int(outcome.status)
                    detail = outcome.detail
                    if outcome.status.outcome == "failed":
                        work.note(f"{unit.bundle} {record.time}: {outcome}")
                else:
                    series, size = outcome
                    work.status[rows] = int(FrameStatus.MISSING_NO_SAMPLE)
                    work.read_bytes += size
                    parts.append(series)
                    detail = ""
                work.keywords["SOURCE_ID"][rows] = record.source_id
                for row in rows:
                    work.texts[row] = _text(record.locator, detail)
        read = time.perf_counter()
        if parts:
            self._average(work, parts, times, slots - unit.shard * self.recipe.shard_slots)
        # Files are decoded by the threads that fetch them.
        work.spend("source", read - began)
        work.spend("compute", time.perf_counter() - read)
        return work

    def chosen(self, unit: Unit, slots: np.ndarray) -> np.ndarray:
        """Return the SOURCE_ID that each slot would get now, shape (frames,)."""
        times = slot_times(unit.year, self.recipe.cadence)[slots]
        found = np.full(slots.size, -1, np.int64)
        for record in self._records(unit.bundle, times):
            found[self._rows(times, record)] = record.source_id
        return found

    def _records(self, bundle: str, times: np.ndarray) -> list[FrameRecord]:
        """Return the newest version of every file that can hold samples of the slots, in order of time."""
        found = self.source.candidates(bundle, times.min() - self._span, times.max() + np.timedelta64(60, "s"))
        latest = {record.time: record for record in found}
        return [record for record in latest.values() if self._rows(times, record).size]

    def _rows(self, times: np.ndarray, record: FrameRecord) -> np.ndarray:
        """Return the rows whose slots lie in a file."""
        return np.flatnonzero((times >= record.time) & (times < record.time + self._span))

    def _read(self, record: FrameRecord) -> tuple[EveSeries, int] | FrameError:
        try:
            data = self.source.fetch(record)
            return read_eve(data, record.locator.rsplit("/", 1)[-1]), len(data)
        except FrameError as error:
            return error
        except Exception as error:
            logger.exception("unexpected error in %s", record.locator)
            return FrameError(FrameStatus.FAILED_UNEXPECTED, f"{type(error).__name__}: {error}")

    def _names(self, channel: str) -> tuple[str, ...]:
        """Return what files may call a channel."""
        return self.recipe.contents.channels[channel].source_names or (channel,)

    def _average(self, work: Work, parts: list[EveSeries], times: np.ndarray, rows: np.ndarray) -> None:
        """Average the samples of all files; a slot may take samples from two."""
        when = np.concatenate([part.times for part in parts])
        flags = np.concatenate([np.asarray(part.flags, np.int64) for part in parts])
        spacecraft = np.concatenate([np.asarray(part.sc_flags, np.int64) for part in parts])
        columns = []
        for part in parts:
            place = {name: index for index, name in enumerate(part.names)}
            absent = np.full(part.times.size, np.nan)
            found = [
                next((place[name] for name in self._names(channel) if name in place), None) for channel in work.channels
            ]
            columns.append(np.stack([absent if index is None else part.values[:, index] for index in found], axis=1))
        values = np.concatenate(columns)
        means, counts, joined = minute_means(when, values, flags, times)
        _, _, joined_spacecraft = minute_means(when, values[:, :1], spacecraft, times)
        good = counts > 0
        work.status[good] = int(FrameStatus.OK)
        for index, name in enumerate(work.channels):
            work.values[name][rows] = means[:, index]
        work.keywords["SAMPLES"][:] = counts
        work.keywords["FLAGS"][:] = joined[:, None]
        work.keywords["SC_FLAGS"][:] = joined_spacecraft[:, None]


def _text(source: str | None, detail: str) -> str:
    """Write a slot's record as JSON."""
    data = {"source": source} | ({"detail": detail} if detail else {})
    return json.dumps(data, separators=(",", ":"))
