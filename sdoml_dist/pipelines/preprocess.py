"""The life of one unit of AIA frames: choose, fetch, check, calibrate, describe, write."""

from __future__ import annotations

import json
import logging
import resource
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdoml_dist.pipelines.tables import load_tables
from sdoml_dist.plan import Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.calibrate import CalibratedFrame, calibrate
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.keywords import STORED
from sdoml_dist.solar.quality import in_eclipse
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.sources.base import FrameRecord, Source
from sdoml_dist.sources.fits import read_fits
from sdoml_dist.sources.make import make_source
from sdoml_dist.store.dataset import write_unit
from sdoml_dist.store.receipt import Receipt
from sdoml_dist.store.statistics import BINS, MOMENTS, describe
from sdoml_dist.store.template import NOT_A_TIME

logger = logging.getLogger(__name__)

# An index made of file names knows the minute of a frame, the header its mid-exposure: they differ by seconds. More
# than this means that index and header speak of different frames.
_INDEX_TOLERANCE = np.timedelta64(60, "s")
_LOOKAHEAD = 2


def choose_frames(candidates: list[FrameRecord], slots: np.ndarray, tolerance_s: int) -> list[FrameRecord | None]:
    """Choose for each slot the frame nearest in time.

    Parameters
    ----------
    candidates : list of FrameRecord
        In any order. Of frames with one time, the greatest version counts (then the last locator by name).
    slots : numpy.ndarray
        Slot times, ``datetime64[ns]`` UTC, shape (slots,).
    tolerance_s : int
        Largest distance in seconds.

    Returns
    -------
    list of FrameRecord or None
        One per slot; of two equally near frames the earlier one, and None where no frame is near enough.
    """
    latest: dict[np.datetime64, FrameRecord] = {}
    for record in sorted(candidates, key=lambda record: (record.time, record.version, record.locator)):
        latest[record.time] = record
    records = list(latest.values())
    if not records:
        return [None] * len(slots)
    times = np.array([record.time for record in records], dtype="datetime64[ns]").astype(np.int64)
    wanted = slots.astype("datetime64[ns]").astype(np.int64)
    after = np.searchsorted(times, wanted).clip(1, len(times) - 1) if len(times) > 1 else np.zeros(len(wanted), int)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(times[before] - wanted) <= np.abs(times[after] - wanted), before, after)
    near = np.abs(times[nearest] - wanted) <= tolerance_s * 1_000_000_000
    return [records[index] if close else None for index, close in zip(nearest, near, strict=True)]


@dataclass
class _Outcome:
    """What became of one slot."""

    status: FrameStatus
    record: FrameRecord | None = None
    frame: CalibratedFrame | None = None
    header: dict[str, Any] = field(default_factory=dict)
    detail: str = ""
    read_bytes: int = 0

    def text(self) -> str:
        """Write the frame's record as JSON."""
        data: dict[str, Any] = {"source": self.record.locator if self.record else None}
        if self.detail:
            data["detail"] = self.detail
        if self.header:
            data["header"] = self.header
        return json.dumps(data, default=str, separators=(",", ":"))


class Preprocessor:
    """Process units; made once per worker, with calibration tables and source opened once.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    fork_bytes : bytes
        Pickled fork of the driver's session.
    """

    def __init__(self, recipe: Recipe, fork_bytes: bytes) -> None:
        self.recipe, self.fork_bytes = recipe, fork_bytes
        self.source: Source = make_source(recipe)
        self.tables = load_tables(recipe)
        self.settings = recipe.settings

    def process(self, unit: Unit, slots: np.ndarray) -> Receipt:
        """Process the given slots of a unit, write its shard and return the receipt.

        Parameters
        ----------
        unit : Unit
            The unit.
        slots : numpy.ndarray
            Slots of the year to do, shape (frames,).
        """
        started, clock = time.time(), time.perf_counter()
        size, pixels = self.recipe.shard_slots, self.recipe.grid.pixels
        images = np.full((size, pixels, pixels), np.nan, dtype=np.float32)
        histograms = np.zeros((slots.size, BINS), dtype=np.uint32)
        status = np.zeros(slots.size, dtype=np.uint8)
        keywords = {name: np.full(slots.size, spec.fill, dtype=spec.dtype) for name, spec in STORED.items()}
        moments = {
            name: np.full(slots.size, np.nan if dtype[0] == "f" else 0, dtype) for name, (dtype, _) in MOMENTS.items()
        }
        texts: list[str] = []
        details: list[str] = []
        read_bytes = 0
        times = slot_times(unit.year, self.recipe.cadence)[slots]
        for row, outcome in enumerate(self._outcomes(unit.channel, times)):
            status[row] = int(outcome.status)
            texts.append(outcome.text())
            read_bytes += outcome.read_bytes
            if outcome.frame is not None:
                images[slots[row] - unit.shard * size] = outcome.frame.image
                values = describe(outcome.frame.image, histograms[row])
                for name, value in zip(MOMENTS, values, strict=True):
                    moments[name][row] = value
                _store_keywords(keywords, row, outcome.frame)
            elif outcome.status.outcome == "failed":
                details.append(f"{unit.channel} {times[row]}: {outcome.status.label}: {outcome.detail}")
        fork = write_unit(self.fork_bytes, unit, size, slots, images, texts, histograms)
        return Receipt(
            unit=unit, slots=slots, status=status, keywords=keywords, moments=moments, fork=fork, started=started,
            seconds=time.perf_counter() - clock, read_bytes=read_bytes, node=socket.gethostname(), details=details[:5],
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )  # fmt: skip

    def _outcomes(self, channel: str, times: np.ndarray) -> Any:
        """Yield one outcome per slot; bytes of the next frames are fetched while one is calibrated."""
        tolerance = np.timedelta64(self.recipe.tolerance, "s")
        margin = np.timedelta64(1, "ns")
        try:
            candidates = self.source.candidates(channel, times.min() - tolerance, times.max() + tolerance + margin)
        except FrameError as error:
            for _ in times:
                yield _Outcome(error.status, detail=error.detail)
            return
        chosen = choose_frames(candidates, times, self.recipe.tolerance)
        try:
            self.source.stage([record for record in chosen if record is not None and not record.quality])
        except FrameError as error:
            for record in chosen:
                if record is not None and not record.quality:
                    yield _Outcome(error.status, record, detail=error.detail)
                else:
                    yield self._outcome(channel, record, None)
            return
        with ThreadPoolExecutor(_LOOKAHEAD, thread_name_prefix="fetch") as pool:
            fetched: dict[int, Future[bytes]] = {}
            for row, record in enumerate(chosen):
                for ahead in range(row, min(row + _LOOKAHEAD + 1, len(chosen))):
                    upcoming = chosen[ahead]
                    if upcoming is not None and ahead not in fetched and not upcoming.quality:
                        fetched[ahead] = pool.submit(self.source.fetch, upcoming)
                yield self._outcome(channel, record, fetched.pop(row, None))

    def _outcome(self, channel: str, record: FrameRecord | None, data: Future[bytes] | None) -> _Outcome:
        """Turn one chosen frame into its outcome; nothing a frame holds can end the run."""
        if record is None:
            return _Outcome(FrameStatus.MISSING_NO_FRAME)
        outcome = _Outcome(FrameStatus.OK, record)
        try:
            if data is None:
                covered = in_eclipse({"QUALITY": record.quality})
                status = FrameStatus.REJECTED_ECLIPSE if covered else FrameStatus.REJECTED_QUALITY
                raise FrameError(status, f"QUALITY is {record.quality:#010x} according to the source")
            content = data.result()
            outcome.read_bytes = len(content)
            raw, outcome.header = read_fits(content)
            frame = calibrate(raw, outcome.header, AIA[channel], self.settings, self.tables)
            if abs(frame.time - record.time) > _INDEX_TOLERANCE:
                raise FrameError(
                    FrameStatus.FAILED_TIME, f"the header says {frame.time}, the source announced {record.time}"
                )
            outcome.frame = frame
        except FrameError as error:
            outcome.status, outcome.detail = error.status, error.detail
        except Exception as error:
            logger.exception("unexpected error in %s", record.locator)
            outcome.status, outcome.detail = FrameStatus.FAILED_UNEXPECTED, f"{type(error).__name__}: {error}"
        return outcome


def _store_keywords(columns: dict[str, np.ndarray], row: int, frame: CalibratedFrame) -> None:
    """Put a frame's keywords into the columns; times become nanoseconds since 1970 UTC."""
    for name, spec in STORED.items():
        value = frame.keywords.get(name)
        if value is None:
            continue
        if spec.is_time:
            columns[name][row] = NOT_A_TIME if np.isnat(value) else np.datetime64(value, "ns").astype(np.int64)
        else:
            columns[name][row] = value
