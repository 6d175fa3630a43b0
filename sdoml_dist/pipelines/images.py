"""The life of one unit of images: choose, fetch, check, calibrate, describe."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdoml_dist.pipelines.tables import load_tables
from sdoml_dist.pipelines.work import Work
from sdoml_dist.plan import Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.calibrate import CalibratedFrame, calibrate
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.hmi import calibrate_hmi
from sdoml_dist.solar.products import Bundle
from sdoml_dist.solar.quality import in_eclipse
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.solar.times import slot_times
from sdoml_dist.sources.base import FrameRecord, Source
from sdoml_dist.sources.fits import read_fits
from sdoml_dist.store.statistics import MOMENTS, describe

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
    for record in sorted(candidates, key=lambda record: record.key):
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


class ImagePipeline:
    """Make units of images; made once per worker, with calibration tables loaded once.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    source : Source
        Where frames come from.
    """

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self.recipe, self.source = recipe, source
        self.tables = load_tables(recipe)
        self.settings = recipe.settings

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
        bundle = self.recipe.bundle(unit.bundle)
        times = slot_times(unit.year, self.recipe.cadence)[slots]
        first = unit.shard * self.recipe.shard_slots
        for row, outcome in enumerate(self._outcomes(bundle, times)):
            work.status[row] = int(outcome.status)
            work.texts.append(outcome.text())
            work.read_bytes += outcome.read_bytes
            if outcome.record is not None:
                work.keywords["SOURCE_ID"][row] = outcome.record.source_id
            if outcome.frame is not None:
                images = outcome.frame.image.reshape(len(bundle.channels), *outcome.frame.image.shape[-2:])
                for column, (name, image) in enumerate(zip(bundle.channels, images, strict=True)):
                    work.values[name][slots[row] - first] = image
                    values = describe(image, work.histograms[name][row])
                    for key, value in zip(MOMENTS, values, strict=True):
                        work.moments[key][row, column] = value
                work.store_keywords(row, outcome.frame.keywords)
            elif outcome.status.outcome == "failed":
                work.note(f"{unit.bundle} {times[row]}: {outcome.status.label}: {outcome.detail}")
        return work

    def chosen(self, unit: Unit, slots: np.ndarray) -> np.ndarray:
        """Return the SOURCE_ID that each slot would get now, shape (frames,)."""
        records = self._choose(unit.bundle, slot_times(unit.year, self.recipe.cadence)[slots])
        return np.array([-1 if record is None else record.source_id for record in records], np.int64)

    def _choose(self, bundle: str, times: np.ndarray) -> list[FrameRecord | None]:
        tolerance, margin = np.timedelta64(self.recipe.tolerance, "s"), np.timedelta64(1, "ns")
        candidates = self.source.candidates(bundle, times.min() - tolerance, times.max() + tolerance + margin)
        return choose_frames(candidates, times, self.recipe.tolerance)

    def _outcomes(self, bundle: Bundle, times: np.ndarray) -> Iterator[_Outcome]:
        """Yield one outcome per slot; bytes of the next frames are fetched while one is calibrated."""
        try:
            chosen = self._choose(bundle.name, times)
        except FrameError as error:
            for _ in times:
                yield _Outcome(error.status, detail=error.detail)
            return
        try:
            self.source.stage([record for record in chosen if record is not None and not record.quality])
        except FrameError as error:
            for record in chosen:
                if record is not None and not record.quality:
                    yield _Outcome(error.status, record, detail=error.detail)
                else:
                    yield self._outcome(bundle, record, None)
            return
        with ThreadPoolExecutor(_LOOKAHEAD, thread_name_prefix="fetch") as pool:
            fetched: dict[int, Future[dict[str, bytes]]] = {}
            for row, record in enumerate(chosen):
                for ahead in range(row, min(row + _LOOKAHEAD + 1, len(chosen))):
                    upcoming = chosen[ahead]
                    if upcoming is not None and ahead not in fetched and not upcoming.quality:
                        fetched[ahead] = pool.submit(self._fetch, upcoming)
                yield self._outcome(bundle, record, fetched.pop(row, None))

    def _outcome(self, bundle: Bundle, record: FrameRecord | None, data: Future[dict[str, bytes]] | None) -> _Outcome:
        """Turn one chosen frame into its outcome; nothing a frame holds can end the run."""
        if record is None:
            return _Outcome(FrameStatus.MISSING_NO_FRAME)
        outcome = _Outcome(FrameStatus.OK, record)
        try:
            if data is None:
                covered = self.recipe.product == "aia" and in_eclipse({"QUALITY": record.quality})
                status = FrameStatus.REJECTED_ECLIPSE if covered else FrameStatus.REJECTED_QUALITY
                raise FrameError(status, f"QUALITY is {record.quality:#010x} according to the source")
            files = data.result()
            outcome.read_bytes = sum(len(content) for content in files.values())
            frame = self._calibrate(bundle, files, outcome)
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

    def _fetch(self, record: FrameRecord) -> dict[str, bytes]:
        """Fetch the files of a record by the names of their segments."""
        return {name: self.source.fetch(part) for name, part in record.segments or (("image", record),)}

    def _calibrate(self, bundle: Bundle, files: dict[str, bytes], outcome: _Outcome) -> CalibratedFrame:
        if self.recipe.product == "aia":
            raw, outcome.header = read_fits(files["image"])
            return calibrate(raw, outcome.header, AIA[bundle.name], self.settings, self.tables)
        segments = {}
        for name, content in files.items():
            segments[name], header = read_fits(content)
            # The keywords of a record are those of all its segments; only BUNIT, BLANK and the like differ.
            outcome.header = header if name == bundle.segments[0] else outcome.header or header
        vector = self.recipe.vector
        return calibrate_hmi(
            segments, outcome.header, bundle, self.settings, disambiguation=vector.disambiguation,
            orientation=vector.orientation,
        )  # fmt: skip
