"""What every source of level-1 frames offers to the pipeline."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class FrameRecord:
    """One frame that a source can deliver.

    Attributes
    ----------
    channel : str
        Name of the bundle, for example ``"171A"`` or ``"B"``.
    time : numpy.datetime64
        Observation time in UTC, nanosecond unit (T_OBS where the source knows it, else the time in the file name).
    locator : str
        Where the bytes are: a path or URL, a JSOC record, ...
    size : int or None
        Number of bytes, where announced.
    checksum : str or None
        ``"sha256:..."`` or ``"md5:..."``, where announced.
    quality : int or None
        QUALITY, where the source knows it without reading the frame.
    version : str
        Grows with reprocessing (DATE or RECNUM): of two frames with one time the greater version is taken.
    segments : tuple of (str, FrameRecord)
        The files of a record that has several, by the names of their segments.
    state : str
        What changes with the bytes (size and time of change, ETag, JSOC's record number), where the source knows it.
    """

    channel: str
    time: np.datetime64
    locator: str
    size: int | None = None
    checksum: str | None = None
    quality: int | None = None
    version: str = ""
    segments: tuple[tuple[str, FrameRecord], ...] = ()
    state: str = ""

    @property
    def key(self) -> tuple[np.datetime64, str, str]:
        """What records are sorted by: time, then version, then locator."""
        return self.time, self.version, self.locator

    @property
    def source_id(self) -> int:
        """A number that changes with the place, the version and the state of the bytes; positive, 60 bits."""
        text = "|".join(str(part) for part in (self.locator, self.version, self.state, self.size, self.checksum))
        return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)


class Source(Protocol):
    """Where frames come from. Instances are cheap to make and travel to workers by pickle.

    Attributes
    ----------
    sees_changes : bool
        Whether listing the candidates tells which exist now and whether their bytes have changed.
    """

    sees_changes: bool

    def prepare(self, bundles: Sequence[str], start: np.datetime64, end: np.datetime64) -> None:
        """Do what has to be done once before workers start (for example build the index). Idempotent.

        Raises
        ------
        sdoml_dist.errors.EnvironmentFault
            If the source cannot be reached.
        """

    def candidates(self, bundle: str, start: np.datetime64, end: np.datetime64) -> list[FrameRecord]:
        """List the frames of a bundle with ``start <= time < end`` (UTC), sorted by time, then version."""

    def stage(self, records: Sequence[FrameRecord]) -> None:
        """Announce the frames that will be fetched, for sources that deliver many at once. Idempotent.

        Raises
        ------
        sdoml_dist.solar.status.FrameError
            FAILED_DOWNLOAD if none of them will come.
        """

    def fetch(self, record: FrameRecord) -> bytes:
        """Return the bytes of a frame, verified against its size and checksum.

        Raises
        ------
        sdoml_dist.solar.status.FrameError
            MISSING_AT_SOURCE, FAILED_DOWNLOAD or FAILED_CHECKSUM.
        """
