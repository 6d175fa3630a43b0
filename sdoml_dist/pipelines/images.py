"""The life of one unit of images: choose, fetch, check, calibrate, describe."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from sdoml_dist.pipelines.frames import Frame, chosen_frames, fetch_all, frames
from sdoml_dist.pipelines.tables import load_tables
from sdoml_dist.pipelines.work import Work
from sdoml_dist.plan import Unit
from sdoml_dist.recipe import Recipe
from sdoml_dist.solar.calibrate import CalibratedFrame, calibrate
from sdoml_dist.solar.channels import AIA
from sdoml_dist.solar.hmi import calibrate_hmi
from sdoml_dist.solar.products import Bundle
from sdoml_dist.solar.times import slot_times
from sdoml_dist.sources.base import FrameRecord, Source
from sdoml_dist.sources.fits import read_fits


@dataclass
class Made:
    """What a frame has become: its header as far as it was read, the images, and how long decoding took."""

    header: dict[str, Any] = field(default_factory=dict)
    images: CalibratedFrame | None = None
    decode_s: float = 0.0

    def read(self, data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
        """Decode a FITS file, and count the time."""
        began = time.perf_counter()
        try:
            return read_fits(data)
        finally:
            self.decode_s += time.perf_counter() - began


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
        aia = self.recipe.product == "aia"
        asked = time.perf_counter()
        for row, frame in enumerate(
            frames(self.source, bundle.name, times, self.recipe.tolerance, fetch=self._fetch, eclipse_known=aia)
        ):
            came = time.perf_counter()
            made = Made()
            frame.use(partial(self._make, bundle, made))
            work.status[row] = int(frame.status)
            work.texts.append(_text(frame, made.header))
            work.read_bytes += frame.read_bytes
            if frame.record is not None:
                work.keywords["SOURCE_ID"][row] = frame.record.source_id
            if frame.status.outcome == "ok" and made.images is not None:
                images = made.images.image.reshape(len(bundle.channels), *made.images.image.shape[-2:])
                for column, image in enumerate(images):
                    work.store_image(row, column, slots[row] - first, image)
                work.store_keywords(row, made.images.keywords)
            elif frame.status.outcome == "failed":
                work.note(f"{unit.bundle} {times[row]}: {frame.status.label}: {frame.detail}")
            work.spend("source", came - asked)
            work.spend("decode", made.decode_s)
            asked = time.perf_counter()
            work.spend("calibrate", asked - came - made.decode_s)
        return work

    def chosen(self, unit: Unit, slots: np.ndarray) -> np.ndarray:
        """Return the SOURCE_ID that each slot would get now, shape (frames,)."""
        times = slot_times(unit.year, self.recipe.cadence)[slots]
        records = chosen_frames(self.source, unit.bundle, times, self.recipe.tolerance)
        return np.array([-1 if record is None else record.source_id for record in records], np.int64)

    def _fetch(self, record: FrameRecord) -> dict[str, bytes]:
        return fetch_all(self.source, record)

    def _make(self, bundle: Bundle, made: Made, frame: Frame) -> np.datetime64:
        if self.recipe.product == "aia":
            raw, made.header = made.read(frame.files["image"])
            made.images = calibrate(raw, made.header, AIA[bundle.name], self.settings, self.tables)
            return made.images.time
        segments = {}
        for name, content in frame.files.items():
            segments[name], header = made.read(content)
            # The keywords of a record are those of all its segments; only BUNIT, BLANK and the like differ.
            made.header = header if name == bundle.segments[0] else made.header or header
        vector = self.recipe.vector
        made.images = calibrate_hmi(
            segments, made.header, bundle, self.settings, disambiguation=vector.disambiguation,
            orientation=vector.orientation,
        )  # fmt: skip
        return made.images.time


def _text(frame: Frame, header: dict[str, Any]) -> str:
    """Write a frame's record as JSON."""
    data: dict[str, Any] = {"source": frame.record.locator if frame.record else None}
    if frame.detail:
        data["detail"] = frame.detail
    if header:
        data["header"] = header
    return json.dumps(data, default=str, separators=(",", ":"))
