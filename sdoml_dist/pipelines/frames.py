"""The frames of a unit: choose the one nearest to each time, and fetch them ahead of the work."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from sdoml_dist.solar.quality import in_eclipse
from sdoml_dist.solar.status import FrameError, FrameStatus
from sdoml_dist.sources.base import FrameRecord, Source

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


def chosen_frames(source: Source, bundle: str, times: np.ndarray, tolerance_s: int) -> list[FrameRecord | None]:
    """Ask a source for the frames of a bundle, and choose one for each time, in order of time or not.

    Raises
    ------
    FrameError
        If the source cannot say what there is.
    """
    tolerance, margin = np.timedelta64(tolerance_s, "s"), np.timedelta64(1, "ns")
    candidates = source.candidates(bundle, times.min() - tolerance, times.max() + tolerance + margin)
    return choose_frames(candidates, times, tolerance_s)


@dataclass
class Frame:
    """What became of one time.

    Attributes
    ----------
    status : FrameStatus
        OK as long as nothing is known against the frame.
    record : FrameRecord or None
        The frame that was chosen.
    files : dict of str to bytes
        Its files by the names of their segments.
    detail : str
        What is wrong with it.
    """

    status: FrameStatus = FrameStatus.OK
    record: FrameRecord | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    detail: str = ""

    @property
    def read_bytes(self) -> int:
        """Bytes of the files."""
        return sum(len(content) for content in self.files.values())

    def use(self, work: Callable[[Frame], np.datetime64]) -> None:
        """Let some work look at the files and return the time that their header says; nothing a frame holds ends the run.

        Parameters
        ----------
        work : callable
            Raises :class:`FrameError` with the status of a frame that cannot be used. Not called for frames that cannot
            be used already.
        """
        if self.status is not FrameStatus.OK or self.record is None:
            return
        try:
            time = work(self)
            if abs(time - self.record.time) > _INDEX_TOLERANCE:
                raise FrameError(
                    FrameStatus.FAILED_TIME, f"the header says {time}, the source announced {self.record.time}"
                )
        except FrameError as error:
            self.status, self.detail = error.status, error.detail
        except Exception as error:
            logger.exception("unexpected error in %s", self.record.locator)
            self.status, self.detail = FrameStatus.FAILED_UNEXPECTED, f"{type(error).__name__}: {error}"


def frames(
    source: Source, bundle: str, times: np.ndarray, tolerance_s: int, *,
    fetch: Callable[[FrameRecord], dict[str, bytes]] | None = None, eclipse_known: bool = False,
) -> Iterator[Frame]:  # fmt: skip
    """Yield one frame per time, its files fetched while the ones before are worked on.

    Parameters
    ----------
    source : Source
        Where they come from.
    bundle : str
        Which.
    times : numpy.ndarray
        ``datetime64[ns]`` UTC, shape (frames,).
    tolerance_s : int
        Largest distance of a frame from its time, seconds.
    fetch : callable, optional
        Returns the files of a record; by default all of them.
    eclipse_known : bool
        Whether QUALITY tells eclipses, as AIA's does.
    """
    get = fetch or partial(fetch_all, source)
    try:
        chosen = chosen_frames(source, bundle, times, tolerance_s)
    except FrameError as error:
        for _ in times:
            yield Frame(error.status, detail=error.detail)
        return
    wanted = [record for record in chosen if record is not None and not record.quality]
    try:
        source.stage(wanted)
    except FrameError as error:
        for record in chosen:
            if record is not None and not record.quality:
                yield Frame(error.status, record, detail=error.detail)
            else:
                yield _without_files(record, eclipse_known)
        return
    with ThreadPoolExecutor(_LOOKAHEAD, thread_name_prefix="fetch") as pool:
        upcoming: dict[int, Future[dict[str, bytes]]] = {}
        for row, record in enumerate(chosen):
            for ahead in range(row, min(row + _LOOKAHEAD + 1, len(chosen))):
                other = chosen[ahead]
                if other is not None and not other.quality and ahead not in upcoming:
                    upcoming[ahead] = pool.submit(get, other)
            if record is None or row not in upcoming:
                yield _without_files(record, eclipse_known)
            else:
                yield _fetched(record, upcoming.pop(row))


def fetch_all(source: Source, record: FrameRecord) -> dict[str, bytes]:
    """Fetch the files of a record by the names of their segments."""
    return {name: source.fetch(part) for name, part in record.segments or (("image", record),)}


def _fetched(record: FrameRecord, files: Future[dict[str, bytes]]) -> Frame:
    try:
        return Frame(FrameStatus.OK, record, files.result())
    except FrameError as error:
        return Frame(error.status, record, detail=error.detail)
    except Exception as error:
        logger.exception("unexpected error while fetching %s", record.locator)
        return Frame(FrameStatus.FAILED_UNEXPECTED, record, detail=f"{type(error).__name__}: {error}")


def _without_files(record: FrameRecord | None, eclipse_known: bool) -> Frame:
    """Account for a time without a frame, or whose frame the source knows to be bad."""
    if record is None:
        return Frame(FrameStatus.MISSING_NO_FRAME)
    covered = eclipse_known and in_eclipse({"QUALITY": record.quality})
    status = FrameStatus.REJECTED_ECLIPSE if covered else FrameStatus.REJECTED_QUALITY
    return Frame(status, record, detail=f"QUALITY is {record.quality or 0:#010x} according to the source")
